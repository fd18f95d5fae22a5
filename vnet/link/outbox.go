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
	// tryRecords writes what there is room for of records, without waiting, and
	// returns how many bytes. It returns errFull if something is left.
	tryRecords(records []byte) (int, error)
	// waitRecords waits for room, writes some of records and returns how many
	// bytes: at least one.
	waitRecords(records []byte) (int, error)
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
	limit int // bytes in queue and writing together
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

	mu     sync.Mutex // guards the following
	busy   bool       // somebody owns the file's write side
	queue  []byte     // records that wait
	copier train      // cuts frames into queue
	left   int        // bytes of writing that are not written; its owner may read it without mu
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
		o.queue = o.copier.spill(o.queue, o.limit-o.left, o.drops)
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
			o.mu.Lock()
			o.writing = t.spill(o.writing[:0], o.limit-len(o.queue), o.drops)
			o.left = len(o.writing)
			o.mu.Unlock()
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
		n, err := o.sink.tryRecords(o.writing)
		o.wrote(n)
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

// wrote says that n more bytes of writing are written.
func (o *outbox) wrote(n int) {
	o.mu.Lock()
	o.left -= n
	o.mu.Unlock()
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
	o.writing, o.queue = o.queue, o.writing[:0]
	o.left = len(o.writing)
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
		for more := true; more; more = o.take() {
			for o.left > 0 {
				n, err := o.sink.waitRecords(o.writing[len(o.writing)-o.left:])
				if err != nil {
					o.fail(err)
					return
				}
				o.wrote(n)
			}
		}
	}
}
