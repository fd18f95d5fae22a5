package mitm

import (
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/sluicenet/sluice/internal/sniff"
)

// readFlightOrBanner reads the guest's first flight while it passes on what the
// upstream says. spoken reports that the upstream spoke first: then the flight may
// be unfinished, and even empty, and the rest is for a heldConn.
func (p *Proxy) readFlightOrBanner(guest, upstream net.Conn, f Flow) (first flight, spoken bool, err error) {
	var stop atomic.Bool
	var said int
	done := make(chan error, 1) // gets the end of the goroutine, which owns said until then
	go func() {
		buf := make([]byte, flightChunk)
		n, err := upstream.Read(buf)
		if said = n; n > 0 {
			_, err = guest.Write(buf[:n])
		}
		if n > 0 || !isTimeout(err) && !isAlert(err) { // an alert is for who answers the request
			stop.Store(true)
			_ = guest.SetReadDeadline(longAgo)
		}
		done <- err
	}()
	first, err = readFlight(guest, f.Asked().Addr(), p.limits.Idle, p.limits.Handshake, &stop)
	_ = upstream.SetReadDeadline(longAgo)
	failed := <-done
	_ = upstream.SetReadDeadline(time.Time{})
	_ = guest.SetReadDeadline(time.Time{})
	if said > 0 {
		return first, true, failed
	}
	return first, false, err
}

// longAgo is a deadline that ends a Read which is under way.
var longAgo = time.Unix(1, 0)

// errHeld is the error of a guest whose first flight must not pass.
var errHeld = errors.New("first flight must not pass")

// A heldConn is the connection of a guest whose server has spoken first. That makes
// nobody a mail server: some of HTTP/2 send their settings at once, and one of the
// guest's own says what the guest likes. So the server is heard, but of the guest
// nothing passes before its first flight shows what it is. It belongs to one reader.
type heldConn struct {
	replayed
	flow    Flow
	limit   time.Duration // for the flight, from its first byte on
	first   flight        // unfinished if its kind is More
	passes  func(flight) bool
	decided bool // passes has said yes
}

// hold returns the connection of a guest that has sent a flight, or the beginning of
// one. passes decides whether it may pass, and ends the flow that it doesn't let.
func (p *Proxy) hold(guest net.Conn, first flight, f Flow, passes func(flight) bool) *heldConn {
	return &heldConn{replayed: replayed{guest, first.bytes}, flow: f, limit: p.limits.Handshake, first: first, passes: passes}
}

// Read reads what may pass.
func (c *heldConn) Read(p []byte) (int, error) {
	if !c.decided {
		if c.first.Kind == sniff.More {
			first, err := readFlight(&c.replayed, c.flow.Asked().Addr(), 0, c.limit, nil)
			if err != nil {
				return 0, err
			}
			c.first, c.bytes = first, first.bytes
		}
		if !c.passes(c.first) {
			return 0, errHeld
		}
		c.decided = true
	}
	return c.replayed.Read(p)
}

// isReadable reports whether a flight is one that is read here, and so isn't to be
// passed on unread: HTTP, and what some server may take for it.
func isReadable(k sniff.Kind) bool { return isHTTP(k) || k == sniff.Malformed }
