package mitm

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// A session is one HTTP connection of the guest's with what belongs to it: the
// flow, the name, the way to the upstream.
type session struct {
	p        *Proxy
	flow     Flow
	name     string // the SNI; "" without TLS, where each request has its own
	secure   bool   // inside TLS
	verified bool   // the upstream's certificate is checked against name
	// complaint is what every request is answered with; nil if the upstream can be
	// used.
	complaint *complaint

	upstream *upstream   // nil without TLS
	answered atomic.Bool // the upstream has sent a response
	conns    conns

	guest  *guestConn        // set before the first request, and
	client http.RoundTripper // the way to the upstream, of the version that guest speaks

	mu       sync.Mutex
	idle     *sync.Cond // handlers is 0; its lock is mu
	handlers int
}

// sessionKey is the key of a request's session in its context.
type sessionKey struct{}

// serveGuest answers the requests of one connection until it has ended.
func (p *Proxy) serveGuest(ctx context.Context, g *guestConn) {
	s := g.session
	s.guest = g
	t, ended := p.tierFor(g)
	defer ended()
	s.client = &http1Client{session: s}
	if g.http2 {
		s.client = &http2Client{session: s, transport: t.http2}
	}
	defer g.Close()
	select {
	case t.guests.conns <- g:
	case <-ctx.Done():
		return
	}
	<-g.closed
	s.wait()
}

// enter and leave count the handlers and other goroutines that use the session.
func (s *session) enter() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers++
}

func (s *session) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.handlers--; s.handlers == 0 && s.idle != nil {
		s.idle.Broadcast()
	}
}

// wait returns when none of them runs. The guest's connection is closed: their
// requests' contexts are done, and the upstream's connections are closed here.
func (s *session) wait() {
	s.conns.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = sync.NewCond(&s.mu)
	for s.handlers > 0 {
		s.idle.Wait()
	}
}

// end closes what the session has open.
func (s *session) end() { s.conns.close() }

// dial connects to the upstream, by TLS where the guest does.
func (s *session) dial(ctx context.Context) (net.Conn, error) {
	if s.secure {
		return s.upstream.take(ctx)
	}
	return s.conns.dial(ctx, s.flow)
}
