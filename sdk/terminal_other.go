//go:build !unix

package sdk

import (
	"context"
	"errors"
	"os"
)

// See terminal.go. There is no signal that tells of a new size.
func followSize(context.Context, *os.File, func(ctx context.Context, rows, cols uint16) error) (stop func()) {
	return func() {}
}

// A stoppableReader reads f in a goroutine of its own.
type stoppableReader struct {
	chunks  chan []byte   // closed at the input's end, after err was set
	err     error         // of the last read
	stopped chan struct{} // closed by stop
	rest    []byte        // of the chunk before
}

// errStopped is what Read returns once stop was called.
var errStopped = errors.New("input is stopped")

// See terminal.go.
func newStoppableReader(f *os.File) (*stoppableReader, error) {
	r := &stoppableReader{chunks: make(chan []byte), stopped: make(chan struct{})}
	go r.pump(f)
	return r, nil
}

// pump ends with the first read after stop.
func (r *stoppableReader) pump(f *os.File) {
	defer close(r.chunks)
	for {
		buf := make([]byte, 32<<10)
		n, err := f.Read(buf)
		select {
		case r.chunks <- buf[:n]:
		case <-r.stopped:
			return
		}
		if err != nil {
			r.err = err
			return
		}
	}
}

// Read implements io.Reader.
func (r *stoppableReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		select {
		case chunk, ok := <-r.chunks:
			if !ok {
				return 0, r.err
			}
			r.rest = chunk
		case <-r.stopped:
			return 0, errStopped
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *stoppableReader) stop() { close(r.stopped) }

func (r *stoppableReader) close() {}
