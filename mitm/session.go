package mitm

import (
	"context"
	"io"
	"log"
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

// newServer returns the server of all guests. It serves HTTP/1, and HTTP/2 to who
// begins with its preface; guestConn sees to it that nobody does who shouldn't.
func (p *Proxy) newServer() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:                      http.HandlerFunc(p.serveRequest),
		Protocols:                    protocols,
		HTTP2:                        p.http2Limits(),
		ReadHeaderTimeout:            p.limits.Head,
		IdleTimeout:                  p.limits.Idle,
		MaxHeaderBytes:               p.limits.HeadBytes,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(io.Discard, "", 0), // it quotes guests
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, sessionKey{}, c.(*guestConn).session)
		},
	}
}

// http2Limits bounds what HTTP/2 holds in memory, on either leg.
func (p *Proxy) http2Limits() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          p.limits.Streams,
		StrictMaxConcurrentRequests:   true, // requests wait instead of opening connections
		MaxReceiveBufferPerConnection: p.limits.ConnBytes,
		MaxReceiveBufferPerStream:     p.limits.ConnBytes,
	}
}

// serveGuest answers the requests of one connection until it has ended.
func (p *Proxy) serveGuest(ctx context.Context, g *guestConn) {
	s := g.session
	s.guest = g
	s.client = &http1Client{session: s}
	if g.http2 {
		s.client = &http2Client{session: s}
	}
	defer g.Close()
	select {
	case p.guests.conns <- g:
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
