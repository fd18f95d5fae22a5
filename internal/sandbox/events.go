package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

const (
	// queueLength bounds the events that wait to be written: what a guest can
	// cause in a moment in which the disk is busy.
	queueLength = 8192
	// ringLength bounds the lines kept for readers that come late or are slow,
	// some 4 MiB.
	ringLength = 8192
	// batchLength bounds the events of one write to the file.
	batchLength = 256
	// gatherTime is how long a flow's event waits for others to be written with
	// it: nobody sees so little, and a guest that opens a thousand flows a second
	// would wake the recorder, and every reader, for each. Other events are
	// written at once, with the flows' before them.
	gatherTime = 20 * time.Millisecond
	// maxEventsFile bounds the file in bytes. A full one is renamed once, so
	// that twice as much is kept.
	maxEventsFile = 64 << 20
)

// A recorder numbers events, writes them to a file as JSON lines, and keeps the
// last for readers. Emit may be called by any number of goroutines and never
// waits; one goroutine does the rest.
type recorder struct {
	sandbox string
	queue   chan record   // closed by close
	crowded chan struct{} // holds one element when run is to gather no longer
	done    chan struct{} // closed by run when the last event is written
	lost    atomic.Uint64 // events that found no room since the last that did
	denied  atomic.Uint64 // denials, lost events included
	allowed atomic.Uint64 // flows, likewise

	sending sync.RWMutex // held for reading while sending to queue
	closed  bool         // guarded by sending

	file  *rotatingFile // owned by run
	lines []byte        // the memory of write's batch, owned by run

	mu      sync.Mutex    // guards the following fields
	next    int64         // number of the next event
	ring    []ringLine    // event n is at n % ringLength
	ended   bool          // no more will come
	changed chan struct{} // closed, and replaced, when the fields above change
}

// A ringLine is an event as readers get it, with what they choose it by: to look into
// the line would cost more than most lines are worth to most readers.
type ringLine struct {
	line   []byte
	typ    string
	denies bool
}

// newRecorder starts a recorder that writes to a new file at path.
func newRecorder(sandbox, path string) (*recorder, error) {
	f, err := createRotating(path, maxEventsFile)
	if err != nil {
		return nil, fmt.Errorf("create file of events: %w", err)
	}
	r := &recorder{
		sandbox: sandbox,
		queue:   make(chan record, queueLength),
		crowded: make(chan struct{}, 1),
		done:    make(chan struct{}),
		file:    f,
		ring:    make([]ringLine, ringLength),
		changed: make(chan struct{}),
	}
	go r.run()
	return r, nil
}

// emit records an event. It never waits: an event that finds no room is lost,
// and a later events.dropped tells how many were.
func (r *recorder) emit(rec record) {
	switch {
	case rec.denies():
		r.denied.Add(1)
	case rec.Type == typeOpen:
		r.allowed.Add(1)
	}
	r.sending.RLock()
	defer r.sending.RUnlock()
	if r.closed {
		return
	}
	if lost := r.lost.Swap(0); lost > 0 && !r.offer(record{Type: typeDropped, Time: rec.Time, Count: lost}) {
		r.lost.Add(lost)
	}
	if !r.offer(rec) {
		r.lost.Add(1)
	}
}

// offer puts an event into the queue unless that is full. The caller holds
// sending.
func (r *recorder) offer(rec record) bool {
	select {
	case r.queue <- rec:
	default:
		return false
	}
	if rec.network == nil || len(r.queue) >= cap(r.queue)/2 {
		r.hurry()
	}
	return true
}

// hurry has run write what there is now.
func (r *recorder) hurry() {
	select {
	case r.crowded <- struct{}{}:
	default: // it was told
	}
}

// run writes what is in the queue until that is closed.
func (r *recorder) run() {
	defer close(r.done)
	for rec := range r.queue {
		select {
		case <-time.After(gatherTime):
		case <-r.crowded:
		}
		r.drain(rec)
	}
	if lost := r.lost.Load(); lost > 0 {
		r.write([]record{{Type: typeDropped, Time: time.Now(), Count: lost}})
	}
	_ = r.file.Close() // what it can't take any more still goes to the readers
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	close(r.changed)
}

// drain writes first and what is in the queue behind it.
func (r *recorder) drain(first record) {
	batch := make([]record, 1, batchLength)
	for batch[0] = first; ; {
		for len(batch) < batchLength && len(r.queue) > 0 {
			batch = append(batch, <-r.queue) // only run receives, so there is one
		}
		if len(batch) == 0 {
			return
		}
		r.write(batch)
		clear(batch)
		batch = batch[:0]
	}
}

// write numbers events and passes their lines on.
func (r *recorder) write(batch []record) {
	r.mu.Lock()
	first := r.next // only run writes, so it stays
	r.mu.Unlock()
	ends := make([]int, len(batch))
	r.lines = r.lines[:0]
	for i, rec := range batch {
		rec.Seq = first + int64(i)
		r.lines = r.appendLine(r.lines, rec)
		ends[i] = len(r.lines)
	}
	_, _ = r.file.Write(r.lines) // a full disk must not end the sandbox

	lines := bytes.Clone(r.lines) // one piece for all of the batch
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, start := 0, 0; i < len(batch); i, start = i+1, ends[i] {
		r.ring[(first+int64(i))%ringLength] = ringLine{lines[start:ends[i]:ends[i]], batch[i].Type, batch[i].denies()}
	}
	r.next += int64(len(batch))
	close(r.changed)
	r.changed = make(chan struct{})
}

// line returns the event as it is written.
func (r *recorder) line(rec record) []byte { return r.appendLine(nil, rec) }

// appendLine appends the event as it is written.
func (r *recorder) appendLine(b []byte, rec record) []byte {
	if rec.network != nil {
		return append(appendNetwork(b, rec.network, rec.Seq, r.sandbox), '\n')
	}
	rec.Version, rec.Sandbox = recordVersion, r.sandbox
	text, err := json.Marshal(rec)
	if err != nil {
		panic("sandbox: internal error: event can't be encoded: " + err.Error())
	}
	return append(append(b, text...), '\n')
}

// read calls write with the lines that q asks for, as control.Sandbox says. A reader
// that falls behind the ring is told how many it missed, by an events.dropped that
// has no number, since it is not in the file.
func (r *recorder) read(ctx context.Context, q control.EventQuery, write func([]byte) error) error {
	if !q.Follow { // what has been emitted is to be there
		r.hurry()
		select {
		case <-time.After(gatherTime):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if q.From < 0 {
		r.mu.Lock()
		q.From = r.next
		r.mu.Unlock()
	}
	for {
		lines, next, missed, changed := r.after(q)
		if missed > 0 && q.Wants(typeDropped, false) {
			note := r.line(record{Type: typeDropped, Time: time.Now(), Seq: -1, Count: uint64(missed)})
			lines = append(note, lines...)
		}
		if len(lines) > 0 {
			if err := write(lines); err != nil {
				return err
			}
		}
		q.From = next
		if changed == nil || !q.Follow {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// after returns the lines that q asks for and that are still there, the number
// behind the last event, how many are not there any more, and the channel that says
// when to look again, nil if there is no need.
func (r *recorder) after(q control.EventQuery) (lines []byte, next, missed int64, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := max(q.From, r.next-ringLength)
	for n := first; n < r.next; n++ {
		if e := &r.ring[n%ringLength]; q.Wants(e.typ, e.denies) {
			lines = append(lines, e.line...)
		}
	}
	if !r.ended {
		changed = r.changed
	}
	return lines, max(q.From, r.next), first - q.From, changed
}

// close writes what is queued and ends the recorder; readers get the rest. It is
// idempotent, and emit does nothing afterwards.
func (r *recorder) close() {
	r.sending.Lock()
	if !r.closed {
		r.closed = true
		close(r.queue)
		r.hurry()
	}
	r.sending.Unlock()
	<-r.done
}
