package vnet

import "sync"

// maxIdleWorkers bounds the goroutines that are kept for the next flow: more than
// a busy guest opens at once, and few enough to be nothing.
const maxIdleWorkers = 64

// workers are goroutines that serve flows, one direction each, and stay for the
// next one: a goroutine's stack grows by being copied, which for a flow of one
// request is a tenth of all its work.
type workers struct {
	idle chan func()   // to a worker that waits
	done chan struct{} // closed by stop

	mu      sync.Mutex // guards the following field
	waiting int

	all sync.WaitGroup
}

func newWorkers() *workers {
	return &workers{idle: make(chan func()), done: make(chan struct{})}
}

// run calls f on a goroutine of its own. It must not be called once stop may have
// returned.
func (w *workers) run(f func()) {
	select {
	case w.idle <- f:
	default:
		w.all.Go(func() { w.work(f) })
	}
}

// work is a worker.
func (w *workers) work(f func()) {
	for {
		f()
		f = nil // while it waits it keeps nothing
		if !w.stay() {
			return
		}
		select {
		case f = <-w.idle:
			w.leave()
		case <-w.done:
			return
		}
	}
}

// stay reports whether one more worker may wait.
func (w *workers) stay() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting >= maxIdleWorkers {
		return false
	}
	w.waiting++
	return true
}

func (w *workers) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting--
}

// stop ends the workers that wait, and the others when they are through with what
// they do, and returns then.
func (w *workers) stop() {
	close(w.done)
	w.all.Wait()
}
