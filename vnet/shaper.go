package vnet

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicenet/sluice/vnet/link"
)

// shaperQueue bounds the frames that wait for tokens towards the guest, in
// bytes: at any rate worth setting it is less than the sender's windows, so that
// TCP finds the rate by a little loss and not by seconds of delay.
const shaperQueue = 1 << 20

// A shaper is a link that keeps to a RateLimit. From the guest it reads no
// faster than the rate, so frames wait in the guest's own queue. Towards the
// guest they wait here, in order, and what exceeds the queue is dropped.
type shaper struct {
	link.Link
	egress meter // owned by the reader's goroutine

	mu      sync.Mutex // guards the following fields
	ingress meter
	queue   []link.Frame // copies
	queued  int          // bytes in queue
	sending bool         // the sender has a frame in hand, which nothing may overtake

	dropped atomic.Uint64
	wake    chan struct{} // holds one element when queue may have become non-empty
	closing chan struct{} // closed by Close
	once    sync.Once
	sender  sync.WaitGroup
}

// newShaper returns l, limited. It returns l itself if there is no limit.
func newShaper(l link.Link, limit RateLimit, now time.Time) link.Link {
	if !limit.Egress.limits() && !limit.Ingress.limits() {
		return l
	}
	s := &shaper{
		Link: l, egress: newMeter(limit.Egress, now), ingress: newMeter(limit.Ingress, now),
		wake: make(chan struct{}, 1), closing: make(chan struct{}),
	}
	s.sender.Go(s.send)
	return s
}

// ReadFrames waits until the frames of the call before are paid for.
func (s *shaper) ReadFrames(frames []link.Frame) (int, error) {
	if !s.pause(s.egress.wait(time.Now())) {
		return s.Link.ReadFrames(frames) // which says why it is closed
	}
	n, err := s.Link.ReadFrames(frames)
	for _, f := range frames[:n] {
		s.egress.take(len(f.Data))
	}
	return n, err
}

// WriteFrames writes what there are tokens for, and queues the rest.
func (s *shaper) WriteFrames(frames []link.Frame) (int, error) {
	s.mu.Lock()
	now, direct := time.Now(), 0
	for len(s.queue) == 0 && !s.sending && direct < len(frames) && s.ingress.wait(now) == 0 {
		s.ingress.take(sizeOf(&frames[direct]))
		direct++
	}
	for i := range frames[direct:] {
		s.enqueue(&frames[direct+i])
	}
	waiting := len(s.queue) > 0
	s.mu.Unlock()
	if waiting {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	if direct > 0 {
		if n, err := s.Link.WriteFrames(frames[:direct]); err != nil {
			return n, err
		}
	}
	return len(frames), nil
}

// enqueue copies a frame to the queue's end. The caller holds mu.
func (s *shaper) enqueue(f *link.Frame) {
	size := sizeOf(f)
	if s.queued+size > shaperQueue {
		s.dropped.Add(1)
		return
	}
	s.queued += size
	s.queue = append(s.queue, link.Frame{Offload: f.Offload, Data: slices.Concat(append([][]byte{f.Data}, f.More...)...)})
}

// send is the goroutine that writes queued frames when they are paid for.
func (s *shaper) send() {
	for {
		f, wait := s.dequeue(time.Now())
		switch {
		case f != nil:
			if _, err := s.Link.WriteFrames([]link.Frame{*f}); err != nil {
				return
			}
		case wait > 0:
			if !s.pause(wait) {
				return
			}
		default:
			select {
			case <-s.wake:
			case <-s.closing:
				return
			}
		}
	}
}

// dequeue takes the queue's first frame if it is paid for, or says how long
// until then; neither if the queue is empty.
func (s *shaper) dequeue(now time.Time) (*link.Frame, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sending = false
	if len(s.queue) == 0 {
		return nil, 0
	}
	if wait := s.ingress.wait(now); wait > 0 {
		return nil, wait
	}
	f := s.queue[0]
	s.queue[0] = link.Frame{}
	s.queue = s.queue[1:]
	s.queued -= len(f.Data)
	s.ingress.take(len(f.Data))
	s.sending = true
	return &f, 0
}

// pause waits, and reports whether the shaper is still open.
func (s *shaper) pause(d time.Duration) bool {
	if d == 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.closing:
		return false
	}
}

// Dropped counts what found no room here or in the link.
func (s *shaper) Dropped() uint64 { return s.dropped.Load() + s.Link.Dropped() }

// Close closes the link and ends the goroutine.
func (s *shaper) Close() error {
	s.once.Do(func() { close(s.closing) })
	err := s.Link.Close()
	s.sender.Wait()
	return err
}

// sizeOf returns a frame's length in bytes.
func sizeOf(f *link.Frame) int {
	n := len(f.Data)
	for _, b := range f.More {
		n += len(b)
	}
	return n
}
