package vnet

import "time"

const (
	// ackDelay is how long an acknowledgement waits for bytes to travel with (RFC
	// 9293, section 3.8.6.3, allows half a second): a server on this machine
	// answers sooner, and a guest that waits for it to send more hardly notices.
	ackDelay = 4 * time.Millisecond
	// earlyQueue is how much of a flow's queue may use the budget's last quarter
	// but one, which growth has to leave to others.
	earlyQueue = 32 << 10
	// starvedPause is how long a flow that found the budget spent waits before it
	// asks again. Thousands may.
	starvedPause = 20 * time.Millisecond
)

// directIn is a direct flow's way from the guest to the host. Bytes go from the
// frame straight into the socket. What it has no room for, and what the gate
// holds, waits in a queue.
type directIn struct {
	next   uint32 // RCV.NXT: what the guest is to send next
	told   uint32 // next, as the guest was told last
	window int    // likewise

	touched bool  // the flow is in direct.touched
	ackNow  bool  // an acknowledgement is due at once
	starved bool  // the budget is spent: the window is closed
	watched bool  // the poller tells when the socket has room
	ended   bool  // the guest's end of stream has come
	shut    bool  // the host was sent it
	gate    *gate // nil once open

	queue   []byte
	head    int   // bytes of queue that the socket has
	passed  int   // bytes of queue that the gate let pass
	charged int64 // taken from the budget
}

func (in *directIn) begin(next uint32, g *gate) {
	in.next, in.told, in.window, in.gate = next, next, directWindow, g
}

// tell returns what a segment to the guest says: the acknowledgement and the
// window.
func (in *directIn) tell(scaled bool) (next uint32, window uint16) {
	in.told, in.window = in.next, in.room()
	room := in.window
	if scaled {
		room >>= directScale
	}
	return in.next, uint16(min(room, 0xffff))
}

// room is the window. Each byte that comes makes it smaller by no more than one, so
// what was promised stays so, unless the budget is spent.
func (in *directIn) room() int {
	if in.starved {
		return 0
	}
	return max(directWindow-in.waiting(), 0)
}

// waiting returns how many bytes the socket has yet to take.
func (in *directIn) waiting() int { return len(in.queue) - in.head }

// acknowledge sends an acknowledgement if one is due, or has it sent in time.
func (c *directFlow) acknowledge(now time.Time) {
	in := &c.fromGuest
	due := int(in.next - in.told)
	at := in.ackNow || due >= 2*c.mss
	in.ackNow = false
	switch {
	case c.state != directAnswered && c.state != directOpen:
	case at:
		c.appendACK()
	case due > 0:
		c.wakeBy(now.Add(ackDelay))
	}
}

// receive takes what is new in a segment, and returns how the flow ends if that
// ends it.
func (in *directIn) receive(c *directFlow, s *guestSegment, now time.Time) (how string) {
	fin := s.flags&flagFIN != 0
	total := len(s.data)
	if fin {
		total++
	}
	if total == 0 {
		in.ackNow = in.ackNow || s.seq != in.next // it asks whether we are there
		return ""
	}
	known := int(int32(in.next - s.seq))
	if known < 0 || known >= total || in.ended {
		if known < 0 {
			c.d.n.counters.drop(dropSequence)
		}
		in.ackNow = true
		return ""
	}
	data := s.data[min(known, len(s.data)):]
	n, how := in.take(c, data, fin, now)
	in.next += uint32(n)
	if n < len(data) {
		in.ackNow = true // the guest keeps the rest, and sends it again
		return how
	}
	if fin && how == "" {
		in.ended = true
		in.next++ // which our own end of stream may soon acknowledge
		how = in.finish(c)
	}
	return how
}

// take takes bytes in order, and returns how many. closed says that nothing
// follows them.
func (in *directIn) take(c *directFlow, data []byte, closed bool, now time.Time) (n int, how string) {
	if in.gate == nil && len(in.queue) == 0 {
		if n, how = in.write(c, data); how != "" || n == len(data) {
			return n, how
		}
	}
	k := in.enqueue(c, data[n:], now)
	closed = closed && n+k == len(data)
	if in.gate == nil {
		in.passed = len(in.queue)
	} else if how = in.ask(c, closed, now); how != "" {
		return n + k, how
	}
	return n + k, in.flush(c)
}

// write writes to the host what it has room for.
func (in *directIn) write(c *directFlow, b []byte) (n int, how string) {
	if len(b) == 0 {
		return 0, ""
	}
	n, err := c.socket.write(b)
	c.flow.bytesOut.Add(uint64(n))
	if err != nil {
		return n, endReset
	}
	if n < len(b) && !in.watched {
		in.watched = true
		if c.socket.watchWrites() != nil {
			return n, endFailed
		}
	}
	return n, ""
}

// enqueue keeps bytes for later, and returns how many: those that the window has
// promised, if there is memory.
func (in *directIn) enqueue(c *directFlow, b []byte, now time.Time) int {
	b = b[:min(len(b), directWindow-in.waiting())]
	if len(in.queue)+len(b) > cap(in.queue) && !in.makeRoom(c, len(b)) {
		in.starved = true
		c.d.n.limitHit("BufferBytes", c.flow, now)
		c.wakeBy(now.Add(starvedPause))
		b = b[:min(len(b), cap(in.queue)-len(in.queue))]
	}
	in.queue = append(in.queue, b...)
	return len(b)
}

// makeRoom moves the queue to where n bytes more have room, and reports false if the
// budget has no memory for that. Half of the memory is for bytes that the socket has
// already, so that those which wait are not moved again and again.
func (in *directIn) makeRoom(c *directFlow, n int) bool {
	to, waiting := in.queue[:0], in.queue[in.head:]
	if in.head < len(waiting)+n {
		size := 2 * (len(waiting) + n)
		leave := c.d.n.budget.limit / 4
		if size <= earlyQueue {
			leave /= 2
		}
		if !c.d.n.budget.take(int64(size), leave) {
			return false
		}
		c.d.n.budget.give(in.charged)
		to, in.charged = make([]byte, 0, size), int64(size)
	}
	in.queue = append(to, waiting...)
	in.passed -= in.head
	in.head = 0
	return true
}

// recover opens a window that was closed for want of memory, if there is some again.
func (in *directIn) recover(c *directFlow, now time.Time) {
	switch b := c.d.n.budget; {
	case !in.starved:
	case b.take(0, b.limit/8):
		in.starved = false
	default:
		c.wakeBy(now.Add(starvedPause))
	}
}

// ask shows the gate what it has not let pass.
func (in *directIn) ask(c *directFlow, closed bool, now time.Time) (how string) {
	n, denied := in.gate.pass(in.queue[in.passed:], closed, now)
	switch {
	case denied:
		return endDenied
	case in.gate.handOver: // to an inspector that didn't want it when it began
		c.d.n.denyUnread(c.flow, now)
		return endDenied
	}
	in.passed += n
	if in.gate.open() {
		in.gate, in.passed = nil, len(in.queue)
	} else if by := in.gate.until(); !by.IsZero() {
		c.wakeBy(by)
	}
	return ""
}

// expired reports whether the gate holds bytes that are to be given up.
func (in *directIn) expired(c *directFlow, now time.Time) bool {
	if in.gate == nil {
		return false
	}
	by := in.gate.until()
	if by.IsZero() {
		return false
	}
	if now.Before(by) {
		c.wakeBy(by)
		return false
	}
	return true
}

// again asks the gate once more: rules were replaced, or its time may be over.
func (in *directIn) again(c *directFlow, now time.Time) (how string) {
	if in.gate == nil {
		return ""
	}
	if how = in.ask(c, in.ended, now); how == "" {
		how = in.flush(c)
	}
	return how
}

// flush writes what has passed the gate.
func (in *directIn) flush(c *directFlow) (how string) {
	n, how := in.write(c, in.queue[in.head:in.passed])
	if in.head += n; in.waiting() == 0 {
		in.release(c)
	}
	if how == "" && in.ended {
		how = in.finish(c)
	}
	return how
}

// finish passes the guest's end of stream on when the host has all before it.
func (in *directIn) finish(c *directFlow) (how string) {
	if len(in.queue) > 0 || in.shut {
		return ""
	}
	if c.socket.closeWrite() != nil {
		return endReset
	}
	in.shut = true
	return ""
}

// release gives the queue's memory back.
func (in *directIn) release(c *directFlow) {
	c.d.n.budget.give(in.charged)
	in.queue, in.head, in.passed, in.charged, in.starved = nil, 0, 0, 0, false
}

// opened reports whether the window has opened so far that the guest should know:
// far enough that it doesn't send in crumbs (RFC 9293, section 3.8.6.2.2).
func (in *directIn) opened() bool { return in.room()-in.window >= directWindow/4 }
