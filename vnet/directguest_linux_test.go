package vnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"syscall"
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
	case <-time.After(patience):
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
	case <-time.After(patience):
		g.t.Fatal("the guest got nothing")
		return seenSegment{}
	}
}

// until returns the first segment that ok likes; others are dropped.
func (g *directGuest) until(what string, ok func(seenSegment) bool) seenSegment {
	g.t.Helper()
	var others []seenSegment
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
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
	n.inLoop(func() { all = slices.Collect(maps.Values(n.direct.flows)) })
	return all
}

// inLoop has the goroutine that owns direct flows do something, and waits for that.
// If it has ended, nobody owns them.
func (n *Network) inLoop(fn func()) {
	done := make(chan struct{})
	n.direct.do(func() { fn(); close(done) })
	select {
	case <-done:
		return
	case <-n.failed:
	}
	select {
	case <-done:
	default:
		fn()
	}
}

// whether asks in the loop.
func (n *Network) whether(ok func() bool) (is bool) {
	n.inLoop(func() { is = ok() })
	return is
}

// tickAt has the flow's timers believe that it is later.
func (g *directGuest) tickAt(later time.Duration) {
	c := g.flowOf()
	g.inLoop(func() { c.tick(time.Now().Add(later)) })
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
	c.SetReadDeadline(time.Now().Add(patience))
	k, err := io.ReadFull(c, b)
	if err != nil {
		t.Fatalf("the host got %q and %v, want %d bytes", b[:k], err, n)
	}
	return string(b)
}

// hostEnds waits for the end of the stream at the host's, and returns what came
// before, and the error: nil for an end, else a reset.
func hostEnds(c net.Conn) (string, error) {
	c.SetReadDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(c)
	return string(b), err
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
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 { // more than the backlog of 0 takes
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
		syscall.Connect(c, sa)
	}
	return closeAll, addrPortOfSockaddr(sa).String()
}
