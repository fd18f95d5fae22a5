package dns

import (
	"context"
	"sync"
	"time"
)

// retryLoad is how soon to try again what failed.
const retryLoad = time.Second

// A follower knows the upstreams and asks for them anew when they may have
// changed. It does so only when there is a query: an idle sandbox wakes nobody,
// and what changed during the pause is seen by the first query after it.
type follower struct {
	load  loader
	every time.Duration // between two loads

	mu      sync.Mutex // guards the following
	current finding
	due     time.Time     // of the next load
	loading chan struct{} // not nil while a load runs; closed by who runs it
}

// A finding is what a follower knows.
type finding struct {
	upstreams       // what the last load that succeeded gave
	err       error // of the last load
	changed   bool  // this call found other upstreams than were known
	broke     bool  // this call failed where the one before hadn't
}

// isDue reports whether the next call of get will load.
func (f *follower) isDue(now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.loading == nil && !now.Before(f.due)
}

// expire makes the next call of get load.
func (f *follower) expire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.due = time.Time{}
}

// get returns the upstreams, loaded at most every ago. While one caller loads,
// the others wait for it.
func (f *follower) get(ctx context.Context, now time.Time) finding {
	f.mu.Lock()
	for f.loading != nil {
		wait := f.loading
		f.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return finding{err: ctx.Err()}
		}
		f.mu.Lock()
	}
	if now.Before(f.due) {
		defer f.mu.Unlock()
		return f.current
	}
	done := make(chan struct{})
	f.loading = done
	f.mu.Unlock()

	u, err := f.load(ctx) // reads files or runs a program: not under the lock

	f.mu.Lock()
	defer f.mu.Unlock()
	f.loading, f.due = nil, now.Add(f.every)
	close(done)
	news := f.current
	if err != nil {
		// A file may be missing for the moment in which it is replaced. Until it
		// can be read again, the resolvers of before are the best guess.
		f.due = now.Add(min(f.every, retryLoad))
		news.broke = news.err == nil
	} else if !u.equal(news.upstreams) {
		news.upstreams, news.changed = u, true
	}
	news.err = err
	f.current = news
	f.current.changed, f.current.broke = false, false
	return news
}
