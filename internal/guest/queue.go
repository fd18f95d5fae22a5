package guest

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A queue is bytes on their way between two goroutines, bounded. Its memory is
// one flat buffer, however small the pieces are that come; what is beyond
// keptBuffer of it is given back when it is empty.
type queue struct {
	limit int // bytes; immutable

	mu       sync.Mutex // guards the following fields
	changed  *sync.Cond // of any of them; holds mu
	data     []byte     // what was written and not read
	off      int        // where it begins
	end      error      // nil while more may be written; what Read returns behind the data
	broken   error      // nil while somebody reads; what Write returns
	reading  deadline
	writing  deadline
	consumed func(n int) // told of every read, without mu; nil
}

// keptBuffer is how much of an empty queue's buffer is kept in bytes: enough
// that a reader who keeps up costs no allocations.
const keptBuffer = 256 << 10

// newQueue returns an empty queue. consumed, unless nil, is told of every Read.
func newQueue(limit int, consumed func(n int)) *queue {
	q := &queue{limit: limit, consumed: consumed}
	q.changed = sync.NewCond(&q.mu)
	return q
}

// A deadline is one of a queue's, guarded by its mu.
type deadline struct {
	passed bool
	timer  *time.Timer // sets passed; nil without a deadline
	number uint64      // of deadlines so far: a timer that fired too late is not the last
}

// Read reads what is there, or waits until something is.
func (q *queue) Read(p []byte) (int, error) {
	n, err := q.read(p)
	if n > 0 && q.consumed != nil {
		q.consumed(n)
	}
	return n, err
}

func (q *queue) read(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		switch {
		case q.reading.passed:
			return 0, os.ErrDeadlineExceeded
		case q.off < len(q.data):
			n := copy(p, q.data[q.off:])
			if q.off += n; q.off == len(q.data) {
				q.empty()
			}
			q.changed.Broadcast()
			return n, nil
		case q.broken != nil:
			return 0, q.broken
		case q.end != nil:
			return 0, q.end
		case len(p) == 0:
			return 0, nil
		}
		q.changed.Wait()
	}
}

// empty makes the buffer an empty one. The caller holds mu.
func (q *queue) empty() {
	if cap(q.data) > keptBuffer {
		q.data = nil
	}
	q.data, q.off = q.data[:0], 0
}

// take returns all that is there, or waits until something is. The caller owns
// it, and gives a buffer for it, which may be nil.
func (q *queue) take(instead []byte) ([]byte, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.off == len(q.data) {
		switch {
		case q.broken != nil:
			return nil, q.broken
		case q.end != nil:
			return nil, q.end
		}
		q.changed.Wait()
	}
	data := q.data[q.off:]
	q.data, q.off = instead[:0], 0
	q.changed.Broadcast()
	return data, nil
}

// Write writes all of p, waiting for room piece by piece.
func (q *queue) Write(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	written := 0
	for {
		switch {
		case q.broken != nil:
			return written, q.broken
		case q.end != nil:
			return written, net.ErrClosed
		case q.writing.passed:
			return written, os.ErrDeadlineExceeded
		}
		n := min(len(p)-written, q.limit-(len(q.data)-q.off))
		q.put(p[written : written+n])
		if written += n; written == len(p) {
			return written, nil
		}
		q.changed.Wait()
	}
}

// offer writes all of p if there is room, and reports whether that was so. To a
// queue that is closed it writes nothing, which is no lack of room.
func (q *queue) offer(p []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.end != nil || q.broken != nil {
		return true
	}
	if len(p) > q.limit-(len(q.data)-q.off) {
		return false
	}
	q.put(p)
	return true
}

// put appends p. The caller holds mu.
func (q *queue) put(p []byte) {
	if len(p) == 0 {
		return
	}
	if q.off > 0 && len(q.data)+len(p) > cap(q.data) {
		q.data = q.data[:copy(q.data, q.data[q.off:])]
		q.off = 0
	}
	q.data = append(q.data, p...)
	q.changed.Broadcast()
}

// room waits until fewer than n bytes are there, or nothing moves any more.
func (q *queue) room(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.data)-q.off >= n && q.broken == nil {
		q.changed.Wait()
	}
}

// finish says that no more will be written: who reads gets the rest, then err.
// The first call counts.
func (q *queue) finish(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.end == nil {
		q.end = err
		q.changed.Broadcast()
	}
}

// breakOff says that nothing will be read any more: what is there is dropped,
// and err is what both ends get. The first call counts.
func (q *queue) breakOff(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.broken == nil {
		q.broken = err
		q.data, q.off = nil, 0
		q.changed.Broadcast()
	}
}

// setReadDeadline and setWriteDeadline are as for a net.Conn.
func (q *queue) setReadDeadline(t time.Time)  { q.set(&q.reading, t) }
func (q *queue) setWriteDeadline(t time.Time) { q.set(&q.writing, t) }

// set makes t the deadline d.
func (q *queue) set(d *deadline, t time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	d.timer, d.passed = nil, false
	d.number++
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 { // at once, and not when a timer gets its turn
		d.passed = true
		q.changed.Broadcast()
		return
	}
	number := d.number
	d.timer = time.AfterFunc(left, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if d.number == number {
			d.passed = true
			q.changed.Broadcast()
		}
	})
}

var _ io.ReadWriter = (*queue)(nil)
