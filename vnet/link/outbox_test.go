package link

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// A fakeSink has room when the test says so.
type fakeSink struct {
	room    int           // bytes taken without waiting
	open    chan struct{} // closed when waiting for room ends
	during  func()        // called within each write
	err     error         // what a write gives
	waitErr error         // what a write that may wait gives
	busy    atomic.Bool   // a write goes on
	mu      sync.Mutex    // guards got
	got     []byte        // what was written
}

func newFakeSink(room int) *fakeSink {
	return &fakeSink{room: room, open: make(chan struct{})}
}

func (s *fakeSink) put(b []byte) {
	s.mu.Lock()
	s.got = append(s.got, b...)
	s.mu.Unlock()
}

// enter begins a write, and panics if there is another one. What it returns ends
// the write.
func (s *fakeSink) enter() func() {
	if s.busy.Swap(true) {
		panic("two writers at once")
	}
	if s.during != nil {
		s.during()
	}
	return func() { s.busy.Store(false) }
}

func (s *fakeSink) writeTrain(t *train) error {
	defer s.enter()()
	if s.err != nil {
		return s.err
	}
	all := bytes.Join(t.rest(), nil)
	n := min(s.room, len(all))
	s.put(all[:n])
	s.room -= n
	t.advance(n)
	if n < len(all) {
		return errFull
	}
	return nil
}

func (s *fakeSink) tryRecords(b []byte) (int, error) {
	defer s.enter()()
	n := min(s.room, len(b))
	s.put(b[:n])
	s.room -= n
	if n < len(b) {
		return n, errFull
	}
	return n, s.err
}

func (s *fakeSink) waitRecords(b []byte) (int, error) {
	defer s.enter()()
	if s.waitErr != nil {
		return 0, s.waitErr
	}
	<-s.open
	n := min(len(b), 1000)
	s.put(b[:n])
	return n, nil
}

// frames returns what was written, deframed.
func (s *fakeSink) frames(t *testing.T) [][]byte {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	frames, err := deframe(t, s.got, func(most int) int { return most })
	must(t, err)
	return frames
}

// newOutbox returns an outbox with a flusher, and a func that closes it once all
// is written.
func newOutbox(s *fakeSink, limit int) (o *outbox, drain func()) {
	o = &outbox{sink: s, limit: limit, drops: new(drops), fail: func(cause error) error { return cause }}
	o.start()
	return o, func() {
		close(s.open)
		for {
			o.mu.Lock()
			busy := o.busy
			o.mu.Unlock()
			if !busy {
				break
			}
			runtime.Gosched()
		}
		o.close()
	}
}

// TestOutboxRoom has every amount of room there can be for three frames, the
// second in segments: whatever fits at first, the guest gets the same bytes.
func TestOutboxRoom(t *testing.T) {
	t.Parallel()
	s := segment{payload: pattern(150), flags: 0x10}.frame(40)
	frames := []Frame{{Data: pattern(20)}, s, {Data: pattern(14), More: [][]byte{pattern(9)}}}
	var want []byte
	for _, f := range frames {
		for _, b := range cutAll(t, f) {
			want = appendRecord(want, b)
		}
	}
	for n := range len(want) + 1 {
		sink := newFakeSink(n)
		o, drain := newOutbox(sink, 1<<20)
		must(t, o.write(frames))
		drain()
		if !bytes.Equal(sink.got, want) {
			t.Fatalf("with room for %d bytes at first, %d bytes came, not the %d wanted", n, len(sink.got), len(want))
		}
	}
}

// TestOutboxLimit checks what is dropped: the frames that come last, but never
// the rest of one that has begun.
func TestOutboxLimit(t *testing.T) {
	t.Parallel()
	const record = lengthLen + 100
	for _, tt := range []struct {
		name  string
		room  int
		limit int
		want  int // of 10 frames
	}{
		{"no queue, no room", 0, 0, 0},
		{"no queue, room for two", 2 * record, 0, 2},
		{"no queue, room for one and a bit", record + 1, 0, 2},
		{"no queue, room for one and a length", record + lengthLen, 0, 2},
		{"queue for two", 0, 2 * record, 2},
		{"queue for nearly two", 0, 2*record - 1, 1},
		{"room for one and a half, queue for two", record + record/2, 2 * record, 3},
		{"room for all", 10 * record, 0, 10},
	} {
		sink := newFakeSink(tt.room)
		o, drain := newOutbox(sink, tt.limit)
		var frames []Frame
		for range 10 {
			frames = append(frames, Frame{Data: pattern(100)})
		}
		must(t, o.write(frames))
		drain()
		if got := len(sink.frames(t)); got != tt.want || o.drops.Dropped() != uint64(10-tt.want) {
			t.Errorf("%s: %d frames arrived and %d were dropped, want %d and %d", tt.name, got, o.drops.Dropped(), tt.want, 10-tt.want)
		}
	}
}

// TestOutboxCombines has frames come while another one writes: the writer takes
// them along a few times and then leaves them to the flusher.
func TestOutboxCombines(t *testing.T) {
	t.Parallel()
	sink := newFakeSink(1 << 20)
	o, drain := newOutbox(sink, 1<<20)
	calls := 0
	sink.during = func() {
		if calls++; calls <= 10 {
			must(t, o.write([]Frame{{Data: pattern(20 + calls)}})) // returns although the file is busy
		}
	}
	must(t, o.write([]Frame{{Data: pattern(20)}}))
	drain()
	frames := sink.frames(t)
	if len(frames) != 11 {
		t.Fatalf("%d frames, want 11", len(frames))
	}
	for i, b := range frames {
		if len(b) != 20+i {
			t.Errorf("frame %d has %d bytes, want %d", i, len(b), 20+i)
		}
	}
}

// TestOutboxFails checks that an error of the file reaches the writer, and that
// the flusher ends by one.
func TestOutboxFails(t *testing.T) {
	t.Parallel()
	sink := newFakeSink(0)
	sink.err = io.ErrClosedPipe
	o, _ := newOutbox(sink, 1<<20)
	if err := o.write([]Frame{{Data: pattern(20)}}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write = %v", err)
	}
	o.close()

	sink = newFakeSink(0)
	sink.waitErr = io.ErrClosedPipe
	o, _ = newOutbox(sink, 1<<20)
	failed := make(chan error, 1)
	o.fail = func(cause error) error { failed <- cause; return cause }
	must(t, o.write([]Frame{{Data: pattern(20)}}))
	if err := <-failed; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the flusher failed with %v", err)
	}
	<-o.done
	o.close()
}

// TestOutboxForgets checks that an idle outbox keeps neither a large queue nor the
// senders' memory.
func TestOutboxForgets(t *testing.T) {
	t.Parallel()
	sink := newFakeSink(0)
	o, drain := newOutbox(sink, 4<<20)
	for range 60 {
		must(t, o.write([]Frame{segment{payload: pattern(60000)}.frame(1000)}))
	}
	drain()
	if n := cap(o.queue) + cap(o.writing); n > 2*keepQueue {
		t.Errorf("%d bytes are kept", n)
	}
	for _, tr := range []*train{&o.direct, &o.copier} {
		if tr.frames != nil || tr.cut.left.data != nil || tr.cut.left.more != nil {
			t.Error("a sender's frame is kept")
		}
		for _, b := range tr.pieces[:cap(tr.pieces)] {
			if b != nil {
				t.Fatal("a sender's piece is kept")
			}
		}
	}
}
