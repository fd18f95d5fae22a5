//go:build unix

package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// See terminal.go.
func followSize(ctx context.Context, f *os.File, resize func(ctx context.Context, rows, cols uint16) error) (stop func()) {
	changed, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(changed, unix.SIGWINCH)
	var following sync.WaitGroup
	following.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-changed:
				rows, cols := terminalSize(f)
				_ = resize(ctx, rows, cols) // one that has ended needs no size
			}
		}
	})
	return func() {
		signal.Stop(changed)
		close(done)
		following.Wait()
	}
}

// A stoppableReader waits for f and for a pipe, whose end is the order to stop.
type stoppableReader struct {
	f                   *os.File
	stopRead, stopWrite *os.File
}

// errStopped is what Read returns once stop was called.
var errStopped = errors.New("input is stopped")

// See terminal.go.
func newStoppableReader(f *os.File) (*stoppableReader, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("watch input: %w", err)
	}
	return &stoppableReader{f: f, stopRead: r, stopWrite: w}, nil
}

// Read implements io.Reader.
func (r *stoppableReader) Read(p []byte) (int, error) {
	if err := r.wait(); err != nil {
		return 0, err
	}
	n, err := r.f.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("read input: %w", err)
	}
	return n, err
}

// wait waits until there is something to read, or the end. A file that is closed
// is for Read to complain about.
func (r *stoppableReader) wait() error {
	input, stop := -1, -1
	withFD(r.f, func(fd int) { input = fd })
	withFD(r.stopRead, func(fd int) { stop = fd })
	if input < 0 || stop < 0 {
		return nil
	}
	for {
		stopped, err := awaitEither(input, stop)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for input: %w", err)
		case stopped:
			return errStopped
		default:
			return nil
		}
	}
}

func (r *stoppableReader) stop() { _ = r.stopWrite.Close() }

func (r *stoppableReader) close() { _ = r.stopRead.Close() }
