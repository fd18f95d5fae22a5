package vnet

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
)

// TestDirectSYN opens flows by SYNs of all kinds, and looks at the answer and at
// the size of what the host's bytes come in.
func TestDirectSYN(t *testing.T) {
	t.Parallel()
	mss := func(n uint16) change { return options(layers.TCPOptionKindMSS, n) }
	scale := func(n uint16) change { return options(layers.TCPOptionKindWindowScale, n) }
	raw := func(b ...byte) change {
		return func(w *wire) {
			w.tcp.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKind(b[0]), OptionLength: b[1], OptionData: b[2:]}}
		}
	}
	tests := []struct {
		name    string
		syn     []change
		size    int // of the largest segment
		answers int // scale of our windows; -1 for none
	}{
		{"no options", nil, 536, -1},
		{"ordinary", []change{mss(1460), scale(7)}, 1460, directScale},
		{"a larger MSS than the card's", []change{mss(9000), scale(7)}, 1460, directScale},
		{"MSS 1", []change{mss(1), scale(7)}, minMSS, directScale},
		{"MSS 0, which ends the options", []change{mss(0), scale(7)}, 536, -1},
		{"no scale", []change{mss(1460)}, 1460, -1},
		{"scale 0", []change{mss(1460), scale(0)}, 1460, directScale},
		{"scale beyond 14", []change{mss(1460), scale(255)}, 1460, directScale},
		{"unknown option", []change{raw(200, 4, 1, 2)}, 536, -1},
		{"an option that ends behind the header", []change{raw(200, 40, 1, 2)}, 536, -1},
		{"ECN, which nobody here speaks", []change{mss(1460), func(w *wire) { w.tcp.ECE, w.tcp.CWR = true, true }}, 1460, -1},
		{"data, which is sent again", []change{mss(1460), func(w *wire) { w.payload = []byte("early") }}, 1460, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := startDirect(t, "allow egress public")
			g.send("S", -1, -1, "", tt.syn...)
			answer := g.next()
			if answer.flags != flagSYN|flagACK || answer.ack != g.iss+1 || answer.mss != 1460 || answer.scale != tt.answers {
				t.Fatalf("answered %v, MSS %d, scale %d, want %d", answer, answer.mss, answer.scale, tt.answers)
			}
			g.irs = answer.seq
			g.send("A", 0, 0, "", window(65535))
			g.accept().Write(make([]byte, 3000))
			for got := 0; got < 3000; {
				s := g.next()
				if s.seq != g.irs+1+uint32(got) || len(s.data) > tt.size && len(s.data)%tt.size != 0 && got+len(s.data) != 3000 {
					t.Fatalf("behind %d bytes came %v, want segments of %d", got, s, tt.size)
				}
				got += len(s.data)
			}
		})
	}
}

// TestDirectHandshake goes wrong in every way that a handshake can.
func TestDirectHandshake(t *testing.T) {
	t.Parallel()
	syn := func(g *directGuest) {
		g.send("S", -1, -1, "")
		g.irs = g.next().seq
	}
	t.Run("SYN again", func(t *testing.T) {
		t.Parallel()
		g := startDirect(t, "allow egress public")
		syn(g)
		for range 3 {
			g.send("S", -1, -1, "")
			if s := g.next(); s.flags != flagSYN|flagACK || s.seq != g.irs || s.ack != g.iss+1 {
				t.Errorf("a repeated SYN got %v", s)
			}
		}
		g.send("A", 0, 0, "hello")
		if b := readHost(t, g.accept(), 5); b != "hello" {
			t.Errorf("the host got %q", b)
		}
	})
	t.Run("answer again", func(t *testing.T) {
		t.Parallel()
		g := startDirect(t, "allow egress public")
		syn(g)
		for range 2 { // by its timer
			if s := g.next(); s.flags != flagSYN|flagACK || s.seq != g.irs {
				t.Errorf("got %v", s)
			}
		}
		g.send("A", 0, 0, "")
		g.eventually("open", func() bool { return g.Stats().HeldFlows == 0 })
		if d := g.timeout(); d != firstTimeout {
			t.Errorf("the next loss would be found after %v", d)
		}
	})
	t.Run("acknowledges what was never sent", func(t *testing.T) {
		t.Parallel()
		g := startDirect(t, "allow egress public")
		syn(g)
		g.send("A", 0, 77, "nonsense")
		g.send("A", 0, -1, "nonsense")
		g.send("A", 0, 0, "sense")
		if b := readHost(t, g.accept(), 5); b != "sense" {
			t.Errorf("the host got %q", b)
		}
	})
	t.Run("another SYN", func(t *testing.T) {
		t.Parallel()
		g := startDirect(t, "allow egress public")
		syn(g)
		g.send("S", 5000, -1, "") // the guest has forgotten; our acknowledgement has it say so
		s := g.until("challenge", func(s seenSegment) bool { return s.flags == flagACK })
		if s.seq != g.irs+1 || s.ack != g.iss+1 {
			t.Errorf("challenged with %v", s)
		}
		g.send("R", 0, 0, "")
		g.ended(endReset)
	})
	t.Run("never completed", func(t *testing.T) {
		t.Parallel()
		g := startDirect(t, "allow egress public")
		syn(g)
		host := g.accept()
		g.tickAt(handshakeTimeout)
		g.reset()
		g.ended(endReset)
		if _, err := hostEnds(host); !isReset(err) {
			t.Errorf("the host saw %v, want a reset", err)
		}
	})
	t.Run("host speaks and ends before it", func(t *testing.T) {
		t.Parallel()
		g := startDirect(t, "allow egress public")
		syn(g)
		host := g.accept()
		host.Write([]byte("banner"))
		host.Close()
		g.send("A", 0, 0, "")
		if s := g.until("banner", func(s seenSegment) bool { return s.data != "" }); s.data != "banner" {
			t.Errorf("got %v", s)
		}
		g.until("end", func(s seenSegment) bool { return s.flags&flagFIN != 0 && s.seq == g.irs+1+6 })
		g.send("FA", 0, 7, "")
		g.ended(endFIN)
	})
	t.Run("host resets before it", func(t *testing.T) {
		t.Parallel()
		g := startDirect(t, "allow egress public")
		syn(g)
		host := g.accept()
		host.SetLinger(0)
		host.Close()
		g.send("A", 0, 0, "")
		g.reset()
		g.ended(endReset)
	})
}

// timeout returns how long the flow would wait for an acknowledgement now.
func (g *directGuest) timeout() (d time.Duration) {
	c := g.flowOf()
	g.inLoop(func() { d = c.toGuest.timeout })
	return d
}

// TestDirectSYNInOpenFlow asks whether the guest means it (RFC 5961, section 4).
func TestDirectSYNInOpenFlow(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress public")
	g.open()
	for _, seq := range []int{-1, 0, 5, 1 << 30} {
		g.send("S", seq, -1, "")
		if s := g.next(); s.flags != flagACK || s.seq != g.irs+1 || s.ack != g.iss+1 {
			t.Errorf("a SYN %d bytes in got %v", seq, s)
		}
	}
	g.send("A", 0, 0, "still here")
	if b := readHost(t, g.accept(), 10); b != "still here" {
		t.Errorf("the host got %q", b)
	}
}

// TestDirectReset resets flows in every state, within the window and beside it.
func TestDirectReset(t *testing.T) {
	t.Parallel()
	states := map[string]func(g *directGuest){
		"answered": func(g *directGuest) { g.send("S", -1, -1, ""); g.irs = g.next().seq; g.accept() },
		"open":     func(g *directGuest) { g.open(); g.accept() },
		"guest has ended": func(g *directGuest) {
			g.open()
			g.send("FA", 0, 0, "")
			g.acked(1)
			hostEnds(g.accept())
		},
		"host has ended": func(g *directGuest) {
			g.open()
			g.accept().CloseWrite()
			g.until("end", func(s seenSegment) bool { return s.flags&flagFIN != 0 })
			g.send("A", 0, 1, "")
		},
	}
	for name, reach := range states {
		for _, offset := range []int{-1, 0, 1, directWindow, directWindow + 1, -1 << 31} {
			t.Run(fmt.Sprintf("%s, %d", name, offset), func(t *testing.T) {
				t.Parallel()
				g := startDirect(t, "allow egress public")
				reach(g)
				seq := offset
				if strings.HasPrefix(name, "guest") {
					seq++
				}
				g.send("RA", seq, 0, "")
				if offset >= 0 && offset <= directWindow {
					g.ended(endReset)
					return
				}
				g.eventually("read", func() bool { return g.Stats().FramesFromGuest >= 2 })
				g.send("S", 7, 0, "") // a marker: a flow that is there answers
				g.until("challenge", func(s seenSegment) bool { return s.flags == flagACK && s.ack-g.iss <= 2 })
				if g.count("flow.close") != 0 {
					t.Error("the flow has ended")
				}
			})
		}
	}
}

// directEnds lists what may end a flow from outside in the middle of anything.
var directEnds = map[string]func(g *directGuest){
	"denied": func(g *directGuest) { g.SetPolicy(policyOf(g.t, "deny egress public")) },
	"closed": func(g *directGuest) { g.Network.Close() },
}

// TestDirectCut replaces the policy, and closes the network, in every state.
func TestDirectCut(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 60_000)
	states := map[string]func(g *directGuest){
		"dialing": func(g *directGuest) {
			g.fillBacklog()
			g.send("S", -1, -1, "")
			g.eventually("dialing", func() bool { return g.Stats().HeldFlows == 1 })
		},
		"answered":            func(g *directGuest) { g.send("S", -1, -1, ""); g.irs = g.next().seq },
		"open":                func(g *directGuest) { g.open() },
		"flight not finished": func(g *directGuest) { g.open(); g.send("A", 0, 0, "\x16\x03\x01\x02\x00\x01"); g.acked(6) },
		"guest has ended":     func(g *directGuest) { g.open(); g.send("FA", 0, 0, "x"); g.acked(2) },
		"host has ended": func(g *directGuest) {
			g.open()
			g.accept().CloseWrite()
			g.until("end", func(s seenSegment) bool { return s.flags&flagFIN != 0 })
		},
		"bytes under way to the guest": func(g *directGuest) {
			g.open()
			go g.accept().Write([]byte(big))
			g.until("bytes", func(s seenSegment) bool { return s.data != "" })
		},
		"bytes that the host doesn't read": func(g *directGuest) {
			g.open()
			g.stall()
		},
	}
	for name, reach := range states {
		for how, end := range directEnds {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				g := startDirect(t, "allow egress public")
				reach(g)
				start := time.Now()
				end(g)
				g.ended(how)
				if d := time.Since(start); d > 2*time.Second {
					t.Errorf("took %v", d)
				}
				if how == endDenied {
					g.reset()
				}
				if e := g.waitEvent("flow.close"); g.count("flow.close") != 1 || e.Flow.End != how {
					t.Errorf("%d records, %s", g.count("flow.close"), e.Flow.End)
				}
			})
		}
	}
}

// fillBacklog has the server not answer: what Linux does when its backlog is full.
func (g *directGuest) fillBacklog() {
	g.t.Helper()
	fd, to := listenFull(g.t)
	g.lab.add(g.dst, to)
	g.t.Cleanup(fd)
}

// stall sends until the host's buffers are full and bytes wait in the flow's queue.
// It returns how many were acknowledged.
func (g *directGuest) stall() (sent int) {
	g.t.Helper()
	host := g.accept()
	host.SetReadBuffer(256 << 10)
	piece := strings.Repeat("0123456789abcdef", 80)
	c := g.flowOf()
	for g.whether(func() bool { return c.fromGuest.waiting() < directWindow/2 }) {
		for range 32 {
			g.send("A", sent, 0, piece)
			sent += len(piece)
		}
		g.acked(sent)
	}
	g.host <- host
	return sent
}

// TestDirectManyFlows has a thousand flows at once, each with bytes of its own, and
// compares what they brought with the records.
func TestDirectManyFlows(t *testing.T) {
	t.Parallel()
	flows := 1000
	if testing.Short() {
		flows = 100
	}
	n := startNet(t, "allow egress public", func(c *Config) { c.Limits.HeldFlows = flows })
	n.serve("93.184.216.34:80", func(c *net.TCPConn) {
		b, err := io.ReadAll(c)
		if err != nil {
			t.Error(err)
		}
		slices.Reverse(b)
		c.Write(b)
	})
	done := make(chan error)
	for i := range flows {
		go func() {
			c, err := n.dialFrom(uint16(2000+i), "93.184.216.34:80")
			if err != nil {
				done <- err
				return
			}
			defer c.Close()
			b := randomBytes(i*7, uint64(i))
			c.Write(b)
			c.CloseWrite()
			got, err := io.ReadAll(c)
			slices.Reverse(got)
			if err == nil && !slices.Equal(got, b) {
				err = fmt.Errorf("flow %d: %d bytes came back changed, of %d", i, len(got), len(b))
			}
			done <- err
		}()
	}
	for range flows {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	n.eventually("all recorded", func() bool { return n.count("flow.close") == n.count("flow.open") && n.Stats().TCPFlows == 0 })
	if n.count("flow.open") != flows || n.budget.used() != 0 {
		t.Errorf("%d records of %d flows, %d bytes of memory left", n.count("flow.open"), flows, n.budget.used())
	}
	var out, in uint64
	for _, e := range n.events {
		if e.Type == "flow.close" {
			out, in = out+e.Flow.BytesOut, in+e.Flow.BytesIn
			if e.Flow.End != endFIN {
				t.Errorf("%v ended by %s", e.Flow.Src, e.Flow.End)
			}
		}
	}
	if want := uint64(7 * flows * (flows - 1) / 2); out != want || in != want {
		t.Errorf("recorded %d bytes out and %d in, want %d", out, in, want)
	}
}

// TestDirectCardEnds has the guest's card vanish under an open flow: the network says
// so, and the host is told.
func TestDirectCardEnds(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress public")
	g.open()
	host := g.accept()
	g.guest.link.Close()
	select {
	case <-g.Done():
	case <-time.After(patience):
		t.Fatal("the network goes on")
	}
	if err := g.Err(); err != nil {
		t.Errorf("ended by %v", err)
	}
	if b, err := hostEnds(host); b != "" || err == nil {
		t.Errorf("the host got %q, %v, want a reset", b, err)
	}
	g.ended(endClosed)
}

// TestDirectReviewedAtAdmission replaces the rules between the decision about a flow
// and its first step. The new ones want a name, and a guest that shows none is cut.
func TestDirectReviewedAtAdmission(t *testing.T) {
	t.Parallel()
	next := policyOf(t, "allow egress good.example")
	network := make(chan *Network, 1)
	g := startDirect(t, "allow egress public", func(c *Config) {
		record := c.Events
		c.Events = func(e Event) {
			if e.Type == "flow.open" {
				(<-network).SetPolicy(next)
			}
			record(e)
		}
		c.Names = tableOfNames{netip.MustParseAddr(remote4): {"good.example", "bad.example"}}
		c.holdTimeout = 50 * time.Millisecond
	})
	network <- g.Network
	g.send("S", -1, -1, "")
	g.irs = g.next().seq
	g.send("A", 0, 0, "")
	g.reset()
	g.ended(endDenied)
}

// TestDirectLastACK loses our acknowledgement of the guest's end of stream behind our
// own: the guest says it again, and hears that it was heard.
func TestDirectLastACK(t *testing.T) {
	t.Parallel()
	g := startDirect(t, "allow egress public")
	g.open()
	host := g.accept()
	host.CloseWrite()
	g.until("end", func(s seenSegment) bool { return s.flags&flagFIN != 0 })
	g.send("FA", 0, 0, "")
	g.acked(1)
	g.send("FA", 0, 1, "")
	if s := g.acked(1); s.flags != flagACK {
		t.Errorf("answered by %v", s)
	}
	g.ended(endFIN)
}

// TestDirectTimersCount keeps deadlines when the host's clock is set back.
func TestDirectTimersCount(t *testing.T) {
	t.Parallel()
	timers := directTimers{start: time.Now()}
	now := time.Now()
	c := &directFlow{d: &direct{timers: timers}}
	c.d.timers.last = c.d.timers.count(now)
	c.wakeBy(now.Add(timerTick))
	if wait := c.d.timers.wait(now); wait > timerTick {
		t.Errorf("waits for %v", wait)
	}
	if a, b := timers.count(now), timers.count(now.Round(0)); a == 0 || b == 0 {
		t.Errorf("0 stands for no deadline: %d, %d", a, b)
	}
}
