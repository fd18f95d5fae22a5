//go:build linux || darwin

package link

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDatagramLengths has the guest send datagrams of lengths that frames don't
// have. Whatever they are, the link lives.
func TestDatagramLengths(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		length   int
		capacity int // of the frames
		oversize uint64
	}{
		{"nothing", 0, 1 << 16, 0},
		{"a runt", 13, 1 << 16, 0},
		{"the largest", MaxFrame, 1 << 16, 0},
		{"the largest into little memory", MaxFrame, 100, 0},
		{"one byte more", MaxFrame + 1, 1 << 16, 1},
		{"one byte more into little memory", MaxFrame + 1, 100, 1},
		{"one byte more into enough memory", MaxFrame + 1, 1 << 17, 1},
		{"far more", 150000, 1 << 16, 1},
	} {
		ours, guest, err := Pair(Datagram)
		must(t, err)
		must(t, setBuffer(int(guest.Fd()), 1<<20, unix.SO_SNDBUF))
		l, err := Open(ours, Datagram)
		must(t, err)
		sent := pattern(tt.length)
		must(t, unix.Send(int(guest.Fd()), sent, 0))
		must(t, unix.Send(int(guest.Fd()), []byte("the next frame"), 0))
		var got []Frame
		for len(got) == 0 || string(got[len(got)-1].Data) != "the next frame" {
			frames := room(4, tt.capacity)
			n, err := l.ReadFrames(frames)
			must(t, err)
			got = append(got, frames[:n]...)
		}
		if d := l.(DropCounter).Drops(); d != (Drops{Oversize: tt.oversize}) {
			t.Errorf("%s: %+v, want %d oversize", tt.name, d, tt.oversize)
		}
		if tt.oversize == 0 && (len(got) != 2 || !bytes.Equal(got[0].Data, sent)) {
			t.Errorf("%s: %d frames, the first of %d bytes", tt.name, len(got), len(got[0].Data))
		}
		for _, f := range got[:len(got)-1] {
			if tt.oversize > 0 && len(f.Data) > 0 {
				t.Errorf("%s: %d bytes of it are delivered", tt.name, len(f.Data))
			}
		}
		guest.Close()
		must(t, l.Close())
	}
}

// TestDatagramTooLong has a socket that takes no large frames.
func TestDatagramTooLong(t *testing.T) {
	t.Parallel()
	ours, guest, err := Pair(Datagram)
	must(t, err)
	guests, err := Open(guest, Datagram)
	must(t, err)
	raw, err := ours.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { must(t, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 8192)) }))
	l, err := Open(ours, Datagram)
	must(t, err)
	write(t, l, Frame{Data: pattern(1000)}, Frame{Data: pattern(60000)}, Frame{Data: pattern(1001)})
	if got := read(t, guests, 2); len(got[0].Data) != 1000 || len(got[1].Data) != 1001 {
		t.Errorf("frames of %d and %d bytes arrived", len(got[0].Data), len(got[1].Data))
	}
	if d := l.(DropCounter).Drops(); d != (Drops{Refused: 1}) {
		t.Errorf("%+v, want 1 refused", d)
	}
	must(t, l.Close())
	must(t, guests.Close())
}

// A scriptedSender gives what the script says before it sends.
type scriptedSender struct {
	recordSender
	script []error
	calls  atomic.Int64
}

func (s *scriptedSender) send(fd int, t *train) (int, error) {
	n := int(s.calls.Add(1)) - 1
	if n < len(s.script) && s.script[n] != nil {
		return 0, s.script[n]
	}
	return s.recordSender.send(fd, t)
}

// TestDatagramPressure plays what systems say when they have no room: it is never
// the end, and nothing is lost.
func TestDatagramPressure(t *testing.T) {
	t.Parallel()
	for _, script := range [][]error{
		{unix.ENOBUFS, unix.ENOBUFS, unix.ENOMEM},
		{unix.EAGAIN},
		{nil, unix.ENOBUFS, nil, unix.EAGAIN, unix.ENOBUFS},
	} {
		ours, guests := openOneByOne(t, Config{})
		d := ours.(*datagram)
		d.send = &scriptedSender{recordSender: d.send, script: script}
		for i := range 5 {
			write(t, ours, Frame{Data: pattern(100 + i)}, Frame{Data: pattern(200 + i)})
		}
		for i, f := range read(t, guests, 10) {
			if want := 100 + i/2 + i%2*100; len(f.Data) != want {
				t.Errorf("%v: frame %d has %d bytes, want %d", script, i, len(f.Data), want)
			}
		}
		if d.Dropped() != 0 {
			t.Errorf("%v: %+v", script, d.Drops())
		}
		must(t, ours.Close())
		must(t, guests.Close())
	}
}

// TestDatagramCloseUnderPressure closes a link whose flusher rests.
func TestDatagramCloseUnderPressure(t *testing.T) {
	t.Parallel()
	ours, guests := openOneByOne(t, Config{})
	d := ours.(*datagram)
	forever := make([]error, 1<<20)
	for i := range forever {
		forever[i] = syscall.ENOBUFS
	}
	d.send = &scriptedSender{recordSender: d.send, script: forever}
	write(t, ours, Frame{Data: pattern(100)})
	must(t, ours.Close())
	must(t, guests.Close())
}

func TestOpenDatagramRefuses(t *testing.T) {
	t.Parallel()
	a, b, err := Pair(Stream)
	must(t, err)
	defer b.Close()
	null, err := os.Open(os.DevNull)
	must(t, err)
	for _, f := range []*os.File{a, null} {
		if _, err := Open(f, Datagram); err == nil {
			t.Errorf("Open of %s: no error", f.Name())
		}
		if err := f.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Open did not close %s: Close = %v", f.Name(), err)
		}
	}
}

// TestOpenClosed opens a file that is closed already.
func TestOpenClosed(t *testing.T) {
	t.Parallel()
	for _, format := range []Format{TAP, Datagram, Stream} {
		a, b, err := Pair(Datagram)
		must(t, err)
		a.Close()
		b.Close()
		if l, err := Open(a, format); l != nil || err == nil {
			t.Errorf("%v: Open = %v, %v", format, l, err)
		}
	}
}

// TestPair checks what a hypervisor relies on: room for many frames at both ends,
// and descriptors that no other child inherits.
func TestPair(t *testing.T) {
	t.Parallel()
	for _, format := range []Format{Datagram, Stream} {
		ours, guests, err := Pair(format)
		must(t, err)
		for _, f := range []*os.File{ours, guests} {
			raw, err := f.SyscallConn()
			must(t, err)
			must(t, raw.Control(func(fd uintptr) {
				size, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
				must(t, err)
				if size < 128<<10 {
					t.Errorf("%v: %s has a send buffer of %d bytes", format, f.Name(), size)
				}
				flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0)
				must(t, err)
				if flags&unix.FD_CLOEXEC == 0 {
					t.Errorf("%v: %s is inherited", format, f.Name())
				}
			}))
			f.Close()
		}
	}
	for _, format := range []Format{0, TAP, 200} {
		if _, _, err := Pair(format); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("Pair(%v): %v, want unsupported", format, err)
		}
	}
}

// TestSetBuffer asks for more than the system allows.
func TestSetBuffer(t *testing.T) {
	t.Parallel()
	fds, err := socketpair(unix.SOCK_STREAM)
	must(t, err)
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	must(t, setBuffer(fds[0], 1<<30, unix.SO_SNDBUF))
	if err := setBuffer(fds[0], 1<<20, 0x7fff); err == nil {
		t.Error("an option that does not exist: no error")
	}
}

// FuzzDatagrams has a guest send datagrams of any length, TCP segments among them, to
// a reader with all sorts of memory: in batches and one by one, what comes out, cut
// again, is what a frame can be of what went in, in order, and the rest is counted.
func FuzzDatagrams(f *testing.F) {
	f.Add([]byte{1, 1, 1, 0, 1, 3, 5}, uint64(1))
	f.Add([]byte{250, 1, 238, 236, 1, 1, 1, 1, 2, 1, 1}, uint64(2))
	f.Fuzz(func(t *testing.T, script []byte, seed uint64) {
		segments := cutAll(t, segment{payload: pattern(50 * 100), flags: tcpACK}.frame(100))
		var sent, want [][]byte
		for _, op := range script[:min(len(script), 100)] {
			b := pattern(int(op) * 277) // beyond MaxFrame too
			if op&1 == 1 && len(segments) > 0 {
				b, segments = segments[0], segments[1:]
			}
			if sent = append(sent, b); len(b) <= MaxFrame {
				want = append(want, b)
			}
		}
		last := []byte("the last frame")
		for _, open := range []func(testing.TB, Config) (Link, Link){openOneByOne, func(t testing.TB, cfg Config) (Link, Link) { return openPair(t, cfg, Datagram) }} {
			rnd := rand.New(rand.NewPCG(seed, 0))
			ours, guests := open(t, Config{})
			raw := guests.(*datagram).raw
			go func() { // ends with its socket, at the latest
				for _, b := range append(sent, last) {
					_ = raw.Write(func(fd uintptr) bool { return unix.Send(int(fd), b, 0) != unix.EAGAIN })
				}
			}()
			var got []Frame
			for len(got) == 0 || !bytes.Equal(got[len(got)-1].Data, last) {
				frames := room(1+rnd.IntN(8), []int{0, 100, 1514, 1 << 16}[rnd.IntN(4)])
				n, err := ours.ReadFrames(frames)
				must(t, err)
				got = append(got, frames[:n]...)
			}
			sameFlows(t, want, got[:len(got)-1])
			if d := ours.(DropCounter).Drops(); d != (Drops{Oversize: uint64(len(sent) - len(want))}) {
				t.Errorf("%+v of %d datagrams, of which %d are frames", d, len(sent), len(want))
			}
			must(t, ours.Close())
			must(t, guests.Close())
		}
	})
}
