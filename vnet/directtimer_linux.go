package vnet

import (
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// timerTick is how precise deadlines are: flows that are due within it are called
// together.
const timerTick = 4 * time.Millisecond

// directTimers call flows whose deadline has come. Nothing runs until the first of
// them.
type directTimers struct {
	d     *direct
	timer *time.Timer

	turn sync.Mutex // held while flows are called

	mu      sync.Mutex    // guards the following fields
	waiting []*directFlow // that have a deadline
	next    int64         // when the timer fires, in nanoseconds of Unix time; 0 if it doesn't
	closed  bool
}

// directTimer is a flow's part.
type directTimer struct {
	at atomic.Int64 // the next deadline, in nanoseconds of Unix time; 0 if there is none
}

func (t *directTimers) init(d *direct) {
	t.d = d
	t.timer = time.AfterFunc(time.Hour, t.tick)
	t.timer.Stop()
}

// set has c called at the given time, or before.
func (t *directTimer) set(c *directFlow, at time.Time) {
	want := at.UnixNano()
	for {
		have := t.at.Load()
		if have != 0 && have <= want {
			return
		}
		if t.at.CompareAndSwap(have, want) {
			c.d.timers.schedule(c, have == 0, want)
			return
		}
	}
}

// schedule has the timer fire for c's deadline; c is new if it had none.
func (t *directTimers) schedule(c *directFlow, isNew bool, at int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if isNew {
		t.waiting = append(t.waiting, c)
	}
	t.startLocked(at)
}

func (t *directTimers) startLocked(at int64) {
	if t.closed || t.next != 0 && t.next <= at {
		return
	}
	t.next = at
	t.timer.Reset(max(time.Until(time.Unix(0, at)), timerTick))
}

// tick calls the flows that are due.
func (t *directTimers) tick() {
	t.turn.Lock()
	defer t.turn.Unlock()
	now := time.Now()
	t.mu.Lock()
	t.next = 0
	var due []*directFlow
	rest := t.waiting[:0]
	for _, c := range t.waiting {
		if c.timer.at.Load() > now.UnixNano() {
			rest = append(rest, c)
		} else {
			due = append(due, c)
		}
	}
	clear(t.waiting[len(rest):])
	t.waiting = rest
	t.mu.Unlock()
	var out batch
	for _, c := range due {
		c.timer.at.Store(0)
		c.tick(&out, now)
	}
	t.d.send(&out)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.waiting {
		t.startLocked(c.timer.at.Load())
	}
}

// close returns when no flow is called any more.
func (t *directTimers) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.timer.Stop()
	t.turn.Lock()
	defer t.turn.Unlock()
}

// tick does what is due, and sets the next deadline.
func (c *directFlow) tick(out *batch, now time.Time) {
	in := &c.fromGuest
	if in.review.Swap(false) || in.expired(c, now) {
		if how := in.again(c, now); c.settle(out, how, now) {
			return
		}
	}
	in.recover(c, now)
	c.mu.Lock()
	how := ""
	switch c.state {
	case directDialing:
		if !now.Before(c.dialBy) {
			c.mu.Unlock()
			c.dialFailed(out, syscall.ETIMEDOUT, now)
			return
		}
		c.timer.set(c, c.dialBy)
	case directAnswered:
		how = c.answeredTickLocked(out, now)
	case directOpen:
		how = c.openTickLocked(out, now)
	}
	c.mu.Unlock()
	if how != "" {
		c.finish(out, how, true, now)
	} else if c.pump(now) {
		c.timer.set(c, now)
	}
}

// answeredTickLocked repeats the SYN-ACK.
func (c *directFlow) answeredTickLocked(out *batch, now time.Time) (how string) {
	o := &c.toGuest
	if !now.Before(c.dialBy) {
		return endReset
	}
	if at := o.synSent.Add(o.timeout); !now.Before(at) {
		c.appendSYN(out)
		o.synSent, o.timeout = now, 2*o.timeout
	}
	c.timer.set(c, o.synSent.Add(o.timeout))
	return ""
}

// openTickLocked sends the acknowledgement that was delayed, and has pump send what
// the guest didn't acknowledge.
func (c *directFlow) openTickLocked(out *batch, now time.Time) (how string) {
	in, o := &c.fromGuest, &c.toGuest
	if in.next.Load() != in.told.Load() || in.opened() {
		c.appendACK(out)
	}
	if o.starved {
		o.starved, o.readable = false, true
	}
	switch {
	case o.deadline.IsZero():
	case now.Before(o.deadline):
		c.timer.set(c, o.deadline)
	default:
		if o.tries++; o.tries > maxRepeats {
			return endTimeout
		}
		o.timeout = min(2*o.timeout, lastTimeout)
		o.deadline = time.Time{}
		if o.una != o.nxt {
			o.loseLocked()
		} else if o.readable && o.roomLocked(c.mss) == 0 {
			c.append(out, o.una-1, flagACK, nil) // is the window still closed?
			o.deadline = now.Add(o.timeout)
			c.timer.set(c, o.deadline)
		}
	}
	return ""
}

// keepAlive asks guests that have been silent for long whether they are there, and
// ends the flows of those that don't answer. The kernel asks the hosts of flows that
// live so long that this sees them: four system calls less for those that don't.
func (d *direct) keepAlive(now time.Time) {
	if d == nil {
		return
	}
	var out batch
	d.mu.RLock()
	all := make([]*directFlow, 0, len(d.flows))
	for _, c := range d.flows {
		all = append(all, c)
	}
	d.mu.RUnlock()
	for _, c := range all {
		c.mu.Lock()
		o := &c.toGuest
		due := c.state == directOpen && now.Sub(o.heard) > keepAliveIdle+time.Duration(o.probes)*keepAliveInterval
		gone := due && o.probes >= keepAliveCount
		if c.state == directOpen && !c.kept {
			c.kept = true
			c.socket.keepAlive()
		}
		if due && !gone {
			o.probes++
			c.append(&out, o.una-1, flagACK, nil)
		}
		c.mu.Unlock()
		if gone {
			c.finish(&out, endTimeout, true, now)
		}
	}
	d.send(&out)
}
