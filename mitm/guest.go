package mitm

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicenet/sluice/internal/sniff"
)

// A guestConn is the guest's leg of an HTTP connection, decrypted, as net/http's
// server reads it. In front of that lenient reader stands a strict one: of HTTP/1
// nothing passes that package sniff hasn't read as one well-framed request after
// the other, so that there is only one way to read what passes.
type guestConn struct {
	net.Conn
	session *session
	http2   bool

	// Owned by the reader. net/http has one at a time.
	requests *sniff.Requests // which bytes may pass; nil lets all pass
	owed     int             // bytes of a decided head that still have to pass
	pending  []byte          // read, not passed
	waited   time.Duration   // for the rest of pending, since bytes passed last
	allowed  int             // bytes at the beginning of pending that may pass
	refused  error           // what stops the reader behind them; nil while nothing does
	poisoned int             // bytes of poison that were read before refused

	broken atomic.Bool // refused is set; for Close, which doesn't wait for the reader
	once   sync.Once
	closed chan struct{} // closed by Close
}

// errMalformed is the error of a request that isn't strictly well-formed.
var errMalformed = errors.New("malformed request")

// poison is what the reader gets in place of the bytes that must not pass: no
// request, chunk or line can begin or go on with it. Only then comes the error.
// While net/http answers a request it reads one byte ahead, and before the next it
// waits for four; it would take an error there for the guest's end, and give up
// the request that it answers, or not answer the next.
const poison = "\x00\x00\x00\x00"

// newHTTP1Guest returns the connection of a guest that has begun with a flight of
// HTTP/1.
func newHTTP1Guest(c net.Conn, s *session, first flight) *guestConn {
	g := &guestConn{Conn: c, session: s, pending: first.bytes, closed: make(chan struct{})}
	if first.Kind == sniff.Malformed {
		g.refused = fmt.Errorf("%w: %s", errMalformed, first.Reason)
		g.pending = nil
		return g
	}
	var dst netip.Addr
	if !s.secure {
		dst = s.flow.Asked().Addr()
	}
	if first.Kind != sniff.Connect {
		g.requests = sniff.Follow(dst, first.Result)
		g.owed = first.Len
	}
	g.look()
	return g
}

// newHTTP2Guest returns the connection of a guest that has begun with the preface of
// HTTP/2, which c yields again. Its frames net/http itself reads strictly.
func newHTTP2Guest(c net.Conn, s *session) *guestConn {
	return &guestConn{Conn: c, session: s, http2: true, closed: make(chan struct{})}
}

// Read reads what may pass. A guest that breaks the form gets errMalformed, which
// net/http answers with 400.
func (g *guestConn) Read(p []byte) (int, error) {
	for {
		if g.allowed > 0 {
			g.waited = 0
			n := copy(p, g.pending[:g.allowed])
			g.allowed -= n
			if g.pending = g.pending[n:]; len(g.pending) == 0 {
				g.pending = nil
			}
			return n, nil
		}
		if g.refused != nil && g.poisoned < len(poison) {
			g.broken.Store(true)
			n := copy(p, poison[g.poisoned:])
			g.poisoned += n
			return n, nil
		}
		if g.refused != nil {
			return 0, g.refused
		}
		if len(g.pending) == 0 {
			// The short way, of bodies: into the caller's buffer.
			n, err := g.Conn.Read(p)
			ok, bad := g.pass(p[:n])
			if ok < n {
				g.pending = append(g.pending, p[ok:n]...)
			}
			if g.refused = bad; ok > 0 || err != nil {
				return ok, err
			}
			continue
		}
		if len(g.pending) > sniff.MaxFlight+flightChunk {
			g.refused = fmt.Errorf("%w: too long", errMalformed)
			continue
		}
		buf := make([]byte, flightChunk)
		n, err := g.readRest(buf)
		g.pending = append(g.pending, buf[:n]...)
		g.look()
		if err != nil && g.allowed == 0 && g.refused == nil {
			return 0, err
		}
	}
}

// readRest reads the rest of a head that has begun. A guest that takes more than
// Limits.Head for it loses its connection: net/http, which has seen nothing of it,
// would wait as long as for the next request. It uses deadlines to wake up a reader,
// so that there is no room for one of ours.
func (g *guestConn) readRest(buf []byte) (int, error) {
	began := time.Now()
	late := time.AfterFunc(g.session.p.limits.Head-g.waited, func() { _ = g.Conn.Close() })
	defer late.Stop()
	n, err := g.Conn.Read(buf)
	g.waited += time.Since(began)
	return n, err
}

// look decides how much of pending may pass.
func (g *guestConn) look() { g.allowed, g.refused = g.pass(g.pending) }

// pass returns how many bytes at the beginning of b may pass, and the error for
// those behind them.
func (g *guestConn) pass(b []byte) (n int, err error) {
	for n < len(b) {
		if g.requests == nil {
			return len(b), nil
		}
		if g.owed > 0 {
			k := min(g.owed, len(b)-n)
			g.owed -= k
			n += k
			continue
		}
		k, head := g.requests.Next(b[n:], false)
		if k > 0 {
			n += k
			continue
		}
		switch head.Kind {
		case sniff.More:
			return n, nil
		case sniff.HTTP1:
			g.owed = head.Len
		case sniff.Connect:
			// What follows is the tunnel's, or nothing: the handler ends the connection
			// if it makes none.
			g.requests = nil
		case sniff.Malformed:
			return n, fmt.Errorf("%w: %s", errMalformed, head.Reason)
		default:
			return n, fmt.Errorf("%w: no request", errMalformed)
		}
	}
	return n, nil
}

// open lets everything pass from now on: the connection has changed its protocol.
// It is for the reader's goroutine, or when there is none.
func (g *guestConn) open() {
	g.requests = nil
	g.look()
}

// lingerTime and lingerBytes bound how long and how much is read from a guest that
// was refused and goes on sending. A close with unread bytes would be a reset, and
// take the answer with it.
const (
	lingerTime  = time.Second
	lingerBytes = 256 << 10
)

// Close closes the connection.
func (g *guestConn) Close() error {
	var err error
	g.once.Do(func() {
		if g.broken.Load() {
			_ = closeWrite(g.Conn)
			_ = g.Conn.SetReadDeadline(time.Now().Add(lingerTime))
			_, _ = io.CopyN(io.Discard, g.Conn, lingerBytes)
		}
		err = g.Conn.Close()
		close(g.closed)
	})
	return err
}

// CloseWrite closes the outward half.
func (g *guestConn) CloseWrite() error { return closeWrite(g.Conn) }

// A guestListener hands guests' connections to net/http's server.
type guestListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{} // closed by Close
}

func newGuestListener() *guestListener {
	return &guestListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

// Accept returns the next connection.
func (l *guestListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (l *guestListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr returns an address that means nothing.
func (l *guestListener) Addr() net.Addr { return new(net.TCPAddr) }
