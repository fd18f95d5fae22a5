package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A medium is something to open links over, for the tests that hold for all of
// them.
type medium struct {
	name string
	// open returns the two ends of a card.
	open func(t testing.TB, cfg Config) (ours, guests Link)
	// header says that offloads travel with the frame.
	header bool
	// deaf says that a reader is not told when the other end is closed.
	deaf bool
}

// media is completed by the platforms.
func media() []medium {
	return append([]medium{
		{name: "tcp", open: openTCP},
		{name: "pipe", open: openPipe},
	}, platformMedia()...)
}

// openTCP is how QEMU is reached where there are no unix sockets.
func openTCP(t testing.TB, cfg Config) (ours, guests Link) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	b, err := l.Accept()
	must(t, err)
	return cfg.OpenConn(a), guestConfig.OpenConn(b)
}

// openPipe is a stream without a descriptor or a buffer.
func openPipe(_ testing.TB, cfg Config) (ours, guests Link) {
	a, b := net.Pipe()
	return cfg.OpenConn(a), guestConfig.OpenConn(b)
}

// guestConfig is that of the guests' ends: they show what is on the wire.
var guestConfig = Config{KeepSegments: true}

// each runs f over every medium.
func each(t *testing.T, cfg Config, f func(t *testing.T, m medium, ours, guests Link)) {
	t.Parallel()
	for _, m := range media() {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			ours, guests := m.open(t, cfg)
			t.Cleanup(func() {
				ours.Close()
				guests.Close()
			})
			f(t, m, ours, guests)
		})
	}
}

// write writes all frames and fails the test if that fails.
func write(t testing.TB, l Link, frames ...Frame) {
	t.Helper()
	if n, err := l.WriteFrames(frames); n != len(frames) || err != nil {
		t.Fatalf("WriteFrames = %d, %v; want %d", n, err, len(frames))
	}
}

// read reads n frames.
func read(t testing.TB, l Link, n int) []Frame {
	t.Helper()
	var got []Frame
	for len(got) < n {
		frames := room(n-len(got), MaxFrame)
		k, err := l.ReadFrames(frames)
		if err != nil {
			t.Fatalf("ReadFrames after %d of %d frames: %v", len(got), n, err)
		}
		got = append(got, frames[:k]...)
	}
	return got
}

func TestRoundTrip(t *testing.T) {
	each(t, Config{}, func(t *testing.T, _ medium, ours, guests Link) {
		for _, n := range []int{14, 15, 60, 1514, 4096, 65535, 65536, MaxFrame} {
			want := pattern(n)
			write(t, ours, Frame{Data: want[:n/2], More: [][]byte{want[n/2 : n/2+1], nil, want[n/2+1:]}})
			write(t, guests, Frame{Data: want})
			for _, l := range []Link{ours, guests} {
				if got := read(t, l, 1)[0]; !bytes.Equal(got.Data, want) || got.Offload != (Offload{}) {
					t.Errorf("%d bytes: got %d, offload %+v; want the same", n, len(got.Data), got.Offload)
				}
			}
		}
	})
}

func TestNothing(t *testing.T) {
	each(t, Config{}, func(t *testing.T, _ medium, ours, _ Link) {
		if n, err := ours.ReadFrames(nil); n != 0 || err != nil {
			t.Errorf("ReadFrames(nil) = %d, %v", n, err)
		}
		if n, err := ours.WriteFrames(nil); n != 0 || err != nil {
			t.Errorf("WriteFrames(nil) = %d, %v", n, err)
		}
	})
}

// TestBatches checks that one read takes what is there, up to what it has room
// for, in order.
func TestBatches(t *testing.T) {
	each(t, Config{}, func(t *testing.T, _ medium, ours, guests Link) {
		var frames []Frame
		for i := range 200 {
			frames = append(frames, Frame{Data: pattern(100 + i)})
		}
		write(t, ours, frames...)
		for next := 0; next < len(frames); {
			size := min(1+next%7, len(frames)-next)
			got := room(7, 1<<16)
			n, err := guests.ReadFrames(got[:size])
			if n < 1 || n > size || err != nil {
				t.Fatalf("ReadFrames of %d = %d, %v", size, n, err)
			}
			for _, f := range got[:n] {
				if len(f.Data) != 100+next {
					t.Fatalf("frame %d has %d bytes, want %d", next, len(f.Data), 100+next)
				}
				next++
			}
		}
	})
}

// TestMemory checks whose memory frames are in: the caller's as far as it
// reaches, and else fresh.
func TestMemory(t *testing.T) {
	each(t, Config{}, func(t *testing.T, _ medium, ours, guests Link) {
		for _, tt := range []struct{ capacity, length int }{
			{0, 60}, {13, 60}, {60, 60}, {1514, 60}, {1 << 16, 60}, {1514, 1515},
			{1 << 16, 1 << 16}, {1 << 16, 1<<16 + 1}, {1 << 16, MaxFrame}, {MaxFrame, MaxFrame}, {2 * MaxFrame, MaxFrame},
		} {
			// Three in a batch: one's overflow must not be another's.
			var want []Frame
			for i := range 3 {
				want = append(want, Frame{Data: bytes.Repeat([]byte{byte(i + 1)}, tt.length)})
			}
			write(t, ours, want...)
			for next := 0; next < 3; {
				frames := room(3-next, tt.capacity)
				memory := make([][]byte, len(frames))
				for i, f := range frames {
					memory[i] = f.Data[:cap(f.Data)]
				}
				n, err := guests.ReadFrames(frames)
				must(t, err)
				for i, f := range frames[:n] {
					if !bytes.Equal(f.Data, want[next].Data) {
						t.Fatalf("%d bytes into %d: frame %d differs", tt.length, tt.capacity, next)
					}
					if tt.length <= tt.capacity && &f.Data[0] != &memory[i][0] {
						t.Errorf("%d bytes into %d: not in the caller's memory", tt.length, tt.capacity)
					}
					next++
				}
			}
		}
	})
}

// TestOffloads checks that the guest gets the same bytes of payload by whatever
// way: with the header, or cut and completed.
func TestOffloads(t *testing.T) {
	each(t, Config{}, func(t *testing.T, m medium, ours, guests Link) {
		for _, s := range []segment{
			{payload: pattern(65000), flags: 0x18, seq: 77},
			{v6: true, payload: pattern(65000), flags: 0x18},
			{udp: true, payload: pattern(20000)},
			{payload: pattern(10), flags: 0x10},
		} {
			f := s.frame(1400)
			if m.header {
				write(t, ours, f)
				if got := read(t, guests, 1)[0]; got.Offload != f.Offload || !bytes.Equal(got.Data, f.Data) {
					t.Errorf("offload %+v and %d bytes, want %+v and %d", got.Offload, len(got.Data), f.Offload, len(f.Data))
				}
				continue
			}
			want := cutAll(t, f)
			write(t, ours, f)
			for i, got := range read(t, guests, len(want)) {
				if got.Offload != (Offload{}) || !bytes.Equal(got.Data, want[i]) {
					t.Errorf("segment %d: offload %+v and %d bytes, want the cutter's %d", i, got.Offload, len(got.Data), len(want[i]))
				}
			}
		}
	})
}

func TestUnfit(t *testing.T) {
	each(t, Config{}, func(t *testing.T, _ medium, ours, guests Link) {
		good := Frame{Data: pattern(60)}
		write(t, ours, Frame{Data: make([]byte, MaxFrame+1)}, Frame{}, Frame{Data: make([]byte, 13)}, good)
		if got := read(t, guests, 1)[0]; !bytes.Equal(got.Data, good.Data) {
			t.Errorf("%d bytes arrived first, want the good frame", len(got.Data))
		}
		if d := ours.(DropCounter).Drops(); d != (Drops{Unfit: 3}) || ours.Dropped() != 3 {
			t.Errorf("Drops = %+v, Dropped = %d; want 3 unfit", d, ours.Dropped())
		}
	})
}

func TestClose(t *testing.T) {
	each(t, Config{}, func(t *testing.T, _ medium, ours, guests Link) {
		blocked := make(chan error)
		go func() {
			_, err := ours.ReadFrames(room(1, 100))
			blocked <- err
		}()
		write(t, guests, Frame{Data: pattern(60)}) // the reader is at work
		if err := <-blocked; err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := ours.ReadFrames(room(1, 100))
			blocked <- err
		}()
		must(t, ours.Close())
		if err := <-blocked; !errors.Is(err, net.ErrClosed) {
			t.Errorf("a blocked ReadFrames returned %v", err)
		}
		for range 2 {
			if n, err := ours.ReadFrames(room(1, 100)); n != 0 || !errors.Is(err, net.ErrClosed) {
				t.Errorf("ReadFrames after Close = %d, %v", n, err)
			}
			if n, err := ours.WriteFrames([]Frame{{Data: pattern(60)}}); n != 0 || !errors.Is(err, net.ErrClosed) {
				t.Errorf("WriteFrames after Close = %d, %v", n, err)
			}
			must(t, ours.Close())
		}
	})
}

// TestGone closes the guest's end.
func TestGone(t *testing.T) {
	each(t, Config{}, func(t *testing.T, m medium, ours, guests Link) {
		blocked := make(chan error)
		go func() {
			_, err := ours.ReadFrames(room(1, 100))
			blocked <- err
		}()
		must(t, guests.Close())
		// A write may go into a buffer, but not for ever.
		for m.deaf {
			if _, err := ours.WriteFrames([]Frame{{Data: pattern(60)}}); err != nil {
				break
			}
		}
		if err := <-blocked; !errors.Is(err, io.EOF) {
			t.Errorf("a blocked ReadFrames returned %v", err)
		}
		if _, err := ours.ReadFrames(room(1, 100)); !errors.Is(err, io.EOF) {
			t.Errorf("ReadFrames returned %v", err)
		}
		if _, err := ours.WriteFrames([]Frame{{Data: pattern(60)}}); !errors.Is(err, io.EOF) {
			t.Errorf("WriteFrames returned %v", err)
		}
		must(t, ours.Close())
		if _, err := ours.ReadFrames(room(1, 100)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("ReadFrames after Close returned %v", err)
		}
	})
}

// TestWriters has many goroutines write at once: each one's frames arrive in its
// order, unmixed, and those that do not arrive are counted.
func TestWriters(t *testing.T) {
	each(t, Config{}, func(t *testing.T, m medium, ours, guests Link) {
		const writers, calls, batch = 8, 100, 5
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for c := range calls {
					var frames [batch]Frame
					for i := range frames {
						data := bytes.Repeat([]byte{byte(w)}, 100+w*150)
						binary.BigEndian.PutUint32(data, uint32(c*batch+i))
						frames[i] = Frame{Data: data[:50], More: [][]byte{data[50:]}}
					}
					if n, err := ours.WriteFrames(frames[:]); n != batch || err != nil {
						t.Errorf("WriteFrames = %d, %v", n, err)
					}
				}
			})
		}
		// After the writers comes one more frame, again and again until it gets
		// through, to end the reader.
		ended := make(chan struct{})
		go func() {
			wg.Wait()
			for {
				ours.WriteFrames([]Frame{{Data: make([]byte, 99)}})
				select {
				case <-ended:
					return
				case <-time.After(time.Millisecond):
				}
			}
		}()
		got, next := 0, [writers]int64{}
		frames := room(16, 1<<16)
	reading:
		for {
			n, err := guests.ReadFrames(frames)
			must(t, err)
			for _, f := range frames[:n] {
				if len(f.Data) == 99 {
					break reading
				}
				w := int(f.Data[4])
				if len(f.Data) != 100+w*150 || bytes.Count(f.Data[4:], f.Data[4:5]) != len(f.Data)-4 {
					t.Fatalf("a frame of %d bytes is mixed", len(f.Data))
				}
				if seq := int64(binary.BigEndian.Uint32(f.Data)); seq < next[w] {
					t.Fatalf("writer %d: frame %d after %d", w, seq, next[w]-1)
				} else {
					next[w] = seq + 1
				}
				got++
			}
		}
		close(ended)
		if want := writers * calls * batch; got+int(ours.Dropped()) < want {
			t.Errorf("%d frames arrived and %d were dropped, want %d together", got, ours.Dropped(), want)
		}
	})
}

// TestSlowGuest fills a guest that does not read: writers go on without waiting,
// no more is kept than allowed, and when the guest reads again it finds whole
// frames, each either delivered or counted.
func TestSlowGuest(t *testing.T) {
	const limit = 100 << 10
	each(t, Config{QueueBytes: limit}, func(t *testing.T, m medium, ours, guests Link) {
		sent := 0
		f := segment{payload: pattern(14000), flags: 0x10}.frame(1400)
		segments := 10
		if m.header {
			segments = 1
		}
		for ours.Dropped() < 100 {
			write(t, ours, f, f, f)
			sent += 3 * segments
		}
		if o := outboxOf(ours); o != nil {
			o.mu.Lock()
			// The rest of one that has begun comes on top.
			if n := len(o.queue) + o.left; n > limit+lengthLen+1514 {
				t.Errorf("%d bytes wait, at most %d", n, limit)
			}
			o.mu.Unlock()
		}
		received := 0
		want := sent - int(ours.Dropped())
		frames := room(64, 1<<16)
		for received < want {
			n, err := guests.ReadFrames(frames)
			must(t, err)
			for _, g := range frames[:n] {
				if _, err := parseFrame(g.Data, !m.header); err != nil {
					t.Fatalf("frame %d: %v", received, err)
				}
				received++
			}
		}
		if d := ours.(DropCounter).Drops(); d.NoRoom != ours.Dropped() {
			t.Errorf("Drops = %+v, want all for want of room", d)
		}
		// Nothing is in the way of the next.
		write(t, ours, Frame{Data: pattern(60)})
		if got := read(t, guests, 1)[0]; !bytes.Equal(got.Data, pattern(60)) {
			t.Errorf("then %d bytes arrived, want the 60", len(got.Data))
		}
	})
}

// TestWindow writes what one TCP flow has in flight at most, before the guest reads
// any of it: nothing is lost.
func TestWindow(t *testing.T) {
	each(t, Config{}, func(t *testing.T, m medium, ours, guests Link) {
		if m.header || m.name == "pipe" {
			t.Skip("no queue, or nothing but the queue")
		}
		const window = 4 << 20
		s := segment{payload: pattern(1 << 15), flags: tcpACK}
		for range window / len(s.payload) {
			write(t, ours, s.frame(1448))
		}
		if d := ours.Dropped(); d != 0 {
			t.Errorf("%d frames are dropped", d)
		}
	})
}

// TestCloseFull closes a link whose flusher waits for the guest.
func TestCloseFull(t *testing.T) {
	each(t, Config{QueueBytes: 1 << 20}, func(t *testing.T, _ medium, ours, _ Link) {
		for ours.Dropped() == 0 {
			write(t, ours, Frame{Data: pattern(60000)})
		}
		must(t, ours.Close())
	})
}

// TestNoQueue has a Config that keeps nothing.
func TestNoQueue(t *testing.T) {
	each(t, Config{QueueBytes: -1}, func(t *testing.T, m medium, ours, guests Link) {
		if m.name == "pipe" {
			t.Skip("a medium that can only wait carries nothing without a queue")
		}
		write(t, ours, Frame{Data: pattern(60)})
		if got := read(t, guests, 1)[0]; !bytes.Equal(got.Data, pattern(60)) {
			t.Errorf("%d bytes arrived, want the 60", len(got.Data))
		}
		for ours.Dropped() == 0 {
			write(t, ours, Frame{Data: pattern(60000)})
		}
	})
}

// TestAllocations pins that the data path allocates nothing once it is warm.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	// Not parallel: the count is of the whole process.
	for _, m := range media() {
		t.Run(m.name, func(t *testing.T) {
			ours, guests := m.open(t, Config{})
			defer ours.Close()
			defer guests.Close()
			big := segment{payload: pattern(60000), flags: 0x10}.frame(1448)
			out := []Frame{
				{Data: pattern(60)},
				{Data: big.Data[:66], More: [][]byte{big.Data[66:30000], big.Data[30000:]}, Offload: big.Offload},
				{Data: pattern(1514)},
			}
			want := 2 + len(cutAll(t, big))
			if m.header {
				want = 3
			}
			in := room(64, 1<<16)
			n := testing.AllocsPerRun(100, func() {
				write(t, ours, out...)
				for got := 0; got < want; {
					k, err := guests.ReadFrames(in)
					must(t, err)
					got += k
				}
			})
			if n != 0 && m.name != "pipe" { // package net's own
				t.Errorf("%v allocations for three frames there and %d back", n, want)
			}
		})
	}
}

func TestOpenInvalid(t *testing.T) {
	t.Parallel()
	for _, format := range []Format{0, Stream + 1, 255} {
		r, w, err := os.Pipe()
		must(t, err)
		if l, err := Open(r, format); l != nil || err == nil {
			t.Errorf("Open with %v = %v, %v", format, l, err)
		}
		if err := r.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Open with %v did not close the file: Close = %v", format, err)
		}
		w.Close()
	}
}

func TestFormatString(t *testing.T) {
	t.Parallel()
	var got []string
	for f := range Format(5) {
		got = append(got, f.String())
	}
	if want := []string{"Format(0)", "tap", "datagram", "stream", "Format(4)"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestPipeInBubble shows that a link over net.Pipe has no hidden time or
// descriptor in it, so that tests elsewhere can use it with synctest.
func TestPipeInBubble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ours, guests := openPipe(t, Config{})
		write(t, ours, Frame{Data: pattern(60)})
		synctest.Wait()
		if got := read(t, guests, 1)[0]; len(got.Data) != 60 {
			t.Errorf("%d bytes arrived, want 60", len(got.Data))
		}
		ours.Close()
		guests.Close()
	})
}
