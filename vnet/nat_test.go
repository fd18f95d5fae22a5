package vnet

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/time/rate"

	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet/link"
)

// A natLab is what the NATs see around them: a guard, real sockets of this
// host's loopback, and a policy, a record and a guest that are the test's.
type natLab struct {
	t       testing.TB
	guard   *guard
	cfg     *natConfig
	frames  chan link.Frame // that the guest got
	now     time.Time
	drops   [numDrops]atomic.Int64
	gen     atomic.Uint64
	sockets atomic.Int64 // opened

	mu       sync.Mutex // guards the following fields
	deny     map[netip.AddrPort]icmpError
	targets  map[netip.AddrPort]netip.AddrPort // beside the gateway's
	events   []string
	warnings []string
	openErr  error
}

func newNATLab(t testing.TB, change ...func(*natConfig)) *natLab {
	t.Helper()
	l := &natLab{t: t, guard: newGuard(testBlock(t), 1500), frames: make(chan link.Frame, 4096), now: time.Now(),
		deny: make(map[netip.AddrPort]icmpError), targets: make(map[netip.AddrPort]netip.AddrPort)}
	l.gen.Store(1)
	b := newBuilder(testBlock(t), 1500)
	l.cfg = &natConfig{
		dialer:     l,
		builder:    b,
		reporter:   &reporter{builder: b, limiter: rate.NewLimiter(1000, 1000), send: l.send, drop: l.drop},
		newFlow:    func(natFlow, time.Time) bool { return true },
		admit:      l.admit,
		ended:      l.ended,
		generation: l.gen.Load,
		target:     l.target,
		limitHit:   func(limit string, f natFlow, _ time.Time) { l.event("limit %s", limit) },
		warn: func(text string) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.warnings = append(l.warnings, text)
		},
		send: l.send,
		drop: l.drop,
	}
	for _, c := range change {
		c(l.cfg)
	}
	return l
}

// A labUDP is a udpNAT whose handle flushes, as after a batch of one frame.
type labUDP struct{ *udpNAT }

func (u labUDP) handle(p *packet, now time.Time) {
	u.udpNAT.handle(p, now)
	u.flush(now)
}

func (l *natLab) udp() labUDP {
	u := newUDPNAT(l.cfg)
	l.t.Cleanup(u.close)
	return labUDP{u}
}

func (l *natLab) icmp() *icmpNAT {
	m := newICMPNAT(l.cfg)
	l.t.Cleanup(m.close)
	return m
}

func (l *natLab) drop(d drop) { l.drops[d].Add(1) }

func (l *natLab) send(out *batch) {
	for _, f := range out.frames {
		l.frames <- link.Frame{Data: finish(f)}
	}
}

func (l *natLab) event(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, fmt.Sprintf(format, args...))
}

func (l *natLab) admit(f natFlow, _ time.Time) admission {
	l.mu.Lock()
	answer, denied := l.deny[f.remote]
	l.mu.Unlock()
	a := admission{allow: !denied, generation: l.gen.Load(), answer: answer}
	switch {
	case denied && f.before == pastNone:
		l.event("deny %v", f.remote)
	case !denied && f.before != pastAdmitted:
		l.event("open %v", f.remote)
		a.record = &natRecord{info: FlowInfo{Dst: f.remote}}
	}
	return a
}

func (l *natLab) ended(e natEnd, _ time.Time) {
	l.event("close %v %d %d %s", e.record.info.Dst, e.out, e.in, e.how)
}

// target maps the gateway to loopback, as the Network does, and what a test
// wants elsewhere.
func (l *natLab) target(remote netip.AddrPort) netip.AddrPort {
	l.mu.Lock()
	defer l.mu.Unlock()
	if to, ok := l.targets[remote]; ok {
		return to
	}
	switch remote.Addr().String() {
	case gateway4:
		return netip.AddrPortFrom(loopback4, remote.Port())
	case gateway6:
		return netip.AddrPortFrom(loopback6, remote.Port())
	}
	return remote
}

func (l *natLab) ListenUDP(v6 bool) (*net.UDPConn, error) {
	l.mu.Lock()
	err := l.openErr
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	l.sockets.Add(1)
	if v6 {
		return net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	}
	return net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
}

func (l *natLab) denyTo(remote string, answer icmpError) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deny[addrPort(remote)] = answer
}

func (l *natLab) allow(remote string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.deny, addrPort(remote))
}

// mapTo sends what goes to remote to the address of a socket of the test's.
func (l *natLab) mapTo(remote string, c net.PacketConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.targets[addrPort(remote)] = c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// packet passes a guest's frame through the guard.
func (l *natLab) packet(f link.Frame) *packet {
	l.t.Helper()
	p := new(packet)
	if d := l.guard.check(&f, p); d != dropNone {
		l.t.Fatalf("the guard drops the frame: %v", d)
	}
	return p
}

// next returns the next packet that the guest gets.
func (l *natLab) next() gopacket.Packet {
	l.t.Helper()
	select {
	case f := <-l.frames:
		return decode(l.t, f)
	case <-time.After(patience):
		l.t.Fatalf("the guest got nothing; drops: %v", l.dropped())
		return nil
	}
}

// nextWhole returns the next datagram that the guest gets, put together from
// its fragments, which come in order.
func (l *natLab) nextWhole() (ip []byte) {
	l.t.Helper()
	var frames []link.Frame
	for {
		select {
		case f := <-l.frames:
			frames = append(frames, f)
			var p packet
			if parseFragment(l.t, f.Data, &p); !p.moreFrags {
				return reassemble(l.t, frames, 1500)
			}
		case <-time.After(patience):
			l.t.Fatalf("the guest got %d frames of a datagram; drops: %v", len(frames), l.dropped())
		}
	}
}

// silence checks that the guest gets nothing that a test did not ask for. What
// was to come has come when a later datagram did.
func (l *natLab) silence() {
	l.t.Helper()
	select {
	case f := <-l.frames:
		l.t.Errorf("the guest got %v", decode(l.t, f))
	default:
	}
}

// dropped lists what was dropped, as "reason: n".
func (l *natLab) dropped() string {
	var s []string
	for d := range numDrops {
		if n := l.drops[d].Load(); n > 0 {
			s = append(s, fmt.Sprintf("%v: %d", d, n))
		}
	}
	return strings.Join(s, ", ")
}

// recorded returns the events since the last call.
func (l *natLab) recorded() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.events
	l.events = nil
	return e
}

func (l *natLab) wantEvents(want ...string) {
	l.t.Helper()
	if got := l.recorded(); !slices.Equal(got, want) {
		l.t.Errorf("recorded %q, want %q", got, want)
	}
}

func (l *natLab) wantDrops(want string) {
	l.t.Helper()
	if got := l.dropped(); got != want {
		l.t.Errorf("dropped %q, want %q", got, want)
	}
}

// eventually waits until f is true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in time", what)
		}
	}
}

// listen opens a socket of the host's side.
func listenUDP(t testing.TB, addr string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// receiveFrom returns the next datagram of c.
func receiveFrom(t testing.TB, c *net.UDPConn) (string, netip.AddrPort) {
	t.Helper()
	b := make([]byte, 65536)
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n]), netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

func sendTo(t testing.TB, c *net.UDPConn, payload string, to netip.AddrPort) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte(payload), to); err != nil {
		t.Fatal(err)
	}
}

// natCase is a family to run a test in.
type natCase struct {
	name                   string
	guest, remote, remote2 string // of the guest's world
	gateway, loopback      string
}

var natCases = []natCase{
	{"IPv4", guest4, remote4, "93.184.216.35", gateway4, "127.0.0.1"},
	{"IPv6", guest6, remote6, "2606:2800:220::35", gateway6, "::1"},
}

// at joins an address and a port.
func at(addr string, port int) string {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(port)).String()
}

// bothFamilies runs a test over IPv4 and IPv6.
func bothFamilies(t *testing.T, test func(t *testing.T, c natCase)) {
	t.Parallel()
	for _, c := range natCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			test(t, c)
		})
	}
}

// expectUDP checks that the guest gets a datagram.
func (l *natLab) expectUDP(from, to, payload string) {
	l.t.Helper()
	o := l.next()
	u, ok := o.TransportLayer().(*layers.UDP)
	if !ok {
		l.t.Fatalf("the guest got %v", o)
	}
	f := o.NetworkLayer().NetworkFlow()
	gotFrom := netip.AddrPortFrom(addrOf(f.Src().Raw()), uint16(u.SrcPort))
	gotTo := netip.AddrPortFrom(addrOf(f.Dst().Raw()), uint16(u.DstPort))
	if gotFrom != addrPort(from) || gotTo != addrPort(to) || string(u.Payload) != payload {
		l.t.Errorf("the guest got %q from %v at %v; want %q from %s at %s", u.Payload, gotFrom, gotTo, payload, from, to)
	}
}

// expectError checks that the guest gets an ICMP error about its packet and
// returns the IP packet that it quotes.
func (l *natLab) expectError(from string, want icmpError) []byte {
	l.t.Helper()
	o := l.next()
	m, v6 := icmpOf(o)
	codes := icmpCodes[want].v4
	if v6 {
		codes = icmpCodes[want].v6
	}
	if len(m) < icmpLen || [2]byte(m) != codes || o.NetworkLayer().NetworkFlow().Src().String() != from {
		l.t.Fatalf("the guest got %v, want error %d from %s", o, want, from)
	}
	return m[icmpLen:]
}

// icmpOf returns a packet's ICMP message.
func icmpOf(o gopacket.Packet) (m []byte, v6 bool) {
	switch ip := o.NetworkLayer().(type) {
	case *layers.IPv4:
		return ip.Payload, false
	case *layers.IPv6:
		return ip.Payload, true
	}
	return nil, false
}

// outOfFiles is what the system says when descriptors run out.
var outOfFiles = &net.OpError{Op: "listen", Net: "udp", Err: syscall.EMFILE}

func TestRecentDenials(t *testing.T) {
	t.Parallel()
	var r recentDenials
	flow := func(i int) natFlow {
		return natFlow{proto: policy.UDP, guest: addrPort(at(guest4, 1000+i)), remote: netip.AddrPortFrom(addr4(uint32(i)), 9)}
	}
	r.add(flow(1), 7, epoch)
	other := flow(1)
	other.guest = addrPort(at(guest4, 9))
	for _, row := range []struct {
		name string
		f    natFlow
		gen  uint64
		now  time.Time
		want bool
	}{
		{"at once", flow(1), 7, epoch, true},
		{"from another port", other, 7, epoch, true},
		{"just in time", flow(1), 7, epoch.Add(denialRecent - 1), true},
		{"too late", flow(1), 7, epoch.Add(denialRecent), false},
		{"another policy", flow(1), 8, epoch, false},
		{"another peer", flow(2), 7, epoch, false},
	} {
		if got := r.recent(row.f, row.gen, row.now); got != row.want {
			t.Errorf("%s: %v", row.name, got)
		}
	}
	for i := range 3 * maxDenials {
		r.add(flow(i), 7, epoch)
	}
	if r.flows.Len() != maxDenials {
		t.Errorf("%d denials are remembered", r.flows.Len())
	}
	if r.recent(flow(1), 7, epoch) || !r.recent(flow(3*maxDenials-1), 7, epoch) {
		t.Error("not the oldest was forgotten")
	}
}
