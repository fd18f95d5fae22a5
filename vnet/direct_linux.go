package vnet

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/sluicenet/sluice/vnet/link"
)

// Flows that nobody has to read on their way go without gVisor, by this file and
// its siblings: directin_linux.go (guest to host), directout_linux.go (host to
// guest), directtimer_linux.go and directpoll_linux.go (the host's sockets). The
// guest's TCP
// is mapped onto a socket of the host's: the guest's bytes are acknowledged when
// the socket has them, the host's bytes are kept until the guest has acknowledged
// them, windows and ends of stream are passed on. That is all of RFC 9293 that is
// needed where both ends of a path are queues of one machine, and it costs no
// goroutine, no hand-off and no buffer while a flow is idle.
//
// What is left out makes nothing wrong, only slower in cases that such a path
// does not have: segments from the guest that are out of order are not kept, and
// there is no SACK.

// A socketDialer is a Dialer whose connections are this host's own sockets, which
// may be made here.
type socketDialer interface {
	Dialer
	// socketAddress returns where the socket for a flow to addr goes; not ok
	// leaves the flow to DialTCP.
	socketAddress(addr netip.AddrPort) (to netip.AddrPort, ok bool)
}

// direct holds the flows without a stack.
type direct struct {
	n      *Network
	dialer socketDialer
	poll   *poller

	mu    sync.RWMutex // guards the following field
	flows map[flowKey]*directFlow

	// Owned by the reader's goroutine.
	out     batch         // what it sends at the end of a batch
	touched []*directFlow // flows that may have to acknowledge then

	timers directTimers
}

// newDirect returns nil where every flow needs the stack.
func newDirect(n *Network) (*direct, error) {
	dialer, ok := n.cfg.Dialer.(socketDialer)
	// A virtual machine's card is slower and may lose frames, and a shaper loses them
	// as a matter of course: the stack has better answers to that.
	if _, kernel := n.cfg.Link.(link.Kernel); !ok || !kernel && !n.cfg.direct {
		return nil, nil
	}
	poll, err := newPoller()
	if err != nil {
		return nil, err
	}
	d := &direct{n: n, dialer: dialer, poll: poll, flows: make(map[flowKey]*directFlow)}
	d.timers.init(d)
	return d, nil
}

// takes reports whether a flow that was admitted can go without the stack.
func (d *direct) takes(f *tcpFlow) bool {
	if d == nil || f.nameFirst || f.inspected || d.n.isDNS(f) || d.n.inspectsHTTP() {
		return false
	}
	_, ok := d.dialer.socketAddress(f.dialed)
	return ok
}

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

// A directFlow is one TCP flow without a stack. Three goroutines may work on it:
// the reader, the poller and the timers. What they share is divided in two, by
// direction, so that an acknowledgement does not wait for a write.
type directFlow struct {
	d      *direct
	flow   *tcpFlow
	dialBy time.Time // when the connect, or the handshake, is given up

	// What the guest's SYN said, and we answered.
	irs, iss uint32
	ourMSS   int   // of segments from the guest
	mss      int   // of segments to the guest
	scale    uint8 // of the guest's windows
	scaled   bool  // of ours, too

	fromGuest directIn
	toGuest   directOut
	timer     directTimer
	again     bool // owned by the poller: the flow is to have another turn

	mu       sync.Mutex  // guards the following fields, and those of toGuest
	stop     func() bool // keeps the end of the flow's context from cutting it
	state    directState
	socket   directSocket // valid until closed; only who dials, writes under fromGuest.mu or pumps uses it
	resetAt  bool         // its close is a reset
	released bool         // socket is closed
	kept     bool         // the kernel watches over the socket's peer
	firstErr error        // of the dial before the gateway's other loopback was tried; nil until then
}

// open begins a flow that was admitted, whose SYN has this TCP header. Only the
// reader calls it.
func (d *direct) open(f *tcpFlow, syn header.TCP, now time.Time) {
	c := &directFlow{d: d, flow: f, irs: syn.SequenceNumber(), iss: rand.Uint32(), dialBy: now.Add(dialTimeout)}
	c.readSYN(syn)
	f.buffers.release() // it takes memory when it has bytes
	c.fromGuest.begin(c.irs+1, newGate(d.n, f))
	c.toGuest.begin(c.iss)
	d.mu.Lock()
	d.flows[f.key] = c
	d.mu.Unlock()
	f.direct.Store(c)
	c.mu.Lock()
	c.stop = context.AfterFunc(f.ctx, c.cut)
	c.mu.Unlock()
	c.dial(&d.out, f.dialed, now)
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
func (c *directFlow) dial(out *batch, addr netip.AddrPort, now time.Time) {
	c.mu.Lock()
	if c.state == directOver {
		c.mu.Unlock()
		return
	}
	to, _ := c.d.dialer.socketAddress(addr)
	connected, err := c.socket.dial(c.d.poll, c, to)
	if connected {
		c.answerLocked(out, now)
	} else if err == nil {
		c.timer.set(c, c.dialBy)
	}
	c.mu.Unlock()
	if err != nil {
		c.dialFailed(out, err, now)
	}
}

// dialed is called by the poller when a connect that took its time has succeeded
// or failed.
func (c *directFlow) dialed(out *batch, now time.Time) {
	c.mu.Lock()
	if c.state != directDialing {
		c.mu.Unlock()
		return
	}
	connected, err := c.socket.connected()
	if connected {
		c.answerLocked(out, now)
	}
	c.mu.Unlock()
	if err != nil {
		c.dialFailed(out, err, now)
	}
}

// dialFailed tells the guest how its connect failed, unless the gateway's other
// loopback is still to be tried.
func (c *directFlow) dialFailed(out *batch, err error, now time.Time) {
	f, n := c.flow, c.d.n
	other, err := c.secondAddress(err)
	if err == nil {
		c.dial(out, other, now)
		return
	}
	if why := f.cutReason(); why != "" {
		c.finish(out, why, true, now)
		return
	}
	how := n.dialFailed(f, err)
	if how == endUnreachable {
		n.unreachable(f, err)
	}
	// Silence lets the guest repeat its SYN, and maybe have more luck.
	c.finish(out, how, how == endRefused, now)
}

// secondAddress returns the loopback that is still to be tried for a flow to the
// gateway. Else it returns why the flow's own address failed: that one the guest has
// asked for, and of the other family this host may have nothing.
func (c *directFlow) secondAddress(failed error) (other netip.AddrPort, err error) {
	dialed := c.flow.dialed
	c.mu.Lock()
	defer c.mu.Unlock()
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

// answerLocked answers the guest's SYN.
func (c *directFlow) answerLocked(out *batch, now time.Time) {
	c.state, c.flow.syn = directAnswered, nil
	c.dialBy = now.Add(handshakeTimeout)
	c.appendSYN(out)
	c.toGuest.synSent = now
	c.timer.set(c, now.Add(firstTimeout))
}

// run tells flows what is new at their sockets, until close.
func (d *direct) run() {
	if d == nil {
		return
	}
	var out batch
	d.poll.run(func(c *directFlow, e hostEvents) bool {
		return c.hostEvent(e, &out, time.Now())
	}, func() { d.send(&out) })
}

// close ends run, and the timers. Flows end by their contexts.
func (d *direct) close() error {
	if d == nil {
		return nil
	}
	d.timers.close()
	return d.poll.close()
}

// hostEvent deals with what is new at the host's socket, and reports whether the
// flow wants another turn.
func (c *directFlow) hostEvent(e hostEvents, out *batch, now time.Time) (more bool) {
	c.mu.Lock()
	o := &c.toGuest
	if e&(hostReadable|hostUrgent|hostEnded|hostFailed) != 0 {
		o.readable = true
		o.drain = o.drain || e&(hostUrgent|hostEnded|hostFailed) != 0
	}
	var err error
	state := c.state
	if state == directOpen && o.ended && e&hostFailed != 0 {
		err = c.socket.failure() // behind the end of the stream nobody reads
	}
	c.mu.Unlock()
	switch {
	case state == directDialing:
		c.dialed(out, now)
		return false
	case state != directOpen:
		return false
	case err != nil:
		c.finish(out, endReset, true, now)
		return false
	}
	if e&hostWritable != 0 {
		if how := c.fromGuest.writable(c); c.settle(out, how, now) {
			return false
		}
		c.mu.Lock()
		if c.state == directOpen && c.fromGuest.opened() {
			c.appendACK(out)
		}
		c.mu.Unlock()
	}
	return c.pump(now)
}

// lookup returns the flow of a segment from the guest, or nil.
func (d *direct) lookup(k flowKey) *directFlow {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.flows[k]
}

// segment deals with a segment from the guest if its flow is here, and reports
// whether it is. Only the reader calls it.
func (d *direct) segment(p *packet, now time.Time) bool {
	if d == nil {
		return false
	}
	c := d.lookup(flowKey{p.source(), p.dest()})
	if c == nil {
		return false
	}
	h := header.TCP(p.frame[p.l4:p.payload])
	s := guestSegment{seq: h.SequenceNumber(), ack: h.AckNumber(), window: uint32(h.WindowSize()), flags: p.tcpFlags, data: p.data()}
	c.receive(&s, &d.out, now)
	if !c.fromGuest.touched {
		c.fromGuest.touched = true
		d.touched = append(d.touched, c)
	}
	return true
}

// flush sends what a batch of frames has brought about. Only the reader calls it.
func (d *direct) flush(now time.Time) {
	if d == nil {
		return
	}
	for i, c := range d.touched {
		c.fromGuest.touched = false
		c.acknowledge(&d.out, now)
		d.touched[i] = nil
	}
	d.touched = d.touched[:0]
	d.send(&d.out)
}

func (d *direct) send(out *batch) {
	if len(out.frames) > 0 {
		d.n.send(out)
		out.reset()
	}
}

// A guestSegment is what the header of a segment from the guest says.
type guestSegment struct {
	seq, ack, window uint32
	flags            uint8
	data             []byte // the frame's memory
}

// receive does what RFC 9293, section 3.10.7, says about a segment.
func (c *directFlow) receive(s *guestSegment, out *batch, now time.Time) {
	c.mu.Lock()
	switch {
	case c.state == directOver:
		c.mu.Unlock()
		return
	case s.flags&flagRST != 0:
		c.mu.Unlock()
		// Outside of the window it is about something else (RFC 5961, section 3).
		if d := int32(s.seq - c.fromGuest.next.Load()); d >= 0 && d <= directWindow {
			c.finish(out, endReset, false, now)
		}
		return
	case s.flags&flagSYN != 0:
		c.repeatedLocked(s, out)
		c.mu.Unlock()
		return
	case c.state == directDialing:
		c.mu.Unlock()
		c.d.n.counters.drop(dropRepeated)
		return
	case c.state == directAnswered:
		if s.ack != c.iss+1 {
			c.mu.Unlock()
			return // of an earlier flow: the SYN-ACK goes out again
		}
		c.state = directOpen
		c.d.n.tcp.established(c.flow)
	}
	c.toGuest.heard = now
	sound, pump := c.ackedLocked(s, now)
	over := c.overLocked()
	c.mu.Unlock()
	switch {
	case !sound:
		c.fromGuest.ackNow.Store(true)
		return
	case over:
		c.finish(out, endFIN, false, now)
		return
	}
	if how := c.fromGuest.receive(c, s, now); c.settle(out, how, now) {
		return
	}
	for pump && c.pump(now) { // as far as the window goes: it opens here only
	}
}

// repeatedLocked answers a SYN of a flow that is there: its SYN-ACK was lost, or
// the guest has forgotten the flow, which our acknowledgement will make it say
// (RFC 5961, section 4).
func (c *directFlow) repeatedLocked(s *guestSegment, out *batch) {
	switch {
	case c.state == directDialing:
		c.d.n.counters.drop(dropRepeated)
	case c.state == directAnswered && s.seq == c.irs && s.flags&flagACK == 0:
		c.appendSYN(out)
	default:
		c.fromGuest.ackNow.Store(true)
	}
}

// settle ends the flow if what its way to the host has done ends it, as how says, or
// was the last that was to be done. It reports whether the flow is over.
func (c *directFlow) settle(out *batch, how string, now time.Time) (over bool) {
	if how != "" {
		c.finish(out, how, true, now)
		return true
	}
	if !c.fromGuest.shut.Load() {
		return false
	}
	c.mu.Lock()
	over = c.overLocked()
	c.mu.Unlock()
	if over {
		c.finish(out, endFIN, false, now)
	}
	return over
}

// overLocked reports whether both directions have ended and the guest has all of
// it.
func (c *directFlow) overLocked() bool {
	return c.toGuest.ended && c.toGuest.una == c.toGuest.nxt && c.fromGuest.shut.Load()
}

// cut ends the flow when its context has ended: somebody else decided so.
func (c *directFlow) cut() {
	var out batch
	why := c.flow.cutReason()
	c.finish(&out, why, true, time.Now())
	c.d.send(&out)
}

// finish ends the flow, once. reset says that the guest is to hear of it. A flow
// that ends in any other way than by both sides' end of stream is reset towards
// the host.
func (c *directFlow) finish(out *batch, how string, reset bool, now time.Time) {
	c.mu.Lock()
	if c.state == directOver {
		c.mu.Unlock()
		return
	}
	if reset {
		c.appendRST(out)
	} else if how == endFIN {
		c.appendACK(out) // of the guest's end of stream, if that was the last
	}
	stop := c.stop
	c.state, c.resetAt = directOver, how != endFIN
	c.toGuest.dropLocked(c)
	c.mu.Unlock()
	// Nobody is in the middle of a write behind this.
	c.fromGuest.drop(c)
	c.mu.Lock()
	if !c.toGuest.pumping {
		c.releaseLocked()
	}
	c.mu.Unlock()
	d := c.d
	d.mu.Lock()
	delete(d.flows, c.flow.key)
	d.mu.Unlock()
	stop()
	d.n.endTCP(c.flow, how, now)
	d.n.flows.Done()
}

// releaseLocked closes the host's socket of a flow that is over, when nobody uses
// it any more.
func (c *directFlow) releaseLocked() {
	if !c.released {
		c.released = true
		c.socket.close(c.resetAt)
	}
}

// reviewed makes the flow's gate look at new rules, soon and elsewhere: who
// replaces the rules may hold its lock.
func (c *directFlow) reviewed() {
	c.fromGuest.review.Store(true)
	c.timer.set(c, time.Now())
}

// appendSYN appends the answer to the guest's SYN.
func (c *directFlow) appendSYN(out *batch) {
	var options [8]byte
	n := header.EncodeMSSOption(uint32(c.ourMSS), options[:])
	if c.scaled {
		n += header.EncodeNOP(options[n:])
		n += header.EncodeWSOption(directScale, options[n:])
	}
	t := c.append(out, c.iss, flagSYN|flagACK, options[:n])
	header.TCP(t).SetWindowSize(uint16(min(directWindow, 0xffff)))
}

// appendRST appends a reset. The guest takes it whatever state it is in.
func (c *directFlow) appendRST(out *batch) {
	seq := c.toGuest.nxt
	if c.state == directDialing {
		seq = 0
	}
	c.append(out, seq, flagRST|flagACK, nil)
}

// appendACK appends an acknowledgement of all that the socket has.
func (c *directFlow) appendACK(out *batch) { c.append(out, c.toGuest.seq.Load(), flagACK, nil) }

// append appends a segment without payload, and returns its TCP header.
func (c *directFlow) append(out *batch, seq uint32, flags uint8, options []byte) []byte {
	start := c.ipOffset()
	f := out.add(start + tcpLen + len(options))
	copy(f[start+tcpLen:], options)
	out.frames[len(out.frames)-1].Offload = c.putHeaders(f, seq, flags, tcpLen+len(options), 0)
	return f[start:]
}

// ipOffset returns how long Ethernet and IP headers are together.
func (c *directFlow) ipOffset() int {
	if c.v6() {
		return etherLen + ipv6Len
	}
	return etherLen + ipv4Len
}

// putHeaders writes the headers of a segment of so much TCP header and payload to
// the beginning of f. They acknowledge what there is to acknowledge.
func (c *directFlow) putHeaders(f []byte, seq uint32, flags uint8, tcpHeader, payload int) (o link.Offload) {
	key := &c.flow.key
	start := c.ipOffset()
	h := ipHeader{src: key.remote.Addr(), dst: key.guest.Addr(), proto: protoTCP, ttl: gatewayTTL, length: tcpHeader + payload}
	c.d.n.builder.putIP(f, &h)
	next, window := c.fromGuest.tell(c.scaled)
	header.TCP(f[start:]).Encode(&header.TCPFields{
		SrcPort: key.remote.Port(), DstPort: key.guest.Port(), SeqNum: seq, AckNum: next,
		DataOffset: uint8(tcpHeader), Flags: header.TCPFlags(flags), WindowSize: window,
		Checksum: pseudoSum(h.src, h.dst, protoTCP, h.length),
	})
	o = link.Offload{NeedsChecksum: true, ChecksumStart: uint16(start), ChecksumOffset: tcpChecksumOffset}
	if payload > c.mss {
		o.SegmentSize, o.GSO = uint16(c.mss), link.GSOTCPv4
		if c.v6() {
			o.GSO = link.GSOTCPv6
		}
	}
	return o
}
