package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTAPEcho has the guest's kernel echo 60000 bytes over TCP. They go there as
// one segment with a partial checksum, which it must take apart and believe, and
// come back as such.
func TestTAPEcho(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		l := startGuest(t, 1500)
		sent := pattern(60000)
		got, largest := echoTCP(t, l, v6, sent)
		if !bytes.Equal(got, sent) {
			t.Fatalf("v6=%v: %d bytes came back, want the %d sent", v6, len(got), len(sent))
		}
		if largest <= 1500 {
			t.Errorf("v6=%v: largest frame from the guest was %d bytes: no segmentation offload", v6, largest)
		}
		if d := l.Dropped(); d != 0 {
			t.Errorf("v6=%v: %d frames dropped", v6, d)
		}
	}
}

// echoTCP is a TCP client for a network that loses little: it sends data in one
// segment and returns what comes back, and the length of the largest frame.
func echoTCP(t *testing.T, l Link, v6 bool, data []byte) (got []byte, largest int) {
	t.Helper()
	const fin, syn, ack = 1, 2, 16
	var mu sync.Mutex // guards s and sent
	s := segment{v6: v6, srcPort: 4000, seq: 1000}
	send := func(seq uint32, flags byte, options, payload []byte) {
		s.seq, s.flags, s.options, s.payload = seq, flags, options, payload
		if n, err := l.WriteFrames([]Frame{s.frame(1400)}); n != 1 || err != nil {
			t.Errorf("WriteFrames = %d, %v", n, err)
		}
	}
	open := func() { send(1000, syn, []byte{2, 4, 1400 >> 8, 1400 & 255}, nil) }
	again := open // what to send if nothing comes
	open()
	done := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(done)
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(300 * time.Millisecond):
			}
			mu.Lock()
			again()
			mu.Unlock()
		}
	})
	frames := room(8, 1<<16)
	for len(got) < len(data) {
		n, err := l.ReadFrames(frames)
		must(t, err)
		mu.Lock()
		for _, f := range frames[:n] {
			p, err := parseFrame(f.Data, !f.Offload.NeedsChecksum)
			if err != nil || p.udp || p.srcPort != guestPort {
				continue // the guest's kernel has things of its own to say
			}
			largest = max(largest, len(f.Data))
			if p.flags&fin != 0 {
				t.Fatal("the guest closed early")
			}
			if p.flags&syn != 0 {
				s.ack = p.seq + 1
				again = func() { send(1001, ack, nil, data) }
				again()
				continue
			}
			if have := int(int32(s.ack - p.seq)); have >= 0 && have < len(p.payload) {
				got = append(got, p.payload[have:]...)
				s.ack += uint32(len(p.payload) - have)
			}
			if len(p.payload) > 0 {
				send(1001+uint32(len(data)), ack, nil, nil)
			}
		}
		mu.Unlock()
	}
	return got, largest
}

// TestTAPSegments sends UDP segments in one frame; the guest's kernel must see
// datagrams, and echo each.
func TestTAPSegments(t *testing.T) {
	t.Parallel()
	l := startGuest(t, 1500)
	for _, v6 := range []bool{false, true} {
		f := segment{v6: v6, udp: true, srcPort: 4000, payload: pattern(10500)}.frame(1000)
		write(t, l, f)
		if d := l.(DropCounter).Drops(); d.Refused > 0 {
			t.Skip("this kernel takes no UDP segments from a TAP (before 6.2)")
		}
		var got []byte
		frames := room(8, 1<<16)
		for len(got) < 10500 {
			n, err := l.ReadFrames(frames)
			must(t, err)
			for _, f := range frames[:n] {
				if p, err := parseFrame(f.Data, !f.Offload.NeedsChecksum); err == nil && p.udp && p.dstPort == 4000 {
					if len(p.payload) > 1000 {
						t.Fatalf("v6=%v: a datagram of %d bytes came back", v6, len(p.payload))
					}
					got = append(got, p.payload...)
				}
			}
		}
		if !bytes.Equal(got, pattern(10500)) {
			t.Errorf("v6=%v: the bytes that came back differ", v6)
		}
	}
}

// TestTAPDown writes to a card that is not up: the frame is lost, the link isn't.
func TestTAPDown(t *testing.T) {
	t.Parallel()
	l := startGuest(t, 0)
	for range 3 {
		write(t, l, Frame{Data: pattern(60)})
	}
	if d := l.(DropCounter).Drops(); d != (Drops{Refused: 3}) {
		t.Errorf("Drops = %+v, want 3 refused", d)
	}
}

// TestTAPGone has the guest delete its card while a reader waits, in either way.
func TestTAPGone(t *testing.T) {
	t.Parallel()
	for name, read := range map[string]func(l Link, frames []Frame) (int, error){"wait": Link.ReadFrames, "ready": awaitReady} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := startGuest(t, -1)
			blocked := make(chan error)
			go func() {
				for {
					if _, err := read(l, room(1, 1<<16)); err != nil {
						blocked <- err
						return
					}
				}
			}()
			if err := <-blocked; !errors.Is(err, io.EOF) {
				t.Errorf("reading returned %v", err)
			}
			if _, err := l.WriteFrames([]Frame{{Data: pattern(60)}}); !errors.Is(err, io.EOF) {
				t.Errorf("WriteFrames returned %v", err)
			}
		})
	}
}

// awaitReady is ReadFrames by Control and ReadReady.
func awaitReady(l Link, frames []Frame) (int, error) {
	k := l.(Kernel)
	for {
		if n, err := k.ReadReady(frames); n > 0 || err != nil {
			return n, err
		}
		k.Control(func(fd uintptr) {
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		})
	}
}

// TestTAPReady reads what is there and doesn't wait for more, up to the link's end.
// Both ways to read may be used.
func TestTAPReady(t *testing.T) {
	t.Parallel()
	fds, err := socketpair(unix.SOCK_SEQPACKET)
	must(t, err)
	guest := os.NewFile(uintptr(fds[1]), "guest")
	defer guest.Close()
	opened, err := Open(os.NewFile(uintptr(fds[0]), "ours"), TAP)
	must(t, err)
	defer opened.Close()
	l, frames := opened.(Kernel), room(4, 100)
	if n, err := l.ReadReady(frames); n != 0 || err != nil {
		t.Fatalf("ReadReady = %d, %v where nothing is", n, err)
	}
	for _, name := range []string{"one", "two", "three"} {
		_, err := guest.Write(append(make([]byte, TAPHeaderLen), name...))
		must(t, err)
	}
	if n, err := l.ReadReady(frames[:2]); n != 2 || err != nil || string(frames[0].Data) != "one" || string(frames[1].Data) != "two" {
		t.Errorf("ReadReady = %d, %v: %q, %q", n, err, frames[0].Data, frames[1].Data)
	}
	if n, err := l.ReadFrames(frames); n != 1 || err != nil || string(frames[0].Data) != "three" {
		t.Errorf("ReadFrames = %d, %v: %q", n, err, frames[0].Data)
	}
	must(t, guest.Close())
	if n, err := awaitReady(l, frames); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("ReadReady = %d, %v where the guest is gone", n, err)
	}
	must(t, l.Close())
	if n, err := l.ReadReady(frames); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadReady = %d, %v behind Close", n, err)
	}
	if err := l.Control(func(uintptr) { t.Error("a closed descriptor") }); err == nil {
		t.Error("Control returned no error behind Close")
	}
	must(t, l.Close())
}

// TestOpenTAPRefuses lists files whose frames would be read at the wrong place.
func TestOpenTAPRefuses(t *testing.T) {
	t.Parallel()
	half := func(kind int) func() (*os.File, error) {
		return func() (*os.File, error) {
			fds, err := socketpair(kind)
			unix.Close(fds[1])
			return os.NewFile(uintptr(fds[0]), "half of a pair"), err
		}
	}
	for _, tt := range []struct {
		name string
		open func() (*os.File, error)
	}{
		{"a stream socket", half(unix.SOCK_STREAM)},
		{"a datagram socket, which doesn't tell that the other end is gone", half(unix.SOCK_DGRAM)},
		{"a device that is no TAP", func() (*os.File, error) { return os.Open("/dev/null") }},
		{"a file", func() (*os.File, error) { return os.Open("/proc/self/exe") }},
		{"a TAP that no card belongs to", func() (*os.File, error) { return os.OpenFile("/dev/net/tun", os.O_RDWR, 0) }},
	} {
		f, err := tt.open()
		if errors.Is(err, os.ErrNotExist) {
			t.Skip(err)
		}
		must(t, err)
		if l, err := Open(f, TAP); err == nil {
			l.Close()
			t.Errorf("%s: no error", tt.name)
		} else {
			t.Logf("%s: %v", tt.name, err)
		}
		if err := f.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: the file is still open: Close = %v", tt.name, err)
		}
	}
}

// TestTAPHostile has the other end of a packet socket break the format.
func TestTAPHostile(t *testing.T) {
	t.Parallel()
	header := make([]byte, TAPHeaderLen)
	for _, tt := range []struct {
		name string
		in   []byte
		want error // nil: dropped, and the next frame is read
	}{
		{"shorter than a header", header[:TAPHeaderLen-1], ErrMalformed},
		{"one byte", header[:1], ErrMalformed},
		{"one byte too long", make([]byte, TAPHeaderLen+MaxFrame+1), nil},
		{"far too long", make([]byte, 200000), nil},
	} {
		fds, err := socketpair(unix.SOCK_SEQPACKET)
		must(t, err)
		must(t, setBuffers(fds[1], Datagram))
		guest := os.NewFile(uintptr(fds[1]), "guest")
		l, err := Open(os.NewFile(uintptr(fds[0]), "ours"), TAP)
		must(t, err)
		_, err = guest.Write(tt.in)
		must(t, err)
		_, err = guest.Write(append(header, "the next frame"...))
		must(t, err)
		frames := room(1, 100)
		n, err := l.ReadFrames(frames)
		if tt.want == nil {
			if n != 1 || string(frames[0].Data) != "the next frame" || l.(DropCounter).Drops() != (Drops{Oversize: 1}) {
				t.Errorf("%s: ReadFrames = %d, %v; %+v", tt.name, n, err, l.(DropCounter).Drops())
			}
		} else if n != 0 || !errors.Is(err, tt.want) {
			t.Errorf("%s: ReadFrames = %d, %v; want %v", tt.name, n, err, tt.want)
		}
		guest.Close()
		must(t, l.Close())
	}
}
