package mitm

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/sluicenet/sluice/internal/sniff"
)

// A flight is what a guest sent first, and what it is. The bytes may reach beyond
// what is classified.
type flight struct {
	sniff.Result
	bytes []byte
}

// flightChunk is how much is read at a time, in bytes: a ClientHello or a head.
const flightChunk = 4 << 10

// readFlight reads from c until its first flight is classified. It may take as
// long as idle before its first byte, any time if that is 0, and limit from then on;
// a flight that isn't finished by then is malformed. Nothing is lost: the bytes read are in the
// result, with an error too. If stop isn't nil, who sets it and then a deadline
// in the past ends the reading.
func readFlight(c net.Conn, dst netip.Addr, idle, limit time.Duration, stop *atomic.Bool) (flight, error) {
	f := flight{}
	sniffer := sniff.Flight{Dst: dst}
	if idle > 0 {
		if err := c.SetReadDeadline(time.Now().Add(idle)); err != nil {
			return f, fmt.Errorf("read first flight: %w", err)
		}
	}
	for {
		if cap(f.bytes)-len(f.bytes) < flightChunk/4 {
			f.bytes = append(make([]byte, 0, cap(f.bytes)*2+flightChunk), f.bytes...)
		}
		if stop != nil && stop.Load() {
			return f, fmt.Errorf("read first flight: %w", os.ErrDeadlineExceeded)
		}
		n, err := c.Read(f.bytes[len(f.bytes):cap(f.bytes)])
		begun := len(f.bytes) > 0
		f.bytes = f.bytes[:len(f.bytes)+n]
		f.Result = sniffer.Next(f.bytes, err == io.EOF)
		switch {
		case f.Kind != sniff.More:
			return f, c.SetReadDeadline(time.Time{})
		case stop != nil && stop.Load():
			return f, fmt.Errorf("read first flight: %w", os.ErrDeadlineExceeded)
		case isTimeout(err) && begun:
			f.Kind, f.Reason = sniff.Malformed, "first flight not finished in time"
			return f, c.SetReadDeadline(time.Time{})
		case err != nil:
			return f, fmt.Errorf("read first flight: %w", err)
		case !begun:
			if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
				return f, fmt.Errorf("read first flight: %w", err)
			}
		}
	}
}

// A replayed connection yields bytes that were read from it already, and then its
// own. It belongs to one reader.
type replayed struct {
	net.Conn
	bytes []byte
}

// Read reads the bytes first.
func (c *replayed) Read(p []byte) (int, error) {
	if len(c.bytes) > 0 {
		n := copy(p, c.bytes)
		if c.bytes = c.bytes[n:]; len(c.bytes) == 0 {
			c.bytes = nil // not kept alive by a connection that lives long
		}
		return n, nil
	}
	return c.Conn.Read(p)
}

// CloseWrite closes the outward half.
func (c *replayed) CloseWrite() error { return closeWrite(c.Conn) }

// closeWrite closes the outward half of a connection that has halves.
func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// isTimeout reports whether an error says that a deadline has passed.
func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}
