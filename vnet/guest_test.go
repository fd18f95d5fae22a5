package vnet

import (
	"context"
	"flag"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet/link"
)

// testNet is a Network with a guest on its card: a second gVisor stack, whose
// frames travel over a real socket pair. The host's side is loopback: lab maps
// any address to a listener of the test's.
type testNet struct {
	*Network
	t          *testing.T
	guest      *endpoint
	guestStack *stack.Stack
	block      Block
	lab        *labDialer
	icmpSeen   chan []byte // ICMP frames that the guest got
	udpSeen    chan []byte // UDP frames, likewise
	deaf       atomic.Bool // the guest's stack gets no TCP
	tcpSeen    chan []byte // TCP frames that a deaf guest got

	mu     sync.Mutex // guards the following field
	events []Event
}

// startNet starts a network with the given rules, default deny. change may
// alter its Config.
func startNet(t *testing.T, rules string, change ...func(*Config)) *testNet {
	t.Helper()
	pool, err := NewPool(netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("fd42:6d73:62::/48"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pool.Block(0)
	ours, theirs, err := link.Pair(link.Stream)
	if err != nil {
		t.Fatal(err)
	}
	l, err := link.Open(ours, link.Stream)
	if err != nil {
		t.Fatal(err)
	}
	n := &testNet{t: t, block: block, icmpSeen: make(chan []byte, 16), udpSeen: make(chan []byte, 16), tcpSeen: make(chan []byte, 1024), lab: newLab()}
	cfg := Config{Link: l, Block: block, Policy: policyOf(t, rules), Dialer: n.lab, Events: n.record}
	for _, c := range change {
		c(&cfg)
	}
	if lab, ok := cfg.Dialer.(*labDialer); ok && !lab.stack {
		cfg.Link = withoutStack(t, cfg.Link)
	}
	if n.Network, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	n.startGuest(theirs)
	return n
}

// throughStack has all flows of the guest go through gVisor, as those do that
// somebody has to read, and on other platforms all.
func throughStack(c *Config) { c.Dialer.(*labDialer).stack = true }

// stackOnly says that for every test. TestThroughStack uses it.
var stackOnly = flag.Bool("stack", false, "all flows go through the stack")

func newLab() *labDialer {
	return &labDialer{stack: *stackOnly, to: make(map[netip.AddrPort]string), err: make(map[netip.AddrPort]error)}
}

// policyOf compiles rules, separated by semicolons; everything else is denied.
func policyOf(t *testing.T, rules string) *policy.Policy {
	t.Helper()
	p, err := policy.New(policy.Config{Rules: rulesOf(t, rules)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func rulesOf(t *testing.T, text string) []policy.Rule {
	t.Helper()
	var rules []policy.Rule
	for line := range strings.SplitSeq(text, ";") {
		r, err := policy.ParseRule(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, r)
	}
	return rules
}

// startGuest runs the guest's stack on its end of the card.
func (n *testNet) startGuest(f *os.File) {
	n.t.Helper()
	l, err := link.Open(f, link.Stream)
	if err != nil {
		n.t.Fatal(err)
	}
	b := n.block
	n.guest = newEndpoint(l, n.cfg.MTU, tcpip.LinkAddress(b.GuestMAC), tcpip.LinkAddress(b.GatewayMAC), new(counters))
	s, err := newStack(n.guest)
	if err != nil {
		n.t.Fatal(err)
	}
	n.guestStack = s
	n.addGuestAddress(netip.PrefixFrom(b.Guest4, 30))
	n.addGuestAddress(netip.PrefixFrom(b.Guest6, 64))
	var reader sync.WaitGroup
	reader.Go(func() { n.readGuest(l) })
	n.t.Cleanup(func() {
		if err := n.Close(); err != nil {
			n.t.Error(err)
		}
		l.Close()
		reader.Wait()
		s.Destroy()
	})
}

// addGuestAddress gives the guest's stack an address.
func (n *testNet) addGuestAddress(a netip.Prefix) {
	n.t.Helper()
	proto := header.IPv4ProtocolNumber
	if a.Addr().Is6() {
		proto = header.IPv6ProtocolNumber
	}
	pa := tcpip.ProtocolAddress{Protocol: proto, AddressWithPrefix: tcpip.AddressWithPrefix{
		Address: tcpip.AddrFromSlice(a.Addr().AsSlice()), PrefixLen: a.Bits()}}
	if err := n.guestStack.AddProtocolAddress(nicID, pa, stack.AddressProperties{}); err != nil {
		n.t.Fatal(err)
	}
}

// readGuest gives the guest's stack its frames; ICMP goes to the test.
func (n *testNet) readGuest(l link.Link) {
	frames := make([]link.Frame, 8)
	for {
		k, err := l.ReadFrames(frames)
		if err != nil {
			return
		}
		for _, f := range frames[:k] {
			v6 := f.Data[12] == 0x86
			if proto := f.Data[23]; !v6 && proto == protoICMPv4 || v6 && f.Data[20] == protoICMPv6 {
				select {
				case n.icmpSeen <- slices.Clone(f.Data):
				default:
				}
				continue
			}
			if !v6 && f.Data[23] == protoUDP || v6 && f.Data[20] == protoUDP {
				select {
				case n.udpSeen <- slices.Clone(f.Data):
				default:
				}
				continue
			}
			if !n.deaf.Load() {
				n.guest.inject(v6, buffer.NewViewWithData(f.Data[etherLen:]))
				continue
			}
			select {
			case n.tcpSeen <- slices.Clone(f.Data):
			default:
			}
		}
	}
}

// patience bounds what must happen: a busy machine has to do other things too.
const patience = 2 * time.Minute

// dial connects from the guest, or takes two seconds of silence for an answer.
func (n *testNet) dial(to string) (*gonet.TCPConn, error) {
	return n.dialWithin(to, 2*time.Second)
}

func (n *testNet) dialWithin(to string, limit time.Duration) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), limit)
	defer cancel()
	a := netip.MustParseAddrPort(to)
	proto := header.IPv4ProtocolNumber
	if a.Addr().Is6() {
		proto = header.IPv6ProtocolNumber
	}
	return gonet.DialContextTCP(ctx, n.guestStack, tcpip.FullAddress{
		NIC: nicID, Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}, proto)
}

// mustDial connects from the guest, and closes when the test ends.
func (n *testNet) mustDial(to string) *gonet.TCPConn {
	n.t.Helper()
	c, err := n.dialWithin(to, patience)
	if err != nil {
		n.t.Fatalf("dial %s: %v", to, err)
	}
	n.t.Cleanup(func() { c.Close() })
	return c
}

// record notes an event.
func (n *testNet) record(e Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
}

// waitEvent returns the first event of the type, once there is one.
func (n *testNet) waitEvent(typ string) Event {
	n.t.Helper()
	var found Event
	n.eventually(typ, func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		i := slices.IndexFunc(n.events, func(e Event) bool { return e.Type == typ })
		if i >= 0 {
			found = n.events[i]
		}
		return i >= 0
	})
	return found
}

// count returns how many events of the type there were.
func (n *testNet) count(typ string) (k int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.events {
		if e.Type == typ {
			k++
		}
	}
	return k
}

// eventually waits until ok, and fails the test if that needs more than patience.
func (n *testNet) eventually(what string, ok func() bool) {
	n.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatalf("%s: not in time", what)
		}
	}
}

// serve makes the address of the lab answer with handle, one goroutine per
// connection.
func (n *testNet) serve(addr string, handle func(*net.TCPConn)) *atomic.Int32 {
	n.t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	n.lab.add(addr, l.Addr().String())
	accepted := new(atomic.Int32)
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			conns.Go(func() { defer c.Close(); handle(c.(*net.TCPConn)) })
		}
	})
	n.t.Cleanup(func() { l.Close(); conns.Wait() })
	return accepted
}

// labDialer is a Dialer on a laboratory: addresses that it knows are loopback
// listeners, others fail as it is told.
type labDialer struct {
	hostDialer
	mu  sync.Mutex // guards the following fields
	to  map[netip.AddrPort]string
	err map[netip.AddrPort]error
	all string // where connects to other addresses go; "" never answers

	stack bool // every flow goes through the stack
}

func (d *labDialer) add(addr, to string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.to[netip.MustParseAddrPort(addr)] = to
}

// addAll makes every other address answer where addr does.
func (d *labDialer) addAll(addr string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = d.to[netip.MustParseAddrPort(addr)]
}

// fail makes connects to addr fail with err; a nil err never answers.
func (d *labDialer) fail(addr string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err[netip.MustParseAddrPort(addr)] = err
}

// socketAddress has flows go without the stack to what answers, unless the test
// is about the stack.
func (d *labDialer) socketAddress(addr netip.AddrPort) (netip.AddrPort, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	to, ok := d.to[addr]
	if !ok && d.all != "" && d.err[addr] == nil {
		to, ok = d.all, true
	}
	if !ok || d.stack {
		return netip.AddrPort{}, false
	}
	return netip.MustParseAddrPort(to), true
}

func (d *labDialer) DialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	d.mu.Lock()
	to, ok := d.to[addr]
	err, fails := d.err[addr]
	if !ok && d.all != "" {
		to, ok = d.all, true
	}
	d.mu.Unlock()
	switch {
	case ok:
		return d.hostDialer.DialTCP(ctx, netip.MustParseAddrPort(to))
	case fails && err != nil:
		return nil, err
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// tcpBytesOut returns the bytes that all flows have sent to the host.
func (n *testNet) tcpBytesOut() (sum uint64) {
	n.tcp.each(func(f *tcpFlow) { sum += f.bytesOut.Load() })
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.events {
		if e.Type == "flow.close" {
			sum += e.Flow.BytesOut
		}
	}
	return sum
}

// tcpBytesIn returns the bytes that all flows have brought to the guest's side.
func (n *testNet) tcpBytesIn() (sum uint64) {
	n.tcp.each(func(f *tcpFlow) { sum += f.bytesIn.Load() })
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.events {
		if e.Type == "flow.close" {
			sum += e.Flow.BytesIn
		}
	}
	return sum
}

// waitingBytes returns how many bytes of the guest's wait in queues.
func (n *testNet) waitingBytes() (sum int) {
	for _, e := range n.stack.RegisteredEndpoints() {
		if ep, ok := e.(tcpip.Endpoint); ok {
			if k, err := ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption); err == nil {
				sum += k
			}
		}
	}
	return sum
}
