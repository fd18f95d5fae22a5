package vnet

import (
	"cmp"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/sluicenet/sluice/vnet/link"
)

// Flows that nobody has to read on their way go without gVisor, by this file and
// its siblings: directflow_linux.go (from SYN to end), directin_linux.go (guest to
// host), directout_linux.go (host to guest), directsegment_linux.go (frames to the
// guest), directsocket_linux.go (the host's sockets), directpoll_linux.go and
// directtimer_linux.go (what wakes us). The guest's TCP is mapped onto a socket of
// the host's: the guest's bytes are acknowledged when the socket has them, the
// host's bytes are kept until the guest has acknowledged them, windows and ends of
// stream are passed on. That is all of RFC 9293 that is needed where both ends of a
// path are queues of one machine, and it costs no goroutine, no hand-off and no
// buffer while a flow is idle.
//
// What is left out makes nothing wrong, only slower in cases that such a path
// does not have: segments from the guest that are out of order are not kept, and
// there is no SACK.
//
//	        ┌────────────────── one goroutine ──────────────────┐
//	card ──►│ epoll ─► reader ─► segment ─► directIn ─► write(2) │──► host's socket
//	     ◄──│ writev(2) ◄─ frame ◄─ directOut ◄─ read(2) ◄─ epoll │◄──
//	        └───────────────────────────────────────────────────┘
//
// That goroutine is the reader's. It owns all that is here, so nothing is locked,
// and from one end to the other a byte wakes nobody but us. Who wants something of a
// flow from elsewhere asks by direct.do.

// A socketDialer is a Dialer whose connections are this host's own sockets, which
// may be made here.
type socketDialer interface {
	Dialer
	// socketAddress returns where the socket for a flow to addr goes; not ok
	// leaves the flow to DialTCP.
	socketAddress(addr netip.AddrPort) (to netip.AddrPort, ok bool)
}

// direct holds the flows without a stack. Its fields belong to the goroutine of
// run, but where they say otherwise.
type direct struct {
	n      *Network // immutable
	link   link.Kernel
	dialer socketDialer

	poll    *poller
	timers  directTimers
	flows   map[flowKey]*directFlow
	out     batch         // what is sent at the end of a round
	frame   [1]link.Frame // of directFlow.write, which would allocate it
	touched []*directFlow // that may have to acknowledge then
	again   []*directFlow // that want another turn
	before  []*directFlow // again of the last round

	mu      sync.Mutex // guards the following fields
	calls   []func()   // that others ask for
	closing bool       // run is to end
	ended   bool       // it has
}

// newDirect returns nil where every flow needs the stack.
func newDirect(n *Network) (*direct, error) {
	dialer, ok := n.cfg.Dialer.(socketDialer)
	// A virtual machine's card is slower and may lose frames, and a shaper loses them
	// as a matter of course: the stack has better answers to that.
	card, kernel := n.cfg.Link.(link.Kernel)
	if !ok || !kernel {
		return nil, nil
	}
	poll, err := newPoller(card)
	if err != nil {
		return nil, err
	}
	return &direct{n: n, link: card, dialer: dialer, poll: poll, timers: directTimers{start: time.Now()}, flows: make(map[flowKey]*directFlow)}, nil
}

// run reads the guest's card and serves the flows until the link ends, or close is
// called.
func (d *direct) run(r *reader) error {
	defer d.end()
	defer r.release()
	now := time.Now()
	for {
		wait := d.timers.wait(now)
		if len(d.again) > 0 {
			wait = 0
		}
		events, err := d.poll.wait(wait)
		if err != nil {
			return err
		}
		now = time.Now()
		d.again, d.before = d.before[:0], d.again
		for i := range events {
			switch slot := events[i].Fd; slot {
			case slotCard:
				if err := r.ready(d.link, now); err != nil {
					return linkEnd(err)
				}
			case slotCalls:
				if d.call() {
					return nil
				}
			default:
				if c := d.poll.flow(slot, events[i].Pad); c != nil {
					d.turn(c, hostEvents(events[i].Events), now)
				}
			}
		}
		for i, c := range d.before {
			d.before[i] = nil
			c.again = false
			d.turn(c, 0, now)
		}
		d.timers.tick(now)
		d.flush(now)
	}
}

// turn deals with what is new at a flow's socket. What is left of it waits until
// others had theirs.
func (d *direct) turn(c *directFlow, e hostEvents, now time.Time) {
	if c.hostEvent(e, now) && !c.again {
		c.again = true
		d.again = append(d.again, c)
	}
}

// do has run's goroutine call fn, soon, unless it has ended. Any goroutine may call
// it.
func (d *direct) do(fn func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return
	}
	if d.calls = append(d.calls, fn); len(d.calls) == 1 {
		d.poll.wake()
	}
}

// call does what others have asked for, and reports whether that is to end.
func (d *direct) call() (closing bool) {
	d.poll.woken()
	d.mu.Lock()
	calls := d.calls
	d.calls, closing = nil, d.closing
	d.mu.Unlock()
	for _, fn := range calls {
		fn()
	}
	return closing
}

// close has run end. Any goroutine may call it.
func (d *direct) close() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing = true; !d.ended {
		d.poll.wake()
	}
}

// end ends all flows when run does: nobody is left to serve them.
func (d *direct) end() {
	d.mu.Lock()
	d.ended, d.calls = true, nil
	d.mu.Unlock()
	now := time.Now()
	for _, c := range d.flows {
		c.finish(cmp.Or(c.flow.cutReason(), endClosed), true, now)
	}
	d.send()
	d.poll.close()
}

// takes reports whether a flow that was admitted can go without the stack.
func (d *direct) takes(f *tcpFlow) bool {
	if d == nil || f.nameFirst || f.inspected || d.n.isDNS(f) || d.n.inspectsHTTP() {
		return false
	}
	_, ok := d.dialer.socketAddress(f.dialed)
	return ok
}

// segment deals with a segment from the guest if its flow is here, and reports
// whether it is.
func (d *direct) segment(p *packet, now time.Time) bool {
	if d == nil {
		return false
	}
	c := d.flows[flowKey{p.source(), p.dest()}]
	if c == nil {
		return false
	}
	h := header.TCP(p.frame[p.l4:p.payload])
	s := guestSegment{seq: h.SequenceNumber(), ack: h.AckNumber(), window: uint32(h.WindowSize()), flags: p.tcpFlags, data: p.data()}
	c.receive(&s, now)
	if !c.fromGuest.touched {
		c.fromGuest.touched = true
		d.touched = append(d.touched, c)
	}
	return true
}

// flush sends what a round has brought about.
func (d *direct) flush(now time.Time) {
	for i, c := range d.touched {
		c.fromGuest.touched = false
		c.acknowledge(now)
		d.touched[i] = nil
	}
	d.touched = d.touched[:0]
	d.send()
}

// send sends the frames in out.
func (d *direct) send() {
	if len(d.out.frames) > 0 {
		d.n.send(&d.out)
		d.out.reset()
	}
}

// keepAlive asks guests that have been silent for long whether they are there, and
// ends the flows of those that don't answer. Any goroutine may call it.
func (d *direct) keepAlive(now time.Time) {
	if d == nil {
		return
	}
	d.do(func() {
		for _, c := range d.flows {
			c.keepAlive(now)
		}
	})
}
