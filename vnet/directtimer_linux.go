package vnet

import (
	"syscall"
	"time"
)

// timerTick is how precise deadlines are: flows that are due within it are called
// together.
const timerTick = 4 * time.Millisecond

// directTimers call flows whose deadline has come. They belong to the goroutine of
// direct.run.
type directTimers struct {
	start   time.Time     // since when times are counted, in nanoseconds of the monotonic clock
	waiting []*directFlow // that have a deadline
	next    int64         // the first of them, or earlier; 0 if there is none
	last    int64         // tick
	due     []*directFlow // of the current tick
}

// wakeBy has the flow called at the given time, or before.
func (c *directFlow) wakeBy(at time.Time) {
	t := &c.d.timers
	ns := t.count(at)
	switch {
	case c.due == 0:
		c.place = len(t.waiting)
		t.waiting = append(t.waiting, c)
	case c.due <= ns:
		return
	}
	c.due = ns
	if t.next == 0 || ns < t.next {
		t.next = ns
	}
}

// count returns a time as deadlines are counted: never 0.
func (t *directTimers) count(at time.Time) int64 { return max(int64(at.Sub(t.start)), 1) }

// remove forgets the flow's deadline.
func (t *directTimers) remove(c *directFlow) {
	if c.due == 0 {
		return
	}
	last := len(t.waiting) - 1
	t.waiting[c.place] = t.waiting[last]
	t.waiting[c.place].place = c.place
	t.waiting[last] = nil
	t.waiting = t.waiting[:last]
	c.due = 0
}

// wait returns how long it is to the next tick that has something to do; negative if
// there is none.
func (t *directTimers) wait(now time.Time) time.Duration {
	if t.next == 0 {
		return -1
	}
	return max(time.Duration(t.at()-t.count(now)), 0)
}

// at returns when the next tick is due; valid iff next is.
func (t *directTimers) at() int64 { return max(t.next, t.last+int64(timerTick)) }

// tick calls the flows that are due.
func (t *directTimers) tick(now time.Time) {
	ns := t.count(now)
	if t.next == 0 || ns < t.at() {
		return
	}
	t.last, t.next = ns, 0
	for _, c := range t.waiting {
		if c.due <= ns {
			t.due = append(t.due, c)
		} else if t.next == 0 || c.due < t.next {
			t.next = c.due
		}
	}
	for _, c := range t.due {
		t.remove(c)
	}
	for i, c := range t.due {
		c.tick(now)
		t.due[i] = nil
	}
	t.due = t.due[:0]
}

// tick does what is due, and sets the next deadline.
func (c *directFlow) tick(now time.Time) {
	in := &c.fromGuest
	if in.expired(c, now) && c.askGate(now) {
		return
	}
	in.recover(c, now)
	how := ""
	switch c.state {
	case directDialing:
		if !now.Before(c.dialBy) {
			c.dialFailed(syscall.ETIMEDOUT, now)
			return
		}
		c.wakeBy(c.dialBy)
	case directAnswered:
		how = c.tickAnswered(now)
	case directOpen:
		how = c.tickOpen(now)
	}
	if how != "" {
		c.finish(how, true, now)
	} else if c.pump(now) {
		c.wakeBy(now)
	}
}

// tickAnswered repeats the SYN-ACK.
func (c *directFlow) tickAnswered(now time.Time) (how string) {
	o := &c.toGuest
	if !now.Before(c.dialBy) {
		return endReset
	}
	if at := o.synSent.Add(o.timeout); !now.Before(at) {
		c.appendSYN()
		o.synSent, o.timeout = now, 2*o.timeout
	}
	c.wakeBy(o.synSent.Add(o.timeout))
	return ""
}

// tickOpen sends the acknowledgement that was delayed, and has pump send what the
// guest didn't acknowledge.
func (c *directFlow) tickOpen(now time.Time) (how string) {
	in, o := &c.fromGuest, &c.toGuest
	if in.next != in.told || in.opened() {
		c.appendACK()
	}
	if o.starved {
		o.starved, o.readable = false, true
	}
	switch {
	case o.deadline.IsZero():
	case now.Before(o.deadline):
		c.wakeBy(o.deadline)
	default:
		if o.tries++; o.tries > maxRepeats {
			return endTimeout
		}
		o.timeout = min(2*o.timeout, lastTimeout)
		o.deadline = time.Time{}
		if o.una != o.nxt {
			o.lose()
		} else if o.readable && o.room(c.mss) == 0 {
			c.append(o.una-1, flagACK, nil) // is the window still closed?
			o.deadline = now.Add(o.timeout)
			c.wakeBy(o.deadline)
		}
	}
	return ""
}
