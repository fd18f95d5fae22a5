package vnet

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// directState is how far a flow is. Their order is that in which it passes through
// them.
type directState uint8

const (
	directDialing  directState = iota
	directAnswered             // the guest has a SYN-ACK
	directOpen
	directOver
)

const (
	// directWindow is how many bytes one direction of a flow may have between the
	// guest and us: more than the queue of any card here holds.
	directWindow = 1 << 20
	// directScale is the scale of the windows we tell (RFC 7323, section 2.2).
	directScale = 5
	// minMSS is the smallest segment size that is believed: a guest that says less
	// has its own kernel cut 64 KiB into tens of thousands of pieces.
	minMSS = 88
)

// A directFlow is one TCP flow without a stack. It belongs to the goroutine of
// direct.run.
type directFlow struct {
	d        *direct
	flow     *tcpFlow
	state    directState
	dialBy   time.Time   // when the connect, or the handshake, is given up
	firstErr error       // of the dial before the gateway's other loopback was tried; nil until then
	stop     func() bool // keeps the end of the flow's context from cutting it

	// What the guest's SYN said, and we answered.
	irs, iss uint32
	ourMSS   int   // of segments from the guest
	mss      int   // of segments to the guest
	scale    uint8 // of the guest's windows
	scaled   bool  // of ours, too

	socket    directSocket
	kept      bool // the kernel watches over the socket's peer
	fromGuest directIn
	toGuest   directOut

	again bool  // it is in direct.again
	due   int64 // its next deadline, as directTimers count; 0 if there is none
	place int   // in directTimers.waiting; valid iff due
}

// open begins a flow that was admitted with its SYN, the packet p.
func (d *direct) open(f *tcpFlow, p *packet, now time.Time) {
	syn := header.TCP(p.frame[p.l4:p.payload])
	c := &directFlow{d: d, flow: f, irs: syn.SequenceNumber(), iss: rand.Uint32(), dialBy: now.Add(dialTimeout)}
	c.readSYN(syn)
	f.buffers.release() // it takes memory when it has bytes
	c.fromGuest.begin(c.irs+1, newGate(d.n, f))
	c.toGuest.begin(c.iss)
	d.flows[f.key] = c
	f.direct.Store(c)
	select {
	case <-f.reviewed: // since it was admitted
		c.reviewed()
	default:
	}
	c.stop = context.AfterFunc(f.ctx, func() { d.do(c.cut) })
	if c.dial(f.dialed, now); c.state == directDialing {
		f.syn = slices.Clone(f.syn) // the frame's memory is the reader's
	} else {
		f.syn = nil
	}
}

// readSYN takes the options of a SYN (RFC 9293, section 3.7.1, and RFC 7323).
func (c *directFlow) readSYN(syn header.TCP) {
	o := header.ParseSynOptions(syn.Options(), false)
	ip := ipv4Len
	if c.v6() {
		ip = ipv6Len
	}
	c.ourMSS = c.d.n.cfg.MTU - ip - tcpLen
	c.mss = max(min(int(o.MSS), c.ourMSS, maxSegmentPayload), minMSS)
	if o.WS >= 0 {
		c.scale, c.scaled = uint8(min(o.WS, header.MaxWndScale)), true
	}
}

func (c *directFlow) v6() bool { return c.flow.key.guest.Addr().Is6() }

// dial connects the host's socket to addr. Where the peer has answered already, so
// does this.
func (c *directFlow) dial(addr netip.AddrPort, now time.Time) {
	to, _ := c.d.dialer.socketAddress(addr)
	switch connected, err := c.socket.dial(c.d.poll, c, to); {
	case err != nil:
		c.dialFailed(err, now)
	case connected:
		c.answer(now)
	default:
		c.wakeBy(c.dialBy)
	}
}

// dialed deals with a connect that took its time and has succeeded or failed.
func (c *directFlow) dialed(now time.Time) {
	switch connected, err := c.socket.connected(); {
	case err != nil:
		c.dialFailed(err, now)
	case connected:
		c.answer(now)
	}
}

// dialFailed tells the guest how its connect failed, unless the gateway's other
// loopback is still to be tried.
func (c *directFlow) dialFailed(err error, now time.Time) {
	f, n := c.flow, c.d.n
	other, err := c.secondAddress(err)
	if err == nil {
		c.dial(other, now)
		return
	}
	if why := f.cutReason(); why != "" {
		c.finish(why, true, now)
		return
	}
	how := n.dialFailed(f, err)
	if how == endUnreachable {
		n.unreachable(f, err)
	}
	// Silence lets the guest repeat its SYN, and maybe have more luck.
	c.finish(how, how == endRefused, now)
}

// secondAddress returns the loopback that is still to be tried for a flow to the
// gateway. Else it returns why the flow's own address failed: that one the guest has
// asked for, and of the other family this host may have nothing.
func (c *directFlow) secondAddress(failed error) (other netip.AddrPort, err error) {
	dialed := c.flow.dialed
	if dialed == c.flow.key.remote || c.firstErr != nil {
		return netip.AddrPort{}, cmp.Or(c.firstErr, failed)
	}
	c.firstErr = failed
	c.socket.close(false)
	other = otherLoopback(dialed)
	if _, ok := c.d.dialer.socketAddress(other); !ok {
		return netip.AddrPort{}, failed
	}
	return other, nil
}

// answer answers the guest's SYN.
func (c *directFlow) answer(now time.Time) {
	c.state, c.flow.syn = directAnswered, nil
	c.dialBy = now.Add(handshakeTimeout)
	c.appendSYN()
	c.toGuest.synSent = now
	c.wakeBy(now.Add(firstTimeout))
}

// hostEvent deals with what is new at the host's socket, and reports whether the
// flow wants another turn.
func (c *directFlow) hostEvent(e hostEvents, now time.Time) (more bool) {
	o := &c.toGuest
	if e&(hostReadable|hostUrgent|hostEnded|hostFailed) != 0 {
		o.readable = true
		o.drain = o.drain || e&(hostUrgent|hostEnded|hostFailed) != 0
	}
	switch {
	case c.state == directDialing:
		c.dialed(now)
		return false
	case c.state != directOpen:
		return false
	case o.ended && e&hostFailed != 0 && c.socket.failure() != nil:
		c.finish(endReset, true, now) // behind the end of the stream nobody reads
		return false
	}
	if e&hostWritable != 0 {
		if c.settle(c.fromGuest.flush(c), now) {
			return false
		}
		if c.fromGuest.opened() {
			c.appendACK()
		}
	}
	return c.pump(now)
}

// A guestSegment is what the header of a segment from the guest says.
type guestSegment struct {
	seq, ack, window uint32
	flags            uint8
	data             []byte // the frame's memory
}

// receive does what RFC 9293, section 3.10.7, says about a segment.
func (c *directFlow) receive(s *guestSegment, now time.Time) {
	switch {
	case c.state == directOver:
		return
	case s.flags&flagRST != 0:
		// Outside of the window it is about something else (RFC 5961, section 3).
		if d := int32(s.seq - c.fromGuest.next); d >= 0 && d <= directWindow {
			c.finish(endReset, false, now)
		}
		return
	case s.flags&flagSYN != 0:
		c.repeated(s)
		return
	case c.state == directDialing:
		c.d.n.counters.drop(dropRepeated)
		return
	case c.state == directAnswered:
		if s.ack != c.iss+1 {
			return // of an earlier flow: the SYN-ACK goes out again
		}
		c.state = directOpen
		c.d.n.tcp.established(c.flow)
	}
	c.toGuest.heard = now
	sound, pump := c.acked(s, now)
	switch {
	case !sound:
		c.fromGuest.ackNow = true
		return
	case c.over():
		if s.flags&flagFIN != 0 {
			c.appendACK() // once more: the first was lost
		}
		c.finish(endFIN, false, now)
		return
	}
	if c.settle(c.fromGuest.receive(c, s, now), now) {
		return
	}
	for pump && c.pump(now) { // as far as the window goes: it opens here only
	}
}

// repeated answers a SYN of a flow that is there: its SYN-ACK was lost, or the guest
// has forgotten the flow, which our acknowledgement will make it say (RFC 5961,
// section 4).
func (c *directFlow) repeated(s *guestSegment) {
	switch {
	case c.state == directDialing:
		c.d.n.counters.drop(dropRepeated)
	case c.state == directAnswered && s.seq == c.irs && s.flags&flagACK == 0:
		c.appendSYN()
	default:
		c.fromGuest.ackNow = true
	}
}

// reviewed has the flow's gate look at new rules. Any goroutine may call it.
func (c *directFlow) reviewed() {
	c.d.do(func() { c.askGate(time.Now()) })
}

// askGate has the gate look again at what it holds, and reports whether that ends
// the flow.
func (c *directFlow) askGate(now time.Time) (over bool) {
	return c.state == directOver || c.settle(c.fromGuest.again(c, now), now)
}

// settle ends the flow if what its way to the host has done ends it, as how says, or
// was the last that was to be done. It reports whether the flow is over.
func (c *directFlow) settle(how string, now time.Time) (over bool) {
	switch {
	case how != "":
		c.finish(how, true, now)
	case c.over():
		c.finish(endFIN, false, now)
	default:
		return false
	}
	return true
}

// over reports whether both directions have ended and the guest has all of it.
func (c *directFlow) over() bool {
	return c.fromGuest.shut && c.toGuest.ended && c.toGuest.una == c.toGuest.nxt
}

// keepAlive asks a guest that was silent for long whether it is there. The kernel
// asks the host, if the flow lives so long that this sees it: four system calls less
// for those that don't.
func (c *directFlow) keepAlive(now time.Time) {
	if c.state != directOpen {
		return
	}
	if !c.kept {
		c.kept = true
		c.socket.keepAlive()
	}
	o := &c.toGuest
	switch {
	case now.Sub(o.heard) <= keepAliveIdle+time.Duration(o.probes)*keepAliveInterval:
	case o.probes >= keepAliveCount:
		c.finish(endTimeout, true, now)
	default:
		o.probes++
		c.append(o.una-1, flagACK, nil)
	}
}

// cut ends the flow when its context has ended: somebody else decided so.
func (c *directFlow) cut() { c.finish(c.flow.cutReason(), true, time.Now()) }

// finish ends the flow, once. reset says that the guest is to hear of it. A flow
// that ends in any other way than by both sides' end of stream is reset towards
// the host.
func (c *directFlow) finish(how string, reset bool, now time.Time) {
	if c.state == directOver {
		return
	}
	if reset {
		c.appendRST()
	} else if how == endFIN && c.fromGuest.told != c.fromGuest.next {
		c.appendACK() // of the guest's end of stream, which was the last
	}
	c.state = directOver
	c.stop()
	c.d.timers.remove(c)
	c.toGuest.free(c, len(c.toGuest.chunks))
	c.fromGuest.release(c)
	c.fromGuest.gate = nil
	c.socket.close(how != endFIN)
	delete(c.d.flows, c.flow.key)
	c.d.n.endTCP(c.flow, how, now)
	c.d.n.flows.Done()
}
