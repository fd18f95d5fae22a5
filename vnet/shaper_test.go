package vnet

import (
	"bytes"
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/sluicenet/sluice/vnet/link"
)

// memoryLink is a link that keeps what is written. Reads block until Close.
type memoryLink struct {
	mu      sync.Mutex // guards the following field
	written [][]byte
	closed  chan struct{}
	once    sync.Once
}

func newMemoryLink() *memoryLink { return &memoryLink{closed: make(chan struct{})} }

func (l *memoryLink) ReadFrames([]link.Frame) (int, error) { <-l.closed; return 0, net.ErrClosed }
func (l *memoryLink) Dropped() uint64                      { return 0 }
func (l *memoryLink) Close() error                         { l.once.Do(func() { close(l.closed) }); return nil }

func (l *memoryLink) WriteFrames(frames []link.Frame) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range frames {
		l.written = append(l.written, bytes.Join(append([][]byte{f.Data}, f.More...), nil))
	}
	return len(frames), nil
}

func (l *memoryLink) frames() [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written
}

// TestShaperOrder writes more than the bucket holds: everything arrives, in
// order, whatever had to wait.
func TestShaperOrder(t *testing.T) {
	t.Parallel()
	const frames = 200
	below := newMemoryLink()
	s := newShaper(below, RateLimit{Ingress: Rate{Ops: Bucket{Size: 10, Refill: time.Millisecond}}}, time.Now())
	for i := range frames {
		head, tail := binary.BigEndian.AppendUint32(nil, uint32(i)), []byte("tail")
		if n, err := s.WriteFrames([]link.Frame{{Data: head, More: [][]byte{tail}}}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	for deadline := time.Now().Add(5 * time.Second); len(below.frames()) < frames && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	for i, f := range below.frames() {
		if want := append(binary.BigEndian.AppendUint32(nil, uint32(i)), "tail"...); !bytes.Equal(f, want) {
			t.Fatalf("frame %d is %x, want %x", i, f, want)
		}
	}
	if got := len(below.frames()); got != frames {
		t.Errorf("%d frames arrived, want %d", got, frames)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestShaperBound fills the queue of a link that has stopped: the rest is
// dropped and counted, and Close does not wait for the rate.
func TestShaperBound(t *testing.T) {
	t.Parallel()
	below := newMemoryLink()
	s := newShaper(below, RateLimit{Ingress: Rate{Ops: Bucket{Size: 1, Refill: time.Hour}}}, time.Now())
	frame := []link.Frame{{Data: make([]byte, 64<<10)}}
	for range 2 + shaperQueue/(64<<10) + 3 {
		s.WriteFrames(frame)
	}
	if got := s.Dropped(); got < 3 || got > 5 {
		t.Errorf("dropped %d, want about 4", got)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestShaperUnlimited puts nothing in the way of a card without a limit.
func TestShaperUnlimited(t *testing.T) {
	t.Parallel()
	below := newMemoryLink()
	if s := newShaper(below, RateLimit{}, time.Now()); s != link.Link(below) {
		t.Error("a shaper without a limit")
	}
}
