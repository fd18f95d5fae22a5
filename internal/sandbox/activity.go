package sandbox

import (
	"sync"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

// An activity knows what goes on in a sandbox, and from it when the sandbox is to
// end by itself. It reads no clock. Its methods may be called by several
// goroutines.
type activity struct {
	// idle and limit are Config.IdleTimeout and Config.MaxDuration; start is
	// when the sandbox began. They don't change.
	idle, limit time.Duration
	start       time.Time

	mu       sync.Mutex    // guards the following fields
	seq      uint64        // counts touches and what began
	sessions int           // commands, sessions with files and connections that are open
	quiet    time.Time     // since when there is none, or of the last touch if that was later
	draining bool          // no session may begin; the last one's end is the sandbox's
	changed  chan struct{} // has room for one sign that ending may be another
}

func newActivity(cfg Config, now time.Time) *activity {
	return &activity{idle: cfg.IdleTimeout, limit: cfg.MaxDuration, start: now, quiet: now, changed: make(chan struct{}, 1)}
}

// begin counts a session, whose end must be told. It reports false if none may
// begin any more.
func (a *activity) begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.draining {
		return false
	}
	a.seq++
	a.sessions++
	a.sign()
	return true
}

// end tells of the end of a session.
func (a *activity) end(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sessions--
	a.quiet = now
	a.sign()
}

// touch counts as activity and returns the count.
func (a *activity) touch(now time.Time) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seq++
	a.quiet = now
	a.sign()
	return a.seq
}

// drain lets nothing begin any more.
func (a *activity) drain() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.draining = true
	a.sign()
}

// isDraining reports whether drain was called.
func (a *activity) isDraining() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.draining
}

// sign tells the waiter to look again. The caller holds mu.
func (a *activity) sign() {
	select {
	case a.changed <- struct{}{}:
	default: // it has been told
	}
}

// ending returns what is to end the sandbox and when, as things stand; the zero
// time is never.
func (a *activity) ending() (source string, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.limit > 0 {
		source, at = control.SourceLimit, a.start.Add(a.limit)
	}
	if a.sessions > 0 {
		return source, at
	}
	if idle := a.quiet.Add(a.idle); a.idle > 0 && (at.IsZero() || idle.Before(at)) {
		source, at = control.SourceIdle, idle
	}
	if a.draining && (at.IsZero() || a.quiet.Before(at)) {
		source, at = control.SourceDrain, a.quiet
	}
	return source, at
}

// expire ends the sandbox when its activity says so, until it has ended for
// another reason.
func (s *Sandbox) expire() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		source, at := s.activity.ending()
		timer.Stop()
		if !at.IsZero() {
			wait := time.Until(at)
			if wait <= 0 {
				s.end(source)
				return
			}
			timer.Reset(wait)
		}
		select {
		case <-timer.C:
		case <-s.activity.changed:
		case <-s.over:
			return
		}
	}
}
