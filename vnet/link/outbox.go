package link

import (
	"errors"
	"sync"
)

// errFull says that the guest has no room now.
var errFull = errors.New("no room")

// A sink writes to a file, from one goroutine at a time.
type sink interface {
	// writeTrain writes what there is room for of t, without waiting, and takes
	// it off t. It returns errFull if something is left.
	writeTrain(t *train) error
	// writeRecords writes records and returns how many bytes it wrote. If wait
	// is false and room is missing it returns errFull.
	writeRecords(records []byte, wait bool) (int, error)
}

const (
	// combineRounds is how often a writer writes what others left meanwhile,
	// before it leaves that to the flusher: the price of its own call must not
	// depend on how many others there are.
	combineRounds = 4
	// keepQueue is how large a buffer an idle outbox keeps. A guest that stood
	// still once shall not cost memory for ever.
	keepQueue = 256 << 10
)

// An outbox lets any number of goroutines write frames to one file, without
// waiting for the guest or for each other's system calls.
//
// The file's write side belongs to the one that set busy: a writer, or the
// flusher goroutine, to which a writer passes it through wake. All others leave
// their frames in queue.
type outbox struct {
	sink  sink
	limit int // bytes in queue
	drops *drops
	// fail ends the link because writing failed.
	fail func(cause error) error
	wake chan struct{} // capacity 1; filled by the owner of the file, who thereby is not it any more
	quit chan struct{} // closed by close
	done chan struct{} // closed when the flusher returns
	stop sync.Once     // guards the closing of quit

	// Owned by whoever set busy.
	direct  train
	writing []byte // records taken from queue
	written int    // bytes of writing that are written

	mu sync.Mutex // guards the following
	// busy says that somebody owns the file's write side.
	busy   bool
	queue  []byte // records that wait
	copier train  // cuts frames into queue
}

// start makes the outbox ready and starts its flusher, which ends with close.
func (o *outbox) start() {
	o.wake = make(chan struct{}, 1)
	o.quit = make(chan struct{})
	o.done = make(chan struct{})
	go o.flusher()
}

// close ends the flusher, whose file must be closed, and waits for it.
func (o *outbox) close() {
	o.stop.Do(func() { close(o.quit) })
	<-o.done
}

// write carries frames to the guest, in order. What finds no room is dropped.
func (o *outbox) write(frames []Frame) error {
	for len(frames) > 0 {
		o.mu.Lock()
		if !o.busy {
			o.busy = true
			o.mu.Unlock()
			return o.writeDirect(frames)
		}
		// One frame per turn: the others wait no longer for mu than it takes to
		// copy one.
		o.copier.load(frames[:1])
		o.queue = o.copier.spill(o.queue, o.limit, o.drops)
		o.mu.Unlock()
		frames = frames[1:]
	}
	return nil
}

// writeDirect writes frames and then what others left meanwhile. The caller must
// have set busy.
func (o *outbox) writeDirect(frames []Frame) error {
	t := &o.direct
	t.load(frames)
	for t.fill(o.drops) {
		switch err := o.sink.writeTrain(t); err {
		case nil:
		case errFull:
			o.writing, o.written = t.spill(o.writing[:0], o.limit, o.drops), 0
			o.wake <- struct{}{}
			return nil
		default:
			return o.fail(err)
		}
	}
	for range combineRounds {
		if !o.take() {
			return nil
		}
		n, err := o.sink.writeRecords(o.writing, false)
		o.written = n
		switch err {
		case nil:
		case errFull:
			o.wake <- struct{}{}
			return nil
		default:
			return o.fail(err)
		}
	}
	o.wake <- struct{}{}
	return nil
}

// take moves the queue to writing, which must be written. If there is nothing it
// gives the file back and reports false.
func (o *outbox) take() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		o.busy = false
		if cap(o.writing) > keepQueue {
			o.writing = nil
		}
		if cap(o.queue) > keepQueue {
			o.queue = nil
		}
		return false
	}
	o.writing, o.queue, o.written = o.queue, o.writing[:0], 0
	return true
}

// flusher writes what waits whenever it is given the file, waiting for the guest
// as long as that takes.
func (o *outbox) flusher() {
	defer close(o.done)
	for {
		select {
		case <-o.quit:
			return
		case <-o.wake:
		}
		for {
			if o.written < len(o.writing) {
				if _, err := o.sink.writeRecords(o.writing[o.written:], true); err != nil {
					o.fail(err)
					return
				}
			}
			if !o.take() {
				break
			}
		}
	}
}
