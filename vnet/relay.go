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

	"github.com/sluicenet/sluice/internal/sniff"
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
	host net.Conn // nil until await has allowed the dial

	// Owned by the goroutine of the outward direction.
	gate    *gate
	passed  int         // bytes that the gate let pass and the host hasn't yet
	pieces  net.Buffers // what one gathered write takes, memory of the endpoint's queue
	gather  [relayPieces][]byte
	pending int // bytes in pieces
}

// await holds the guest's bytes while the host may not be dialled, and reports
// whether the name has allowed it.
func (r *relay) await() bool {
	entry, ready := waiter.NewChannelEntry(outwardEvents)
	r.wq.EventRegister(&entry)
	defer r.wq.EventUnregister(&entry)
	idle := time.NewTimer(holdTimeout)
	defer idle.Stop()
	for {
		b, closed := r.collect()
		n, denied := r.gate.pass(b.bytes(), closed, time.Now())
		b.release()
		switch {
		case denied:
			return false
		case n > 0:
			r.passed = n
			return true
		case closed:
			return false
		}
		select {
		case <-ready:
		case <-idle.C:
			r.gate.expire(time.Now())
			return false
		case <-r.flow.ctx.Done():
			return false
		}
	}
}

// run relays until both directions have ended, closes both ends and returns how
// the flow ended.
func (r *relay) run() string {
	// A cut wakes both directions: deadlines do it on the host's side, the
	// flow's context on the endpoint's.
	stop := context.AfterFunc(r.flow.ctx, func() { r.host.SetDeadline(time.Unix(1, 0)) })
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

// outwardEvents wake the outward direction.
const outwardEvents = waiter.ReadableEvents | waiter.EventRdHUp | waiter.EventHUp | waiter.EventErr

// outward moves the guest's bytes to the host.
func (r *relay) outward() {
	entry, ready := waiter.NewChannelEntry(outwardEvents)
	r.wq.EventRegister(&entry)
	defer r.wq.EventUnregister(&entry)
	for {
		var more bool
		var err tcpip.Error
		if r.gate.open() && r.passed == 0 {
			more, err = r.forward()
		} else {
			more, err = r.forwardGated()
		}
		switch err.(type) {
		case nil:
		case *tcpip.ErrClosedForReceive:
			if closeWrite(r.host) != nil {
				r.flow.cut(endReset)
			}
			return
		default:
			r.flow.cut(endReset)
			return
		}
		if more {
			continue
		}
		select {
		case <-ready:
		case <-r.gate.expired(time.Now()):
		case <-r.flow.ctx.Done():
			return
		}
	}
}

// forward writes what the guest has sent to the host. more is false when there
// was nothing.
func (r *relay) forward() (more bool, err tcpip.Error) {
	r.pieces, r.pending = r.gather[:0], 0
	// Peeked bytes stay in the endpoint's queue while the kernel copies them, so
	// that the guest's window tells the truth.
	_, err = r.ep.Read(peeker{r}, tcpip.ReadOptions{Peek: true})
	switch err.(type) {
	case nil:
	case *tcpip.ErrWouldBlock:
		return false, nil
	default:
		return false, err
	}
	sent, werr := r.pieces.WriteTo(r.host)
	r.consume(int(sent))
	if werr != nil {
		return false, &tcpip.ErrConnectionReset{}
	}
	return true, nil
}

// forwardGated is forward for bytes that the gate looks at.
func (r *relay) forwardGated() (more bool, err tcpip.Error) {
	b, closed := r.collect()
	defer b.release()
	if len(b.bytes()) == 0 {
		return false, b.err
	}
	if r.passed == 0 {
		n, denied := r.gate.pass(b.bytes(), closed, time.Now())
		if denied {
			r.flow.cut(endDenied)
			return false, &tcpip.ErrConnectionAborted{}
		}
		r.passed = n
	}
	if r.passed == 0 {
		return false, nil
	}
	sent, werr := r.host.Write(b.bytes()[:min(r.passed, len(b.bytes()))])
	r.consume(sent)
	r.passed -= sent
	if werr != nil {
		return false, &tcpip.ErrConnectionReset{}
	}
	return true, nil
}

// A collection is a copy of the bytes that wait in the endpoint's queue, up to
// what a first flight may have. It must be released.
type collection struct {
	buf *[sniff.MaxFlight]byte
	n   int
	err tcpip.Error // why there are none; nil if there just are none yet
}

var collections = sync.Pool{New: func() any { return new([sniff.MaxFlight]byte) }}

// collect copies the waiting bytes, without consuming them. closed reports that
// the guest sends no more.
func (r *relay) collect() (c *collection, closed bool) {
	closed = r.ep.Readiness(waiter.ReadableEvents|waiter.EventRdHUp)&waiter.EventRdHUp != 0
	c = &collection{buf: collections.Get().(*[sniff.MaxFlight]byte)}
	_, err := r.ep.Read(c, tcpip.ReadOptions{Peek: true})
	if _, none := err.(*tcpip.ErrWouldBlock); !none {
		c.err = err
	}
	return c, closed || c.err != nil
}

func (c *collection) bytes() []byte { return c.buf[:c.n] }
func (c *collection) release()      { collections.Put(c.buf) }

// Write takes as much of p as there is room for.
func (c *collection) Write(p []byte) (int, error) {
	k := copy(c.buf[c.n:], p)
	c.n += k
	if k < len(p) {
		return k, errEnough
	}
	return k, nil
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
