package dns

import (
	"context"
	"sync"
	"time"
)

// A follower knows the upstreams and asks for them anew when they may have
// changed. It does so only when there is a query: an idle sandbox wakes nobody,
// and what changed during the pause is seen by the first query after it.
type follower struct {
	load  func(ctx context.Context) (upstreams, error)
	every time.Duration // between two loads

	mu      sync.Mutex // guards the following
	current upstreams
	err     error         // of the last load; current is then what the one before gave
	due     time.Time     // of the next load
	loading chan struct{} // not nil while a load runs; closed by who runs it
}

// isDue reports whether the next call of get will load.
func (f *follower) isDue(now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.loading == nil && !now.Before(f.due)
}

// get returns the upstreams, loaded at most every ago, and whether this call
// found that they changed. While one caller loads, the others wait for it.
func (f *follower) get(ctx context.Context, now time.Time) (u upstreams, changed bool, err error) {
	f.mu.Lock()
	if f.loading == nil && now.Before(f.due) {
		defer f.mu.Unlock()
		return f.current, false, f.err
	}
	if wait := f.loading; wait != nil {
		f.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return upstreams{}, false, ctx.Err()
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.current, false, f.err
	}
	done := make(chan struct{})
	f.loading = done
	f.mu.Unlock()

	u, err = f.load(ctx)

	f.mu.Lock()
	defer f.mu.Unlock()
	f.loading, f.due, f.err = nil, now.Add(f.every), err
	close(done)
	if err == nil && !u.equal(f.current) {
		f.current, changed = u, true
	}
	return f.current, changed, err
}

// expire makes the next call of get load.
func (f *follower) expire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.due = time.Time{}
}
