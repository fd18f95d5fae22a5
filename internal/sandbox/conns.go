package sandbox

import (
	"io"
	"net"
	"sync"
)

// conns are connections over the guest's card, which must be closed before the
// network is. The zero value is ready; its methods may be called by several
// goroutines.
type conns struct {
	mu     sync.Mutex // guards the following fields
	open   map[*guestConn]struct{}
	closed bool
}

// A guestConn is one of them.
type guestConn struct {
	net.Conn
	of *conns
}

// add keeps c; it is closed at once if the others have been.
func (cs *conns) add(c net.Conn) *guestConn {
	g := &guestConn{c, cs}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.closed {
		_ = c.Close() // whoever gets it notices
		return g
	}
	if cs.open == nil {
		cs.open = make(map[*guestConn]struct{})
	}
	cs.open[g] = struct{}{}
	return g
}

// close closes all, now and later.
func (cs *conns) close() {
	cs.mu.Lock()
	cs.closed = true
	open := cs.open
	cs.open = nil
	cs.mu.Unlock()
	for g := range open {
		_ = g.Conn.Close() // its user notices
	}
}

// CloseWrite ends our side.
func (g *guestConn) CloseWrite() error { return closeWrite(g.Conn) }

// closeWrite ends our side of c, all of it where c has no sides.
func closeWrite(c io.Closer) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// Close closes the connection.
func (g *guestConn) Close() error {
	g.of.mu.Lock()
	delete(g.of.open, g)
	g.of.mu.Unlock()
	return g.Conn.Close()
}
