package memnet

import (
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/sluicenet/sluice/vnet/link"
)

// pipeFrames is how many frames wait at each end of a pipe; what finds no room is
// dropped, as a card does. A window of TCP in segments of 1500 bytes fits.
const pipeFrames = 4096

// Pipe returns a card's two ends: what is written to one is read from the other,
// with its offloads. Nothing outside the process takes part.
func Pipe() (link.Link, link.Link) {
	a, b := newQueue(), newQueue()
	return &pipeEnd{in: a, out: b}, &pipeEnd{in: b, out: a}
}

// A pipeEnd is one end of a pipe.
type pipeEnd struct{ in, out *queue }

var _ link.Link = (*pipeEnd)(nil)

func (e *pipeEnd) ReadFrames(frames []link.Frame) (int, error)  { return e.in.read(frames) }
func (e *pipeEnd) WriteFrames(frames []link.Frame) (int, error) { return e.out.write(frames) }

func (e *pipeEnd) Dropped() uint64 {
	e.out.mu.Lock()
	defer e.out.mu.Unlock()
	return e.out.dropped
}

func (e *pipeEnd) Close() error {
	e.in.close(net.ErrClosed)
	e.out.close(io.EOF)
	return nil
}

// A queue holds the frames on their way in one direction.
type queue struct {
	mu      sync.Mutex // guards the following fields
	changed *sync.Cond // frames or reader's end changed
	frames  []link.Frame
	dropped uint64
	readErr error // why no frame will come: net.ErrClosed at once, io.EOF after the last frame
}

func newQueue() *queue {
	q := new(queue)
	q.changed = sync.NewCond(&q.mu)
	return q
}

// close ends the queue: with net.ErrClosed its reader closed, with io.EOF its
// writer. The first reason counts for the reader, unless that closes later.
func (q *queue) close(reason error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.readErr == nil || reason == net.ErrClosed {
		q.readErr = reason
	}
	q.changed.Broadcast()
}

func (q *queue) read(frames []link.Frame) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.frames) == 0 && q.readErr == nil {
		q.changed.Wait()
	}
	if q.readErr == net.ErrClosed || len(q.frames) == 0 {
		return 0, fmt.Errorf("read from pipe: %w", q.readErr)
	}
	n := min(len(frames), len(q.frames))
	for i := range n {
		frames[i].Offload = q.frames[i].Offload
		frames[i].Data = append(frames[i].Data[:0], q.frames[i].Data...)
	}
	q.frames = q.frames[n:]
	return n, nil
}

func (q *queue) write(frames []link.Frame) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.readErr != nil {
		// The writer's own Close left io.EOF for the reader.
		reason := net.ErrClosed
		if q.readErr == net.ErrClosed {
			reason = io.EOF
		}
		return 0, fmt.Errorf("write to pipe: %w", reason)
	}
	for _, f := range frames {
		if len(q.frames) == pipeFrames {
			q.dropped++
			continue
		}
		data := append([]byte(nil), f.Data...)
		for _, more := range f.More {
			data = append(data, more...)
		}
		q.frames = append(q.frames, link.Frame{Offload: f.Offload, Data: data})
	}
	q.changed.Broadcast()
	return len(frames), nil
}
