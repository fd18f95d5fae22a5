package mitm

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// relayChunk is the size of the buffer of one direction, in bytes: a TLS record
// and its neighbours.
const relayChunk = 32 << 10

// relay passes bytes between the guest and its upstream until both directions have
// ended, each by itself, or one has failed. Then it closes both: if the upstream
// reset the connection so that the guest sees that too, and the other way round.
func relay(guest, upstream net.Conn, reset func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := pass(upstream, guest); err != nil {
			abort(upstream)
			_ = guest.Close()
		}
	})
	if err := pass(guest, upstream); err != nil {
		if errors.Is(err, syscall.ECONNRESET) {
			reset()
		}
		_ = guest.Close()
		_ = upstream.Close()
	}
	wg.Wait()
	_ = guest.Close()
	_ = upstream.Close()
}

// pass copies from src to dst and then ends dst's outward half.
func pass(dst, src net.Conn) error {
	if _, err := io.CopyBuffer(writerOnly{dst}, readerOnly{src}, make([]byte, relayChunk)); err != nil {
		return err
	}
	return closeWrite(dst)
}

// writerOnly and readerOnly hide the methods by which io.Copy would go round the
// connection's own, and its buffer.
type (
	writerOnly struct{ io.Writer }
	readerOnly struct{ io.Reader }
)

// abort closes a connection with a reset, if it is one that can.
func abort(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0)
	}
	_ = c.Close()
}
