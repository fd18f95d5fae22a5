package vnet

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// relayPieces and relayBatch bound one gathered write to the host: enough
	// for several 64 KiB segments, small enough that the window reopens while
	// the kernel is still copying.
	relayPieces = 64
	relayBatch  = 1 << 20
)

// A relay moves a flow's bytes between the guest's endpoint and the host's
// connection, one goroutine per direction. An end of stream in one direction is
// passed on and leaves the other open; a reset on one side is a reset on the
// other. Nobody reads ahead of a slow receiver: bytes wait in the sender's
// window.
type relay struct {
	flow *tcpFlow
	ep   tcpip.Endpoint
	wq   *waiter.Queue
	host net.Conn

	// Owned by the goroutine of the outward direction.
	pieces  net.Buffers // what one gathered write takes, memory of the endpoint's queue
	gather  [relayPieces][]byte
	pending int // bytes in pieces
}

// relayTCP relays the flow between ep and host until both directions have ended,
// closes both and returns how it ended.
func relayTCP(f *tcpFlow, ep tcpip.Endpoint, wq *waiter.Queue, host net.Conn) string {
	r := &relay{flow: f, ep: ep, wq: wq, host: host}
	return r.run()
}

// run relays until both directions have ended, closes both ends and returns how
// the flow ended.
func (r *relay) run() string {
	stop := r.interrupt()
	var in sync.WaitGroup
	in.Go(r.inward)
	r.outward()
	in.Wait()
	// From here on nobody uses the endpoint's memory: closing may free it.
	stop()
	why := r.flow.cutReason()
	if why != "" {
		reset(r.host)
		r.ep.Abort()
	} else {
		why = endFIN
		r.ep.Close()
	}
	r.host.Close()
	return why
}

// interrupt arranges that a cut wakes both directions, and returns what undoes
// that. Deadlines wake the host's side; the endpoint's side selects on the
// flow's context.
func (r *relay) interrupt() (undo func() bool) {
	return context.AfterFunc(r.flow.ctx, func() { r.host.SetDeadline(time.Unix(1, 0)) })
}

// outward moves the guest's bytes to the host.
func (r *relay) outward() {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	r.wq.EventRegister(&entry)
	defer r.wq.EventUnregister(&entry)
	for {
		r.pieces, r.pending = r.gather[:0], 0
		// Peeked bytes stay in the endpoint's queue while the kernel copies
		// them, so that the guest's window tells the truth.
		_, err := r.ep.Read(peeker{r}, tcpip.ReadOptions{Peek: true})
		switch err.(type) {
		case nil:
			sent, werr := r.pieces.WriteTo(r.host)
			r.consume(int(sent))
			if werr != nil {
				r.flow.cut(endReset)
				return
			}
		case *tcpip.ErrWouldBlock:
			select {
			case <-ready:
			case <-r.flow.ctx.Done():
				return
			}
		case *tcpip.ErrClosedForReceive:
			if closeWrite(r.host) != nil {
				r.flow.cut(endReset)
			}
			return
		default:
			r.flow.cut(endReset)
			return
		}
	}
}

// consume takes n bytes that the host has from the endpoint's queue.
func (r *relay) consume(n int) {
	clear(r.gather[:])
	r.flow.bytesOut.Add(uint64(n))
	left := discard(n)
	for left > 0 {
		if _, err := r.ep.Read(&left, tcpip.ReadOptions{}); err != nil {
			return
		}
	}
}

// errEnough ends a read that has taken what it wanted.
var errEnough = errors.New("enough")

// peeker collects what a peek shows, without copying.
type peeker struct{ r *relay }

// Write takes p if there is room. A short count without an error would be a
// panic in gVisor.
func (k peeker) Write(p []byte) (int, error) {
	r := k.r
	if len(r.pieces) == relayPieces || r.pending > 0 && r.pending+len(p) > relayBatch {
		return 0, errEnough
	}
	r.pieces = append(r.pieces, p)
	r.pending += len(p)
	return len(p), nil
}

// discard is a writer that takes that many bytes and no more.
type discard int

func (d *discard) Write(p []byte) (int, error) {
	if int(*d) < len(p) {
		n := int(*d)
		*d = 0
		return n, errEnough
	}
	*d -= discard(len(p))
	return len(p), nil
}

// inward moves the host's bytes to the guest.
func (r *relay) inward() {
	entry, writable := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	r.wq.EventRegister(&entry)
	defer r.wq.EventUnregister(&entry)
	src := newSource(r.host)
	for {
		n, full, err := src.transfer(r.ep)
		r.flow.bytesIn.Add(uint64(n))
		switch {
		case err == io.EOF:
			if r.ep.Shutdown(tcpip.ShutdownWrite) != nil {
				r.flow.cut(endReset)
			}
			return
		case err != nil:
			r.flow.cut(endReset)
			return
		case full:
			select {
			case <-writable:
			case <-r.flow.ctx.Done():
				return
			}
		}
	}
}

// errGuestGone says that the endpoint takes no more bytes.
var errGuestGone = errors.New("guest reset the connection")

// byteReader is the payload of one write to the endpoint: bytes at hand.
type byteReader struct{ b []byte }

func (r *byteReader) Len() int { return len(r.b) }

func (r *byteReader) Read(p []byte) (int, error) {
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}

// closeWrite sends the host the guest's end of stream.
func closeWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return c.Close()
}

// reset makes the close of c a reset, where c can.
func reset(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		l.SetLinger(0)
	}
}
