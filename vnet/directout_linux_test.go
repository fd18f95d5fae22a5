package vnet

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/vnet/link"
)

// bytesAt waits for a segment with bytes that begin at an offset.
func (g *directGuest) bytesAt(offset int) seenSegment {
	g.t.Helper()
	return g.until(fmt.Sprintf("bytes at %d", offset), func(s seenSegment) bool { return s.data != "" && s.seq == g.irs+1+uint32(offset) })
}

// TestDirectRepeats loses what the guest is sent: bytes, the end of the stream, and
// the answer to a window that had closed. All of it comes again, by time.
func TestDirectRepeats(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress public")
	g.open()
	host := g.accept()
	host.Write([]byte("hello"))
	for range 3 {
		if s := g.bytesAt(0); s.data != "hello" {
			t.Errorf("got %v", s)
		}
	}
	g.send("A", 0, 2, "") // of a part: the rest comes again
	if s := g.bytesAt(2); s.data != "llo" {
		t.Errorf("got %v", s)
	}
	g.send("A", 0, 5, "")
	host.CloseWrite()
	for range 3 {
		g.until("end", func(s seenSegment) bool { return s.flags == flagFIN|flagACK && s.seq == g.irs+6 })
	}
	g.send("A", 0, 6, "")
	g.send("FA", 0, 6, "")
	g.ended(endFIN)
}

// TestDirectFastRepeat sends again what three acknowledgements say is missing, long
// before the time is over.
func TestDirectFastRepeat(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress public")
	g.open()
	host := g.accept()
	host.Write([]byte("first"))
	g.bytesAt(0)
	host.Write([]byte("second"))
	g.bytesAt(5)
	start := time.Now()
	g.send("A", 0, 0, "", window(511)) // the window is new: this one counts not
	for range 3 {
		g.send("A", 0, 0, "", window(511))
	}
	g.bytesAt(0)
	if d := time.Since(start); d > firstTimeout/2 {
		t.Logf("came after %v: this machine is too busy to tell", d)
	}
	g.send("A", 0, 5, "", window(511)) // and says that another is missing
	g.bytesAt(5)
	g.send("A", 0, 11, "", window(511))
	g.eventually("all returned", func() bool { return g.budget.used() == 0 })
}

// TestDirectGuestGone gives up a guest that acknowledges nothing any more.
func TestDirectGuestGone(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress public")
	g.open()
	host := g.accept()
	host.Write([]byte("hello"))
	g.bytesAt(0)
	for i := range maxRepeats {
		g.tickAt(time.Duration(i+1) * time.Minute)
	}
	if g.count("flow.close") != 0 {
		t.Fatal("given up too early")
	}
	g.tickAt(time.Hour)
	g.ended(endTimeout)
	if _, err := hostEnds(host); !isReset(err) {
		t.Errorf("the host saw %v, want a reset", err)
	}
}

// TestDirectClosedWindow closes the guest's window: nothing comes but questions,
// for as long as they are answered, and when it opens the bytes come at once.
func TestDirectClosedWindow(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress public")
	g.open()
	host := g.accept()
	g.send("A", 0, 0, "x", window(0))
	g.acked(1)
	host.Write([]byte("hello"))
	for i := range 2 * maxRepeats {
		g.eventually("waiting", func() bool { c := g.flowOf(); return g.whether(func() bool { return !c.toGuest.deadline.IsZero() }) })
		g.tickAt(time.Duration(i+1) * time.Minute)
		g.until("question", func(s seenSegment) bool {
			if s.data != "" {
				t.Errorf("got %v", s)
			}
			return s.flags == flagACK && s.seq == g.irs
		})
		g.send("A", 1, 0, "", window(0))
		g.eventually("answered", func() bool { c := g.flowOf(); return g.whether(func() bool { return c.toGuest.tries == 0 }) })
	}
	g.send("A", 1, 0, "", window(512))
	if s := g.bytesAt(0); s.data != "hello" {
		t.Errorf("got %v", s)
	}
	if d := g.timeout(); d != firstTimeout {
		t.Errorf("a loss would be found after %v", d)
	}
}

// TestDirectClosedWindowAtBytes closes the window when bytes are under way, which
// the guest then has no room for. It is there all the same.
func TestDirectClosedWindowAtBytes(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress public")
	g.open()
	g.accept().Write([]byte("hello"))
	c := g.flowOf()
	for i := range 2 * maxRepeats {
		g.bytesAt(0)
		g.send("A", 0, 0, "", window(0))
		g.eventually("answered", func() bool { return g.whether(func() bool { return c.toGuest.window == 0 && c.toGuest.tries == 0 }) })
		g.tickAt(time.Duration(i+1) * time.Minute)
	}
	if g.count("flow.close") != 0 {
		t.Error("the flow was given up")
	}
}

// TestDirectBudgetToGuest spends the memory of a network on a guest that acknowledges
// nothing: that is told, other flows go on, and nothing is lost.
func TestDirectBudgetToGuest(t *testing.T) {
	t.Parallel()
	const total = 1 << 20
	g := startDirect(t, "allow egress public", func(c *Config) { c.Limits.BufferBytes = 256 << 10 })
	g.open()
	g.send("A", 0, 0, "", window(65535))
	host := g.accept()
	sent := randomBytes(total, 3)
	go host.Write(sent)
	if e := g.waitEvent("limit.hit"); e.Limit != "BufferBytes" {
		t.Errorf("told of %q", e.Limit)
	}
	if used := g.budget.used(); used > 256<<10 {
		t.Errorf("%d bytes are taken", used)
	}
	other := *g
	other.src = guest4 + ":1001"
	other.send("S", -1, -1, "")
	other.irs = other.until("answer", func(s seenSegment) bool { return s.flags == flagSYN|flagACK }).seq
	other.send("A", 0, 0, "")
	g.accept().Write([]byte("others go on"))
	other.until("bytes", func(s seenSegment) bool { return s.data == "others go on" })
	other.send("A", 0, 12, "")
	for got := 0; got < total; {
		g.send("A", 0, got, "", window(65535))
		s := g.next()
		if at := int(int32(s.seq - g.irs - 1)); at <= got && at+len(s.data) > got {
			if string(sent[at:at+len(s.data)]) != s.data {
				t.Fatalf("the bytes at %d are wrong", at)
			}
			got = at + len(s.data)
		}
	}
	g.send("A", 0, total, "")
	g.eventually("all returned", func() bool { return g.budget.used() == 0 })
}

// TestDirectTinyWindow lets the host's bytes through a window of one byte.
func TestDirectTinyWindow(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress public")
	g.send("S", -1, -1, "") // without a scale
	g.irs = g.next().seq
	g.send("A", 0, 0, "", window(1))
	host := g.accept()
	host.Write([]byte("hello"))
	host.CloseWrite()
	for i, want := range "hello" {
		if s := g.bytesAt(i); s.data != string(want) {
			t.Errorf("got %v, want %c", s, want)
		}
		g.send("A", 0, i+1, "", window(1))
	}
	g.until("end", func(s seenSegment) bool { return s.flags&flagFIN != 0 && s.seq == g.irs+6 })
}

// TestDirectCrumbs keeps few frames for a guest that acknowledges nothing, though
// the host sends byte by byte.
func TestDirectCrumbs(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress public")
	g.open()
	host := g.accept()
	go func() {
		for range 4 * maxChunks {
			if _, err := host.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(time.Microsecond)
		}
	}()
	c := g.flowOf()
	most := 0
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		g.inLoop(func() { most = max(most, len(c.toGuest.chunks)) })
	}
	if most > maxChunks {
		t.Errorf("%d frames were kept", most)
	}
	g.send("R", 0, 0, "")
	g.ended(endReset)
}

// TestDirectKeepAlive asks a silent guest whether it is there, and ends the flow of
// one that isn't.
func TestDirectKeepAlive(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress public")
	g.open()
	g.accept()
	now := time.Now()
	g.direct.keepAlive(now.Add(keepAliveIdle / 2))
	g.direct.keepAlive(now.Add(keepAliveIdle + time.Second))
	if s := g.next(); s.flags != flagACK || s.seq != g.irs || s.ack != g.iss+1 {
		t.Errorf("asked by %v", s)
	}
	g.send("A", 0, 0, "") // it is
	c := g.flowOf()
	g.eventually("answered", func() bool { return g.whether(func() bool { return c.toGuest.probes == 0 }) })
	for i := range keepAliveCount {
		g.direct.keepAlive(now.Add(keepAliveIdle + time.Minute + time.Duration(i)*keepAliveInterval))
		if s := g.next(); s.seq != g.irs {
			t.Errorf("question %d is %v", i, s)
		}
	}
	g.direct.keepAlive(now.Add(keepAliveIdle + time.Minute + keepAliveCount*keepAliveInterval))
	g.reset()
	g.ended(endTimeout)
}

// TestDirectUrgent sends an urgent byte and more behind it, and no end: a read stops
// in front of that byte, and nothing else tells of the rest.
func TestDirectUrgent(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public")
	done := make(chan struct{})
	n.serve("93.184.216.34:80", func(c *net.TCPConn) {
		raw, _ := c.SyscallConn()
		for range 20 {
			c.Write([]byte("before"))
			raw.Write(func(fd uintptr) bool {
				return syscall.Sendto(int(fd), []byte("!"), syscall.MSG_OOB, nil) != syscall.EAGAIN
			})
			c.Write([]byte("behind"))
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				return
			}
		}
		<-done
	})
	defer close(done)
	c := n.mustDial("93.184.216.34:80")
	for i := range 20 {
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		b := make([]byte, 13)
		if k, err := io.ReadFull(c, b); string(b) != "before!behind" {
			t.Fatalf("round %d: got %q, %v", i, b[:k], err)
		}
		c.Write([]byte("."))
	}
}

// TestDirectHostResetsBehindItsEnd passes a reset on that nobody reads.
func TestDirectHostResetsBehindItsEnd(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress public")
	g.open()
	host := g.accept()
	host.CloseWrite()
	g.until("end", func(s seenSegment) bool { return s.flags&flagFIN != 0 })
	g.send("A", 0, 1, "")
	host.SetLinger(0)
	host.Close()
	g.reset()
	g.ended(endReset)
}

// A lossyLink loses, doubles and reorders frames in both directions.
type lossyLink struct {
	link.Link
	mu   sync.Mutex // guards the following fields
	rand *rand.Rand
	late []link.Frame // to be written behind the next
}

func (l *lossyLink) dice(n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rand.IntN(n)
}

func (l *lossyLink) ReadFrames(frames []link.Frame) (int, error) {
	for {
		n, err := l.Link.ReadFrames(frames)
		if err != nil {
			return n, err
		}
		k := 0
		for i := range n {
			if l.dice(50) > 0 {
				frames[k], frames[i] = frames[i], frames[k]
				k++
			}
		}
		if k > 1 && l.dice(10) == 0 {
			frames[0], frames[k-1] = frames[k-1], frames[0]
		}
		if k > 0 {
			return k, nil
		}
	}
}

func (l *lossyLink) WriteFrames(frames []link.Frame) (int, error) {
	for _, f := range frames {
		switch l.dice(60) {
		case 0: // lost
			continue
		case 1: // late
			l.mu.Lock()
			l.late = append(l.late, link.Frame{Data: bytes.Clone(f.Data), Offload: f.Offload})
			l.mu.Unlock()
			continue
		case 2: // twice
			l.Link.WriteFrames([]link.Frame{f})
		}
		if _, err := l.Link.WriteFrames([]link.Frame{f}); err != nil {
			return 0, err
		}
		l.mu.Lock()
		late := l.late
		l.late = nil
		l.mu.Unlock()
		l.Link.WriteFrames(late)
	}
	return len(frames), nil
}

// TestDirectLoss moves bytes both ways at once over a card that loses, doubles and
// reorders frames, and over whole ones of every MTU.
func TestDirectLoss(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		to    string
		mtu   int
		seed  uint64 // of the losses; 0 for none
		bytes int
	}{
		{"IPv4, MTU 1280", "93.184.216.34:80", 1280, 0, 8 << 20},
		{"IPv6, MTU 1280", "[2606:2800:220::34]:80", 1280, 0, 8 << 20},
		{"IPv4, MTU 65520", "93.184.216.34:80", 65520, 0, 8 << 20},
		{"IPv6, MTU 65520", "[2606:2800:220::34]:80", 65520, 0, 8 << 20},
		{"IPv4, losses", "93.184.216.34:80", 1500, 1, 1 << 20},
		{"IPv6, losses", "[2606:2800:220::34]:80", 1500, 2, 1 << 20},
		{"IPv4, losses, MTU 65520", "93.184.216.34:80", 65520, 3, 1 << 20},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := startNet(t, "allow egress public", func(c *Config) {
				if c.MTU = tt.mtu; tt.seed != 0 {
					c.Link = &lossyLink{Link: c.Link, rand: rand.New(rand.NewPCG(tt.seed, tt.seed))}
				}
			})
			up, down := randomBytes(tt.bytes, 1), randomBytes(tt.bytes, 2)
			got := make(chan [32]byte, 1)
			n.serve(tt.to, func(c *net.TCPConn) {
				var writing sync.WaitGroup
				defer writing.Wait() // else the close would cut it off
				writing.Go(func() { c.Write(down); c.CloseWrite() })
				h := sha256.New()
				if _, err := io.Copy(h, c); err != nil {
					t.Error(err)
				}
				got <- [32]byte(h.Sum(nil))
			})
			c, err := n.dialFrom(1234, tt.to)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			go func() { c.Write(up); c.CloseWrite() }()
			c.SetReadDeadline(time.Now().Add(60 * time.Second))
			b, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(b, down) {
				t.Errorf("from the host: %d bytes, equal %v, %v", len(b), bytes.Equal(b, down), err)
			}
			select {
			case h := <-got:
				if h != sha256.Sum256(up) {
					t.Error("to the host: changed on the way")
				}
			case <-time.After(60 * time.Second):
				t.Fatal("to the host: not in time")
			}
		})
	}
}
