package vnet

import (
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/vnet/link"
)

// withoutStack has flows go without the stack, as they do on a TAP: it makes a link
// that can only be read one that can be waited for, too.
func withoutStack(t *testing.T, l link.Link) link.Link {
	t.Helper()
	p := &polledLink{Link: l}
	p.open(t)
	p.reader.Go(p.read)
	return p
}

// A polledLink is a link whose frames a goroutine reads in advance.
type polledLink struct {
	link.Link
	event
	reader sync.WaitGroup

	mu     sync.Mutex // guards the following fields
	frames []link.Frame
	err    error // behind frames
}

func (l *polledLink) read() {
	frames := make([]link.Frame, 8)
	for {
		n, err := l.Link.ReadFrames(frames)
		l.mu.Lock()
		l.frames, l.err = append(l.frames, frames[:n]...), err
		l.set()
		l.mu.Unlock()
		if err != nil {
			return
		}
		clear(frames)
	}
}

// ReadReady implements link.Kernel.
func (l *polledLink) ReadReady(frames []link.Frame) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for ; n < min(len(frames), len(l.frames)); n++ {
		frames[n].Data = append(frames[n].Data[:0], l.frames[n].Data...)
		frames[n].Offload = l.frames[n].Offload
	}
	l.frames = l.frames[n:]
	switch {
	case n > 0 || len(l.frames) > 0:
		return n, nil
	case l.err == nil:
		l.reset()
	}
	return 0, l.err
}

// Close implements link.Link.
func (l *polledLink) Close() error {
	err := l.Link.Close()
	l.reader.Wait()
	return err
}

// An event is a descriptor that can be waited for.
type event struct{ fd int }

func (e *event) open(t *testing.T) {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	e.fd = fd
	t.Cleanup(func() { unix.Close(fd) })
}

// Control implements link.Kernel.
func (e *event) Control(f func(fd uintptr)) error { f(uintptr(e.fd)); return nil }

func (e *event) set() { unix.Write(e.fd, []byte{1, 0, 0, 0, 0, 0, 0, 1}) }

func (e *event) reset() {
	var count [8]byte
	unix.Read(e.fd, count[:])
}
