package vnet

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// TestDirectSequence sends segments in orders that no good link brings about. The
// host gets each byte once and in order, and no acknowledgement runs ahead.
func TestDirectSequence(t *testing.T) {
	t.Parallel()
	type segment struct {
		seq   int
		data  string
		fin   bool
		acked int // what the answer acknowledges; the FIN counts one
	}
	tests := []struct {
		name     string
		segments []segment
		want     string
		ended    bool
	}{
		{"in order", []segment{{0, "abc", false, 3}, {3, "def", false, 6}}, "abcdef", false},
		{"again", []segment{{0, "abc", false, 3}, {0, "abc", false, 3}, {3, "d", false, 4}}, "abcd", false},
		{"other bytes again", []segment{{0, "abc", false, 3}, {0, "xyz", false, 3}}, "abc", false},
		{"partly known", []segment{{0, "abc", false, 3}, {1, "xxdef", false, 6}}, "abcdef", false},
		{"a gap", []segment{{3, "def", false, 0}, {0, "abc", false, 3}, {3, "def", false, 6}}, "abcdef", false},
		{"far before", []segment{{0, "abc", false, 3}, {-1 << 20, "abc", false, 3}}, "abc", false},
		{"far behind", []segment{{1 << 21, "abc", false, 0}, {-1 << 31, "abc", false, 0}, {0, "x", false, 1}}, "x", false},
		{"probe of a byte", []segment{{0, "abc", false, 3}, {2, "x", false, 3}}, "abc", false},
		{"end alone", []segment{{0, "", true, 1}}, "", true},
		{"end with bytes", []segment{{0, "abc", true, 4}}, "abc", true},
		{"end again", []segment{{0, "abc", true, 4}, {3, "", true, 4}, {0, "abc", true, 4}}, "abc", true},
		{"end before bytes", []segment{{3, "", true, 0}, {0, "abc", false, 3}, {3, "", true, 4}}, "abc", true},
		{"end with known bytes", []segment{{0, "abc", false, 3}, {0, "abc", true, 4}}, "abc", true},
		{"bytes behind the end", []segment{{0, "a", true, 2}, {2, "zzz", false, 2}, {1, "zzz", false, 2}}, "a", true},
		{"more before the end than was", []segment{{0, "ab", true, 3}, {0, "abcd", true, 3}}, "ab", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := startDirect(t, "allow egress public")
			g.open()
			host := g.accept()
			for _, s := range tt.segments {
				flags := "A"
				if s.fin {
					flags = "FA"
				}
				g.send(flags, s.seq, 0, s.data)
				if a := g.next(); a.ack != g.iss+1+uint32(s.acked) || a.flags != flagACK {
					t.Errorf("%+v was answered by %v, iss %d", s, a, g.iss)
				}
			}
			if tt.ended {
				if b, err := hostEnds(host); b != tt.want || err != nil {
					t.Errorf("the host got %q, %v, want %q", b, err, tt.want)
				}
				return
			}
			if b := readHost(t, host, len(tt.want)); b != tt.want {
				t.Errorf("the host got %q, want %q", b, tt.want)
			}
			host.SetReadDeadline(time.Now().Add(time.Millisecond))
			if k, err := host.Read(make([]byte, 1)); k != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("behind that came %d bytes, %v", k, err)
			}
		})
	}
}

// TestDirectBadAcknowledgement ignores what a segment says that acknowledges what
// was never sent, and takes bytes of one that acknowledges what is long known.
func TestDirectBadAcknowledgement(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress public")
	g.open()
	host := g.accept()
	for _, ack := range []int{1, 1 << 20, 1<<31 - 1} {
		g.send("A", 0, ack, "evil")
		g.acked(0)
	}
	g.send("A", 0, -1<<20, "good")
	g.acked(4)
	if b := readHost(t, host, 4); b != "good" {
		t.Errorf("the host got %q", b)
	}
}

// TestDirectWindow sends more than the host reads, and more than the window allows:
// the rest isn't taken, memory stays bounded, and when the host reads the window
// opens and all of it arrives.
func TestDirectWindow(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress public")
	g.open()
	c := g.flowOf()
	sent := g.stall()
	piece := strings.Repeat("0123456789abcdef", 80)
	var last seenSegment
	for last.ack == 0 || last.window > 0 {
		for i := range 32 {
			g.send("A", sent+i*len(piece), 0, piece)
		}
		all := g.iss + 1 + uint32(sent+32*len(piece))
		last = g.until("answer", func(s seenSegment) bool {
			return s.flags == flagACK && (s.ack == all || s.window == 0)
		})
		sent = int(last.ack - g.iss - 1)
	}
	queued := 0
	g.inLoop(func() { queued = c.fromGuest.waiting() })
	if used := g.budget.used(); queued > directWindow || used > 3*directWindow {
		t.Errorf("%d bytes wait, in %d", queued, used)
	}
	host := g.accept()
	got := make(chan int)
	go func() {
		n, b := 0, make([]byte, 64<<10)
		host.SetReadDeadline(time.Now().Add(20 * time.Second))
		for {
			k, err := host.Read(b)
			for i, x := range b[:k] {
				if x != piece[(n+i)%16] {
					t.Errorf("byte %d is wrong", n+i)
					got <- n
					return
				}
			}
			if n += k; err != nil {
				got <- n
				return
			}
		}
	}()
	g.until("open window", func(s seenSegment) bool {
		sent = max(sent, int(s.ack-g.iss-1))
		return s.window<<directScale >= directWindow/4
	})
	g.send("FA", sent, 0, "")
	if n := <-got; n != sent {
		t.Errorf("the host got %d bytes of %d", n, sent)
	}
	host.CloseWrite()
	g.until("end", func(s seenSegment) bool { return s.flags&flagFIN != 0 })
	g.send("A", sent+1, 1, "")
	g.ended(endFIN)
}

// TestDirectDelayedAcknowledgement acknowledges small segments late, but does.
func TestDirectDelayedAcknowledgement(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress public")
	g.open()
	g.send("A", 0, 0, "x")
	if s := g.next(); s.flags != flagACK || s.ack != g.iss+2 {
		t.Errorf("got %v", s)
	}
	g.send("A", 1, 0, "y")
	g.accept().Write([]byte("answer"))
	g.until("answer that acknowledges", func(s seenSegment) bool { return s.data == "answer" && s.ack == g.iss+3 })
}

// TestDirectGuestKeepAlive answers a guest that asks whether we are there, in both
// of the ways that kernels do.
func TestDirectGuestKeepAlive(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress public")
	g.open()
	for _, garbage := range []string{"", "\x00"} {
		g.send("A", -1, 0, garbage)
		if s := g.next(); s.flags != flagACK || s.ack != g.iss+1 || s.seq != g.irs+1 {
			t.Errorf("answered %v", s)
		}
	}
}

// TestDirectHeldEnd has the host end first, and the guest end while the gate holds
// its bytes: the timer that lets them go is the last that happens on the flow.
func TestDirectHeldEnd(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress good.example; allow egress public")
	g.open()
	host := g.accept()
	host.CloseWrite()
	g.until("end", func(s seenSegment) bool { return s.flags&flagFIN != 0 })
	g.send("A", 0, 1, "\x16\x03\x01\x02\x00\x01")
	g.acked(6)
	g.SetPolicy(policyOf(t, "allow egress public")) // nothing is to be held any more
	if b := readHost(t, host, 6); b != "\x16\x03\x01\x02\x00\x01" {
		t.Errorf("the host got %q", b)
	}
	g.send("FA", 6, 1, "")
	if b, err := hostEnds(host); b != "" || err != nil {
		t.Errorf("the host saw %q, %v", b, err)
	}
	g.ended(endFIN)
}

// TestDirectDialFails tells the guest how its connect failed, and tries the other
// loopback for the gateway: what the guest has asked for decides what it is told.
func TestDirectDialFails(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refuses := closed.Addr().String()
	closed.Close()
	const unreachable = "[2001:db8::1]:80" // the laboratory has no route there
	tests := []struct {
		name  string
		dst   string
		to    map[string]string
		want  string
		reset bool
	}{
		{"refused", "93.184.216.34:81", map[string]string{"93.184.216.34:81": refuses}, endRefused, true},
		{"unreachable", "93.184.216.34:81", map[string]string{"93.184.216.34:81": unreachable}, endUnreachable, false},
		{"gateway, both refuse", gateway4 + ":81", map[string]string{"127.0.0.1:81": refuses, "[::1]:81": refuses}, endRefused, true},
		{"gateway, no other", gateway4 + ":81", map[string]string{"127.0.0.1:81": refuses}, endRefused, true},
		{"gateway, other family absent", gateway4 + ":81", map[string]string{"127.0.0.1:81": refuses, "[::1]:81": unreachable}, endRefused, true},
		{"gateway, found on the other", gateway4 + ":81", map[string]string{"127.0.0.1:81": refuses, "[::1]:81": ""}, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := startDirect(t, "allow egress public; allow egress host")
			g.dst = tt.dst
			for from, to := range tt.to {
				if to == "" {
					g.listenAt(from, g.host)
				} else {
					g.lab.add(from, to)
				}
			}
			g.send("S", -1, -1, "")
			switch {
			case tt.want == "":
				g.irs = g.next().seq
				g.send("A", 0, 0, "hello")
				if b := readHost(t, g.accept(), 5); b != "hello" {
					t.Errorf("the host got %q", b)
				}
				return
			case tt.reset:
				g.reset()
			default:
				if m := <-g.icmpSeen; m[34] != icmpUnreachable {
					t.Errorf("the guest got ICMP %d", m[34])
				}
			}
			g.ended(tt.want)
		})
	}
}

// TestDirectDialTimesOut gives up a connect that nobody answers, in silence.
func TestDirectDialTimesOut(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress public")
	g.fillBacklog()
	g.send("S", -1, -1, "")
	g.eventually("dialing", func() bool { return len(g.directFlows()) == 1 })
	g.send("S", -1, -1, "") // which the guest repeats
	g.tickAt(dialTimeout)
	g.ended(endTimeout)
	if len(g.tcpSeen) != 0 {
		t.Errorf("the guest got %v", g.next())
	}
}

// TestDirectBudgetFromGuest spends the memory of a network on flows whose hosts don't
// read: that is told, windows close, other flows go on, and nothing is lost.
func TestDirectBudgetFromGuest(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress public", func(c *Config) { c.Limits.BufferBytes = 256 << 10 })
	g.open()
	host := g.accept()
	host.SetReadBuffer(256 << 10)
	pattern := strings.Repeat("0123456789abcdef", 81)
	sent := 0
	for starved := false; !starved; {
		piece := pattern[sent%16:][:1280]
		for i := range 32 {
			g.send("A", sent+i*len(piece), 0, piece)
		}
		last := g.iss + 1 + uint32(sent+32*len(piece))
		sent = int(g.until("answer", func(s seenSegment) bool {
			starved = s.window == 0
			return s.flags == flagACK && (s.ack == last || starved)
		}).ack - g.iss - 1)
	}
	if e := g.waitEvent("limit.hit"); e.Limit != "BufferBytes" {
		t.Errorf("told of %q", e.Limit)
	}
	if used := g.budget.used(); used > 192<<10 {
		t.Errorf("growth took %d bytes and left too little", used)
	}
	other := *g
	other.src = guest4 + ":1001"
	other.send("S", -1, -1, "")
	other.irs = other.until("answer", func(s seenSegment) bool { return s.flags == flagSYN|flagACK }).seq
	other.send("A", 0, 0, "others go on")
	if b := readHost(t, g.accept(), 12); b != "others go on" {
		t.Errorf("the other flow brought %q", b)
	}
	got := make(chan int)
	go func() {
		b, _ := hostEnds(host)
		if strings.Count(b, "0123456789abcdef") != len(b)/16 {
			t.Errorf("%d bytes arrived changed", len(b))
		}
		got <- len(b)
	}()
	for open := false; !open; { // it may have been told of among the other flow's segments
		g.send("A", sent-1, 0, "")
		g.until("answer", func(s seenSegment) bool {
			sent, open = max(sent, int(s.ack-g.iss-1)), s.window > 64
			return s.seq == g.irs+1
		})
	}
	g.send("FA", sent, 0, "")
	if n := <-got; n != sent {
		t.Errorf("%d bytes of %d arrived", n, sent)
	}
}

// TestDirectGuestEndsAtDeadHost has the host gone when the guest's end of stream is
// to be passed on.
func TestDirectGuestEndsAtDeadHost(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress public")
	g.open()
	host := g.accept()
	host.SetLinger(0)
	host.Close()
	g.send("FA", 0, 0, "x")
	g.reset()
	g.ended(endReset)
}
