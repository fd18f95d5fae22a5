package vnet

import (
	"sync"
	"sync/atomic"
	"testing"
)

// TestWorkers runs more at once than workers stay, several times over; all of it
// is done when stop returns.
func TestWorkers(t *testing.T) {
	t.Parallel()
	w := newWorkers()
	var ran atomic.Int32
	for range 3 {
		var begun, done sync.WaitGroup
		release := make(chan struct{})
		for range 2 * maxIdleWorkers {
			begun.Add(1)
			done.Add(1)
			w.run(func() {
				begun.Done()
				<-release
				ran.Add(1)
				done.Done()
			})
		}
		begun.Wait() // they do run at once
		close(release)
		done.Wait()
	}
	late := make(chan struct{})
	w.run(func() { <-late; ran.Add(1) })
	go close(late)
	w.stop()
	if got := ran.Load(); got != 3*2*maxIdleWorkers+1 {
		t.Errorf("%d ran", got)
	}
	if w.waiting > maxIdleWorkers {
		t.Errorf("%d wait", w.waiting)
	}
}
