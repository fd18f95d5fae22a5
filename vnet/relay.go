package vnet

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
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
	n    *Network
	flow *tcpFlow
	ep   tcpip.Endpoint
	wq   *waiter.Queue
	host net.Conn // nil until await has allowed the dial

	done    atomic.Bool // the guest's end of stream was passed on, or the flow is cut
	handing atomic.Bool // the inward direction is to stop at the host's deadline, for somebody else

	src *source // owned by the goroutine of the inward direction

	// Owned by the goroutine of the outward direction.
	gate    *gate
	passed  int      // bytes that the gate let pass and the host hasn't yet
	pieces  [][]byte // what one gathered write takes, memory of the endpoint's queue; nil between two
	pending int      // bytes in pieces
}

// await holds the guest's bytes while the host may not be dialled. It returns ""
// when it may, or how the flow has ended.
func (r *relay) await() string {
	entry, ready := waiter.NewChannelEntry(outwardEvents)
	r.wq.EventRegister(&entry)
	defer r.wq.EventUnregister(&entry)
	for {
		b, closed := r.collect()
		if b.err != nil && !closed {
			b.release()
			return endReset
		}
		n, denied := r.gate.pass(b.bytes(), closed, time.Now())
		b.release()
		switch {
		case denied:
			return endDenied
		case r.gate.handOver:
			return ""
		case r.gate.dial:
			r.passed = n
			return ""
		case b.n > 0:
			r.flow.buffers.hold(b.n, b.segments)
		}
		select {
		case <-ready:
		case <-r.gate.expired(time.Now()):
		case <-r.flow.reviewed:
		case <-r.flow.ctx.Done():
			return r.flow.cutReason()
		}
	}
}

// run relays until both directions have ended and the guest has all of it,
// closes both ends and returns how the flow ended.
func (r *relay) run() string {
	// A cut wakes both directions: deadlines do it on the host's side, the
	// flow's context on the endpoint's.
	stop := context.AfterFunc(r.flow.ctx, func() { r.host.SetDeadline(time.Unix(1, 0)) })
	r.src = newSource(r.host, &r.flow.buffers)
	var in sync.WaitGroup
	r.start(&in)
	r.outward()
	for r.gate.handOver {
		if r.takeOver(&in, stop) {
			r.src.release()
			return r.n.inspect(r.flow, r.ep, r.wq, r.host)
		}
		r.gate.decline()
		stop = context.AfterFunc(r.flow.ctx, func() { r.host.SetDeadline(time.Unix(1, 0)) })
		r.start(&in)
		r.outward()
	}
	// Then a host that has ended too is waited for no longer.
	if r.done.Store(true); r.flow.ended.Load() {
		r.host.SetReadDeadline(time.Unix(1, 0))
	}
	in.Wait()
	// From here on nobody uses the endpoint's memory: closing may free it.
	stop()
	r.src.release()
	if r.flow.cutReason() == "" {
		r.host.Close()
		settle(r.flow, r.ep, r.wq)
	}
	why := r.flow.cutReason()
	if why != "" {
		reset(r.host)
		r.host.Close()
		r.ep.Abort()
		return why
	}
	r.ep.Close()
	return endFIN
}

// start starts the inward direction.
func (r *relay) start(in *sync.WaitGroup) {
	in.Add(1)
	r.n.workers.run(func() {
		defer in.Done()
		r.inward()
	})
}

// takeOver stops both directions, so that the inspector may have both ends, and
// reports whether it may: not if the host has spoken first, which no server of
// HTTP does. Then they are to go on.
func (r *relay) takeOver(in *sync.WaitGroup, stop func() bool) bool {
	stop()
	r.handing.Store(true)
	r.host.SetReadDeadline(time.Unix(1, 0))
	in.Wait()
	r.handing.Store(false)
	if r.flow.cutReason() == "" {
		r.host.SetReadDeadline(time.Time{})
	}
	return r.flow.bytesIn.Load() == 0 && !r.flow.ended.Load() && r.flow.cutReason() == ""
}

// settle waits until the guest has acknowledged everything. Until then the
// endpoint holds the bytes, so the flow counts: or a guest that never reads
// could leave any number of them behind.
func settle(f *tcpFlow, ep tcpip.Endpoint, wq *waiter.Queue) {
	entry, changed := waiter.NewChannelEntry(waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	for {
		switch tcp.EndpointState(ep.State()) {
		case tcp.StateTimeWait, tcp.StateClose, tcp.StateError:
			return
		}
		select {
		case <-changed:
		case <-f.ctx.Done():
			return
		}
	}
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
		switch {
		case r.gate.handOver:
			return
		case more:
			continue
		}
		select {
		case <-ready:
		case <-r.gate.expired(time.Now()):
		case <-r.flow.reviewed:
		case <-r.flow.ctx.Done():
			return
		}
	}
}

// gathers is the memory of pieces: an idle flow holds none.
var gathers = sync.Pool{New: func() any { return new([relayPieces][]byte) }}

// forward writes what the guest has sent to the host. more is false when there
// was nothing.
func (r *relay) forward() (more bool, err tcpip.Error) {
	gather := gathers.Get().(*[relayPieces][]byte)
	defer gathers.Put(gather)
	defer clear(gather[:]) // the pieces are the endpoint's
	r.pieces, r.pending = gather[:0], 0
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
	r.flow.buffers.sawOut(r.pending)
	sent, werr := writeAll(r.host, r.pieces)
	r.pieces = nil
	r.consume(sent)
	if werr != nil {
		return false, &tcpip.ErrConnectionReset{}
	}
	return true, nil
}

// writeAll writes the pieces to the host, at once where it can.
func writeAll(host net.Conn, pieces [][]byte) (int, error) {
	if w, ok := host.(interface{ writeAll([][]byte) (int, error) }); ok {
		return w.writeAll(pieces)
	}
	rest := net.Buffers(pieces)
	n, err := rest.WriteTo(host)
	return int(n), err
}

// forwardGated is forward for bytes that the gate looks at.
func (r *relay) forwardGated() (more bool, err tcpip.Error) {
	b, closed := r.collect()
	defer b.release()
	if b.err != nil && !closed {
		return false, b.err
	}
	if r.passed == 0 {
		n, denied := r.gate.pass(b.bytes(), closed, time.Now())
		if denied {
			r.flow.cut(endDenied)
			return false, &tcpip.ErrConnectionAborted{}
		}
		if r.passed = n; n == 0 && b.n > 0 {
			r.flow.buffers.hold(b.n, b.segments)
		}
	}
	if r.passed == 0 || len(b.bytes()) == 0 {
		return false, b.err
	}
	r.flow.buffers.sawOut(b.n)
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
	buf      *[sniff.MaxFlight]byte
	n        int
	segments int         // that they are in
	err      tcpip.Error // why there are none; nil if there just are none yet
}

var collections = sync.Pool{New: func() any { return new([sniff.MaxFlight]byte) }}

// collect copies the waiting bytes, without consuming them. closed reports that
// the guest sends no more than these.
func (r *relay) collect() (c *collection, closed bool) {
	c = &collection{buf: collections.Get().(*[sniff.MaxFlight]byte)}
	closed = r.guestEnded()
	_, err := r.ep.Read(c, tcpip.ReadOptions{Peek: true})
	// gVisor wakes us for an end of stream before its state tells; a read waits
	// until it does. What came with the end may be behind what was read.
	if !closed && r.guestEnded() {
		c.n, c.segments, closed = 0, 0, true
		_, err = r.ep.Read(c, tcpip.ReadOptions{Peek: true})
	}
	switch err.(type) {
	case nil, *tcpip.ErrWouldBlock:
		return c, closed && c.n < len(c.buf)
	case *tcpip.ErrClosedForReceive:
		c.err = err
		return c, true
	}
	c.err = err
	return c, false
}

// guestEnded reports whether the guest's end of stream has come: what it has
// sent is in the queue. Readiness tells only while we have not ended too.
func (r *relay) guestEnded() bool {
	switch tcp.EndpointState(r.ep.State()) {
	case tcp.StateCloseWait, tcp.StateLastAck, tcp.StateClosing, tcp.StateTimeWait, tcp.StateClose:
		return true
	}
	return false
}

func (c *collection) bytes() []byte { return c.buf[:c.n] }
func (c *collection) release()      { collections.Put(c.buf) }

// Write takes as much of p as there is room for.
func (c *collection) Write(p []byte) (int, error) {
	k := copy(c.buf[c.n:], p)
	c.n += k
	c.segments++
	if k < len(p) {
		return k, errEnough
	}
	return k, nil
}

// consume takes n bytes that the host has from the endpoint's queue.
func (r *relay) consume(n int) {
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
	for {
		n, full, err := r.src.transfer(r.ep)
		r.flow.bytesIn.Add(uint64(n))
		switch {
		case err == io.EOF:
			r.flow.ended.Store(true)
			if r.ep.Shutdown(tcpip.ShutdownWrite) != nil || !r.done.Load() && r.src.linger() {
				r.flow.cut(endReset)
			}
			return
		case err != nil && r.handing.Load() && errors.Is(err, os.ErrDeadlineExceeded):
			return
		case err != nil:
			r.flow.cut(endReset)
			return
		case full && r.flow.buffers.growIn():
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
