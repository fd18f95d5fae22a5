package vnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A directGuest is a guest that speaks one flow by hand: every segment of it is
// the test's, and it answers nothing by itself.
type directGuest struct {
	*testNet
	src, dst string
	iss      uint32
	irs      uint32 // of the network, once it has answered
	host     chan *net.TCPConn
}

// A seenSegment is a segment that the guest got.
type seenSegment struct {
	flags    uint8
	seq, ack uint32
	window   int // as it stands in the header
	mss      int // of the options; 0 without
	scale    int // likewise; -1 without
	data     string
}

func (s seenSegment) String() string {
	return fmt.Sprintf("%s seq %d ack %d window %d %.20q (%d)", header.TCPFlags(s.flags), s.seq, s.ack, s.window, s.data, len(s.data))
}

// startDirect starts a network with a server at 93.184.216.34:80, whose connections
// the test has by accept, and a guest of the test's hands.
func startDirect(t *testing.T, rules string, change ...func(*Config)) *directGuest {
	t.Helper()
	n := startNet(t, rules, change...)
	g := &directGuest{testNet: n, src: guest4 + ":1000", dst: "93.184.216.34:80", iss: 999, host: make(chan *net.TCPConn, 16)}
	n.listenAt(g.dst, g.host)
	n.deaf.Store(true)
	return g
}

// listenAt makes addr a server of the lab whose connections go to conns.
func (n *testNet) listenAt(addr string, conns chan<- *net.TCPConn) {
	n.t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	n.lab.add(addr, l.Addr().String())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.t.Cleanup(func() { c.Close() })
			conns <- c.(*net.TCPConn)
		}
	}()
	n.t.Cleanup(func() { l.Close(); <-done })
}

// accept returns the server's end of a flow.
func (g *directGuest) accept() *net.TCPConn {
	g.t.Helper()
	select {
	case c := <-g.host:
		return c
	case <-time.After(5 * time.Second):
		g.t.Fatal("nothing was dialled")
		return nil
	}
}

// send sends a segment: seq counts from the byte behind the SYN, ack from the one
// behind the network's.
func (g *directGuest) send(flags string, seq, ack int, data string, changes ...change) {
	g.t.Helper()
	set := func(w *wire) {
		w.tcp.Seq, w.tcp.Ack = g.iss+1+uint32(seq), g.irs+1+uint32(ack)
		w.payload = []byte(data)
	}
	g.write(tcpSegment(g.src, g.dst, flags, append([]change{set}, changes...)...))
}

// next returns the next segment that the guest got.
func (g *directGuest) next() seenSegment {
	g.t.Helper()
	select {
	case f := <-g.tcpSeen:
		return parseSeen(f)
	case <-time.After(5 * time.Second):
		g.t.Fatal("the guest got nothing")
		return seenSegment{}
	}
}

// until returns the first segment that ok likes; others are dropped.
func (g *directGuest) until(what string, ok func(seenSegment) bool) seenSegment {
	g.t.Helper()
	var others []seenSegment
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		select {
		case f := <-g.tcpSeen:
			s := parseSeen(f)
			if ok(s) {
				return s
			}
			others = append(others, s)
		case <-time.After(10 * time.Millisecond):
		}
	}
	g.t.Fatalf("no %s among %v", what, others)
	return seenSegment{}
}

// acked waits for an acknowledgement of so many bytes.
func (g *directGuest) acked(n int) seenSegment {
	g.t.Helper()
	return g.until(fmt.Sprintf("acknowledgement of %d", n), func(s seenSegment) bool { return s.ack == g.iss+1+uint32(n) && s.flags&flagACK != 0 })
}

// reset waits for a reset.
func (g *directGuest) reset() {
	g.t.Helper()
	g.until("reset", func(s seenSegment) bool { return s.flags&flagRST != 0 })
}

func parseSeen(frame []byte) seenSegment {
	l4 := etherLen + ipv4Len
	if frame[12] == 0x86 {
		l4 = etherLen + ipv6Len
	}
	h := header.TCP(frame[l4:])
	s := seenSegment{flags: uint8(h.Flags()), seq: h.SequenceNumber(), ack: h.AckNumber(), window: int(h.WindowSize()), data: string(h.Payload())}
	o := header.ParseSynOptions(h.Options(), true)
	s.mss, s.scale = int(o.MSS), o.WS
	return s
}

// open does the handshake: with a scale of windows of 7, and 64 KiB to begin with.
func (g *directGuest) open() {
	g.t.Helper()
	g.send("S", -1, -1, "", options(layers.TCPOptionKindMSS, 1460), options(layers.TCPOptionKindWindowScale, 7))
	g.irs = g.next().seq
	g.send("A", 0, 0, "", window(512))
	g.eventually("open", func() bool { s := g.Stats(); return s.TCPFlows > 0 && s.HeldFlows == 0 })
}

// options appends an option to a SYN: the MSS has two bytes, others one.
func options(kind layers.TCPOptionKind, value uint16) change {
	data := []byte{byte(value)}
	if kind == layers.TCPOptionKindMSS {
		data = binary.BigEndian.AppendUint16(nil, value)
	}
	return func(w *wire) {
		w.tcp.Options = append(w.tcp.Options, layers.TCPOption{OptionType: kind, OptionLength: uint8(2 + len(data)), OptionData: data})
	}
}

func window(n uint16) change { return func(w *wire) { w.tcp.Window = n } }

// flowOf returns the guest's flow, which must be there.
func (g *directGuest) flowOf() *directFlow {
	g.t.Helper()
	var c *directFlow
	for _, f := range g.directFlows() {
		c = f
	}
	if c == nil {
		g.t.Fatal("there is no flow")
	}
	return c
}

func (n *testNet) directFlows() (all []*directFlow) {
	n.direct.mu.RLock()
	defer n.direct.mu.RUnlock()
	for _, c := range n.direct.flows {
		all = append(all, c)
	}
	return all
}

// tickAt has the flow's timers believe that it is later.
func (g *directGuest) tickAt(later time.Duration) {
	var out batch
	g.flowOf().tick(&out, time.Now().Add(later))
	g.direct.send(&out)
}

// ended waits for the flow's end, and checks how it is recorded and that nothing is
// left of it.
func (g *directGuest) ended(how string) {
	g.t.Helper()
	if e := g.waitEvent("flow.close"); e.Flow.End != how {
		g.t.Errorf("recorded as %q, want %q", e.Flow.End, how)
	}
	g.eventually("all returned", func() bool { return g.budget.used() == 0 && len(g.directFlows()) == 0 })
	if s := g.Stats(); s.TCPFlows != 0 || s.HeldFlows != 0 {
		g.t.Errorf("left: %d flows, %d held", s.TCPFlows, s.HeldFlows)
	}
}

// readHost reads n bytes at the host's end.
func readHost(t *testing.T, c net.Conn, n int) string {
	t.Helper()
	b := make([]byte, n)
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	k, err := io.ReadFull(c, b)
	if err != nil {
		t.Fatalf("the host got %q and %v, want %d bytes", b[:k], err, n)
	}
	return string(b)
}

// hostEnds waits for the end of the stream at the host's, and returns what came
// before, and the error: nil for an end, else a reset.
func hostEnds(c net.Conn) (string, error) {
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	b, err := io.ReadAll(c)
	return string(b), err
}

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
		if d := g.flowOf().timeout(); d != firstTimeout {
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
func (c *directFlow) timeout() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.toGuest.timeout
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
	in := &g.flowOf().fromGuest
	for in.queued.Load() < directWindow/2 {
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

// listenFull returns a server that answers no more connects, and what ends it.
func listenFull(t *testing.T) (closeAll func(), addr string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	all := []int{fd}
	closeAll = func() {
		for _, fd := range all {
			unix.Close(fd)
		}
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 { // more than the backlog of 0 takes
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
		unix.Connect(c, sa)
	}
	return closeAll, addrPortOfSockaddr(sa).String()
}
