package vnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet/link"
)

// listen serves in the guest, one goroutine per connection.
func (n *testNet) listen(addr netip.AddrPort, handle func(net.Conn)) {
	n.t.Helper()
	proto := header.IPv4ProtocolNumber
	if addr.Addr().Is6() {
		proto = header.IPv6ProtocolNumber
	}
	l, err := gonet.ListenTCP(n.guestStack, tcpip.FullAddress{
		NIC: nicID, Addr: tcpip.AddrFromSlice(addr.Addr().AsSlice()), Port: addr.Port()}, proto)
	if err != nil {
		n.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); handle(c) }()
		}
	}()
	n.t.Cleanup(func() { l.Close(); <-done })
}

// publish binds a free loopback port to the guest's.
func (n *testNet) publish(host string, guestPort uint16) Binding {
	n.t.Helper()
	b, err := n.Publish(Binding{Protocol: policy.TCP, Host: netip.MustParseAddrPort(host), GuestPort: guestPort})
	if err != nil {
		n.t.Fatal(err)
	}
	return b
}

// TestPublish carries bytes and half-closes through a published port, and shows
// the guest the gateway's address and a dynamic port.
func TestPublish(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			n := startNet(t, "allow ingress host tcp 80")
			peers := make(chan netip.AddrPort, 1)
			n.listen(netip.AddrPortFrom(n.block.Guest4, 80), func(c net.Conn) {
				peers <- c.RemoteAddr().(*net.TCPAddr).AddrPort()
				b, _ := io.ReadAll(c)
				fmt.Fprintf(c, "got %s", b)
			})
			b := n.publish(host, 80)
			to := netip.AddrPortFrom(loopback4, b.Host.Port())
			if b.Host.Addr().Is6() {
				to = netip.AddrPortFrom(loopback6, b.Host.Port())
			}
			c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.Write([]byte("hello"))
			c.CloseWrite()
			if got, err := io.ReadAll(c); string(got) != "got hello" || err != nil {
				t.Fatalf("got %q, %v", got, err)
			}
			if p := <-peers; p.Addr() != n.block.Gateway4 || p.Port() < 49152 {
				t.Errorf("the guest saw %v", p)
			}
			e := n.waitEvent("flow.close")
			if e.Flow.Direction != policy.Ingress || e.Flow.Src != canonical(c.LocalAddr().(*net.TCPAddr).AddrPort()) || e.Flow.BytesIn != 5 {
				t.Errorf("recorded %+v", e.Flow)
			}
		})
	}
}

// TestPublishIPv6Guest falls back to the guest's IPv6 address.
func TestPublishIPv6Guest(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow ingress host")
	n.listen(netip.AddrPortFrom(n.block.Guest6, 80), func(c net.Conn) { c.Write([]byte("six")) })
	c, err := net.Dial("tcp", n.publish("127.0.0.1:0", 80).Host.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); string(b) != "six" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
}

// TestPublishLastSeen reaches a server on an address that the guest gave itself,
// once it was seen: in a packet from there, or in the probe for it. The latest
// counts, and the block's own address is not forgotten over it.
func TestPublishLastSeen(t *testing.T) {
	t.Parallel()
	const own, older = "fd42:6d73:62::abcd", "fd42:6d73:62:0:1::1"
	probe := func(target string) link.Frame {
		return solicit("::", solicitedNode(netip.MustParseAddr(target)).String(), target, "")
	}
	from := func(src string) link.Frame { return tcpSegment("["+src+"]:7", "[2606:2800:220::34]:7", "A") }
	tests := []struct {
		name  string
		seen  []link.Frame
		wants bool
	}{
		{"not seen", nil, false},
		{"a packet", []link.Frame{from(own)}, true},
		{"a probe", []link.Frame{probe(own)}, true},
		{"the later of two", []link.Frame{from(older), from(own)}, true},
		{"the earlier of two", []link.Frame{from(own), from(older)}, false},
		{"behind it the block's own", []link.Frame{from(own), from(guest6)}, true},
		{"behind it a probe for the gateway's", []link.Frame{from(own), probe(gateway6)}, true},
		{"behind it a foreign source", []link.Frame{from(own), from("fd42:6d73:63::1")}, true},
		{"behind it a foreign probe", []link.Frame{from(own), probe("2606:2800:220::34")}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := startNet(t, "allow ingress host")
			n.addGuestAddress(netip.PrefixFrom(netip.MustParseAddr(own), 64))
			n.listen(netip.MustParseAddrPort("["+own+"]:80"), func(c net.Conn) { c.Write([]byte("own")) })
			for _, f := range tt.seen {
				n.write(f)
			}
			n.eventually("all read", func() bool { return n.Stats().FramesFromGuest >= uint64(len(tt.seen)) })
			c, err := net.Dial("tcp", n.publish("127.0.0.1:0", 80).Host.String())
			var got []byte
			if err == nil { // the reset may come before or after connect returns
				defer c.Close()
				got, err = io.ReadAll(c)
			}
			if tt.wants && (string(got) != "own" || err != nil) || !tt.wants && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// TestPublishRefused resets a peer when nobody listens in the guest, when the
// policy denies it, and when there are too many.
func TestPublishRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, rules string
		inbound     int
		event, end  string
	}{
		{"nobody listens", "allow ingress host", 0, "flow.close", endRefused},
		{"denied", "allow ingress 203.0.113.0/24", 0, "flow.deny", ""},
		{"too many", "allow ingress host", -1, "limit.hit", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := startNet(t, tt.rules, func(c *Config) { c.Limits.Inbound = tt.inbound })
			c, err := net.Dial("tcp", n.publish("127.0.0.1:0", 81).Host.String())
			if err == nil { // the reset may come before or after connect returns
				defer c.Close()
				_, err = c.Read(make([]byte, 1))
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the peer saw %v", err)
			}
			if e := n.waitEvent(tt.event); e.Flow.End != tt.end {
				t.Errorf("recorded %+v", e.Flow)
			}
		})
	}
}

// TestPublishTaken names who holds a port.
func TestPublishTaken(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow ingress host")
	b := n.publish("127.0.0.1:0", 80)
	_, err := n.Publish(Binding{Protocol: policy.TCP, Host: b.Host, GuestPort: 80})
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("second bind: %v", err)
	}
	if runtime.GOOS == "linux" && !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("the error does not name the holder: %v", err)
	}
	if got := n.Published(); len(got) != 1 || got[0] != b {
		t.Errorf("published: %v", got)
	}
}

// TestUnpublish closes the port and cuts its flows, and only those.
func TestUnpublish(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow ingress host")
	n.listen(netip.AddrPortFrom(n.block.Guest4, 80), func(c net.Conn) { io.Copy(c, c) })
	kept, cut := n.publish("127.0.0.1:0", 80), n.publish("127.0.0.1:0", 80)
	var conns [2]net.Conn
	for i, b := range []Binding{kept, cut} {
		c, err := net.Dial("tcp", b.Host.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write([]byte("x"))
		io.ReadFull(c, make([]byte, 1))
		conns[i] = c
	}
	if err := n.Unpublish(policy.TCP, cut.Host); err != nil {
		t.Fatal(err)
	}
	if _, err := conns[1].Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a flow of the closed port saw %v", err)
	}
	if _, err := net.Dial("tcp", cut.Host.String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the closed port answers: %v", err)
	}
	conns[0].Write([]byte("x"))
	if _, err := io.ReadFull(conns[0], make([]byte, 1)); err != nil {
		t.Errorf("a flow of the other port saw %v", err)
	}
	if err := n.Unpublish(policy.TCP, cut.Host); !errors.Is(err, net.ErrClosed) {
		t.Errorf("twice: %v", err)
	}
}

// TestDialGuest reaches a guest's port without any rule.
func TestDialGuest(t *testing.T) {
	t.Parallel()
	n := startNet(t, "deny ingress *")
	n.listen(netip.AddrPortFrom(n.block.Guest4, 80), func(c net.Conn) { c.Write([]byte("hi")) })
	c, err := n.DialGuest(t.Context(), 80)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); string(b) != "hi" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if c, err := n.DialGuest(ctx, 81); err == nil {
		c.Close()
		t.Error("a closed port answers")
	}
}

// TestDialGuestClosed dials into a network that is closed, and into one that
// closes meanwhile.
func TestDialGuestClosed(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow ingress host")
	n.deaf.Store(true)
	ended := make(chan error, 1)
	go func() {
		_, err := n.DialGuest(t.Context(), 80)
		ended <- err
	}()
	n.eventually("dialling", func() bool { return n.flowsIn(tcp.StateSynSent) == 1 })
	start := time.Now()
	n.Close()
	if err := <-ended; err == nil || time.Since(start) > guestDialTimeout/2 {
		t.Errorf("dialling: %v after %v", err, time.Since(start))
	}
	if _, err := n.DialGuest(t.Context(), 80); !errors.Is(err, net.ErrClosed) {
		t.Errorf("afterwards: %v", err)
	}
	if _, err := n.Publish(Binding{Protocol: policy.TCP, Host: netip.MustParseAddrPort("127.0.0.1:0"), GuestPort: 80}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("publish afterwards: %v", err)
	}
}

// TestPublishUDP passes datagrams of two peers to the guest, each from a port of
// the gateway's, and the answers back to whom they are for.
func TestPublishUDP(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow ingress host udp 53")
	b, err := n.Publish(Binding{Protocol: policy.UDP, Host: netip.MustParseAddrPort("0.0.0.0:0"), GuestPort: 53})
	if err != nil {
		t.Fatal(err)
	}
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback4, b.Host.Port()))
	seen := make(map[uint16]bool)
	for _, name := range []string{"one", "two"} {
		c, err := net.DialUDP("udp4", nil, to) // connected: an answer from another address is lost
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		c.Write([]byte(name))
		f := <-n.udpSeen
		from := uint16(f[34])<<8 | uint16(f[35])
		if got := string(f[42:]); got != name || netip.AddrFrom4([4]byte(f[26:30])) != n.block.Gateway4 || from < firstInboundPort || seen[from] {
			t.Errorf("the guest saw %q from %v:%d", got, f[26:30], from)
		}
		seen[from] = true
		answer := udp(n.block.Guest4.String()+":53", netip.AddrPortFrom(n.block.Gateway4, from).String(), "answer to "+name)
		if _, err := n.guest.link.WriteFrames([]link.Frame{answer}); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		if k, err := c.Read(buf); string(buf[:k]) != "answer to "+name || err != nil {
			t.Errorf("the peer got %q, %v", buf[:k], err)
		}
	}
	if n.count("flow.deny") != 0 {
		t.Error("an answer was decided as egress")
	}
	if err := n.Unpublish(policy.UDP, b.Host); err != nil {
		t.Fatal(err)
	}
	if e := n.waitEvent("flow.close"); e.Flow.Direction != policy.Ingress || e.Flow.BytesIn != 3 || e.Flow.BytesOut != 13 {
		t.Errorf("recorded %+v", e.Flow)
	}
}

// portUnreachable is what the guest's kernel says of a frame to a closed UDP port.
func portUnreachable(frame []byte) link.Frame {
	var p packet
	p.v6 = frame[12] == 0x86
	src, kind, code := netip.AddrFrom4([4]byte(frame[30:34])), uint8(icmpUnreachable), uint8(3)
	dst := netip.AddrFrom4([4]byte(frame[26:30]))
	if p.v6 {
		src, dst, kind, code = netip.AddrFrom16([16]byte(frame[38:54])), netip.AddrFrom16([16]byte(frame[22:38])), icmp6Unreachable, 4
	}
	quote := frame[etherLen:min(len(frame), 500)]
	return icmp(src.String(), dst.String(), kind, code, "\x00\x00\x00\x00"+string(quote))
}

// TestPublishUDPRefused brings a peer's first datagram to every address of the
// guest's, one after another, while the guest says that nobody listens there.
func TestPublishUDPRefused(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow ingress host")
	b, err := n.Publish(Binding{Protocol: policy.UDP, Host: netip.MustParseAddrPort("127.0.0.1:0"), GuestPort: 53})
	if err != nil {
		t.Fatal(err)
	}
	own := netip.MustParseAddr("fd42:6d73:62::77")
	n.write(icmp("::", "ff02::1:ff00:77", ndpNeighborSolicit, 0, "\x00\x00\x00\x00"+string(own.AsSlice()), func(w *wire) { w.ip6.HopLimit = 255 }))
	n.eventually("seen", func() bool { return n.seen.get() == own })
	peer := func() *net.UDPConn {
		c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(b.Host))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(patience))
		return c
	}
	// next returns the next frame to the guest, which is to go to an address.
	next := func(want netip.Addr, text string) []byte {
		t.Helper()
		f := <-n.udpSeen
		got := netip.AddrFrom4([4]byte(f[30:34]))
		if f[12] == 0x86 {
			got = netip.AddrFrom16([16]byte(f[38:54]))
		}
		if got != want || !strings.HasSuffix(string(f), text) {
			t.Errorf("%q went to %v, want %v", f[etherLen:], got, want)
		}
		return f
	}
	one := peer()
	one.Write([]byte("hello"))
	n.write(portUnreachable(next(n.block.Guest4, "hello")))
	n.write(portUnreachable(next(n.block.Guest6, "hello")))
	f := next(own, "hello")
	from := uint16(f[54])<<8 | uint16(f[55])
	n.write(udp("["+own.String()+"]:53", netip.AddrPortFrom(n.block.Gateway6, from).String(), "hi"))
	buf := make([]byte, 100)
	if k, err := one.Read(buf); string(buf[:k]) != "hi" || err != nil {
		t.Errorf("the peer got %q, %v", buf[:k], err)
	}
	two := peer() // goes where the guest has answered
	two.Write([]byte("again"))
	for _, a := range []netip.Addr{own, n.block.Guest4, n.block.Guest6} { // by now nobody listens anywhere
		n.write(portUnreachable(next(a, "again")))
	}
	n.eventually("given up", func() bool {
		n.inbound.mu.Lock()
		defer n.inbound.mu.Unlock()
		return slices.ContainsFunc(slices.Collect(maps.Values(n.inbound.ports)), func(pe *inboundPeer) bool { return pe.refused == 3 })
	})
	two.Write([]byte("anew"))
	next(own, "anew")
	// Errors that quote nothing of ours change nothing.
	before := n.Stats().Drops[dropICMPType.String()]
	n.write(portUnreachable(udp("8.8.8.8:50000", guest4+":53", "x").Data))
	n.eventually("dropped", func() bool { return n.Stats().Drops[dropICMPType.String()] > before })
}

// TestPublishUDPReplaced ends a peer that a new policy denies, and records the
// rule.
func TestPublishUDPReplaced(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow ingress host udp 53")
	b, err := n.Publish(Binding{Protocol: policy.UDP, Host: netip.MustParseAddrPort("127.0.0.1:0"), GuestPort: 53})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(b.Host))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("x"))
	<-n.udpSeen
	n.SetPolicy(policyOf(t, "deny ingress host"))
	if e := n.waitEvent("flow.close"); e.Flow.End != endDenied || e.Generation != 2 || e.Verdict.Text != "deny ingress host" {
		t.Errorf("recorded %q by generation %d, %q", e.Flow.End, e.Generation, e.Verdict.Text)
	}
}

// TestPublishUDPDenied keeps a denied peer's datagrams from the guest, and
// bounds the peers.
func TestPublishUDPDenied(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow ingress 203.0.113.0/24 udp")
	b, err := n.Publish(Binding{Protocol: policy.UDP, Host: netip.MustParseAddrPort("127.0.0.1:0"), GuestPort: 53})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(b.Host))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		c.Write([]byte("x"))
	}
	n.waitEvent("flow.deny")
	n.eventually("three drops", func() bool { return n.Stats().Drops["denied"] == 3 })
	if k := n.count("flow.deny"); k != 1 || len(n.udpSeen) != 0 {
		t.Errorf("%d events, %d datagrams to the guest", k, len(n.udpSeen))
	}
	_, err = n.Publish(Binding{Protocol: policy.UDP, Host: b.Host, GuestPort: 53})
	if !errors.Is(err, syscall.EADDRINUSE) || runtime.GOOS == "linux" && !strings.Contains(err.Error(), "process") {
		t.Errorf("second bind: %v", err)
	}
}

// TestPublishBusyGuest waits for a guest that drops SYNs for a while, as a kernel
// does whose queue of accepts is full.
func TestPublishBusyGuest(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow ingress host")
	n.listen(netip.AddrPortFrom(n.block.Guest4, 80), func(c net.Conn) { c.Write([]byte("late")) })
	b := n.publish("127.0.0.1:0", 80)
	n.deaf.Store(true)
	hears := time.AfterFunc(2*guestDialTimeout+guestDialTimeout/2, func() { n.deaf.Store(false) })
	defer hears.Stop()
	c, err := net.Dial("tcp", b.Host.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := io.ReadAll(c); string(got) != "late" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}
