package integration

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// The rows of the bypass table that come in floods, or need a second party. What a
// guest may use is bounded, and the next legitimate flow works.

// allowAll returns an insider whom the policy allows everything.
func allowAll(t *testing.T) (*insider, *netlab.Lab, *netlab.Host) {
	t.Helper()
	lab := netlab.New(t)
	friend := friendHost(t, lab)
	return startInsider(t, lab, friend, &m.NetworkConfig{Policy: m.NetworkPolicyPresetAllowAll}), lab, friend
}

// arp returns an ARP message of the guest's. An operation of 1 asks, 2 answers.
func (g *insider) arp(operation uint16, sender, target netip.Addr) []byte {
	return serialize(
		&layers.Ethernet{SrcMAC: g.mac, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: operation,
			SourceHwAddress: g.mac, SourceProtAddress: sender.AsSlice(), DstHwAddress: make([]byte, 6), DstProtAddress: target.AsSlice(),
		})
}

func TestBypassL03ARP(t *testing.T) {
	g, _, _ := allowAll(t)
	gateway, own := g.gateways[0], g.addrs[0].Addr()
	g.received()
	g.send(
		g.arp(2, gateway, own), g.arp(2, gateway, gateway), g.arp(1, gateway, gateway), // "I am the gateway"
		g.arp(1, own, netip.MustParseAddr("172.16.0.6")), g.arp(1, own, netip.MustParseAddr("8.8.8.8")), g.arp(1, own, own),
		g.arp(1, own, gateway)[:20], g.arp(7, own, gateway), // cut, unknown
	)
	g.send(g.arp(1, own, gateway)) // the one that is to be answered
	g.next()
	answers := 0
	for _, p := range g.received() {
		arp, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP)
		if !ok || arp.Operation != 2 {
			continue
		}
		answers++
		if who, _ := netip.AddrFromSlice(arp.SourceProtAddress); who != gateway {
			t.Errorf("somebody answered for %v", who)
		}
	}
	if answers == 0 {
		t.Error("the gateway doesn't answer for itself")
	}
}

func TestBypassL04DHCPStarvation(t *testing.T) {
	g, _, _ := allowAll(t)
	g.received()
	for i := range 1000 {
		mac := make(net.HardwareAddr, 6)
		binary.BigEndian.PutUint32(mac[2:], uint32(i))
		g.send(g.dhcpDiscover(mac))
	}
	g.next()
	for _, p := range g.received() {
		dhcp, ok := p.Layer(layers.LayerTypeDHCPv4).(*layers.DHCPv4)
		if !ok {
			continue
		}
		if offered, _ := netip.AddrFromSlice(dhcp.YourClientIP.To4()); offered != g.addrs[0].Addr() {
			t.Errorf("offered %v, want %v and no other", offered, g.addrs[0].Addr())
		}
	}
}

func (g *insider) dhcpDiscover(mac net.HardwareAddr) []byte {
	return serialize(
		&layers.Ethernet{SrcMAC: g.mac, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IPv4zero.To4(), DstIP: net.IPv4bcast.To4()},
		&layers.UDP{SrcPort: 68, DstPort: 67},
		&layers.DHCPv4{
			Operation: layers.DHCPOpRequest, HardwareType: layers.LinkTypeEthernet, HardwareLen: 6, ClientHWAddr: mac, Xid: rand.Uint32(),
			Options: layers.DHCPOptions{layers.NewDHCPOption(layers.DHCPOptMessageType, []byte{byte(layers.DHCPMsgTypeDiscover)})},
		})
}

func TestBypassL05RogueNeighbours(t *testing.T) {
	g, lab, friend := allowAll(t)
	w := lab.Watch(t)
	for i := range 2000 {
		own := g.own(netip.IPv6Unspecified()).String()
		g.send(
			g.icmp("ff02::1", 134, 0, "\x40\x00\x07\x08"+strings.Repeat("\x00", 8)),               // router advertisement
			g.icmp("ff02::1", 136, 0, "\x20\x00\x00\x00"+fmt.Sprintf("%016d", i)),                 // neighbour advertisement
			g.icmp(g.gateways[1].String(), 137, 0, "\x00\x00\x00\x00"+strings.Repeat("\x00", 32)), // redirect
			g.icmp("ff02::16", 143, 0, "\x00\x00\x00\x00"),                                        // MLD
			g.icmp(own, 135, 0, "\x00\x00\x00\x00"+string(netip.MustParseAddr(own).AsSlice())),    // who has me?
		)
	}
	g.next()
	w.None(t, netlab.To("ff02::1"))
	w.None(t, func(p netlab.Packet) bool { return friend.To()(p) && p.Dst.Port() != 7 })
}

func TestBypassL07UnfinishedFragments(t *testing.T) {
	g, lab, _ := allowAll(t)
	w := lab.Watch(t)
	before := heap()
	const fragments = 50_000
	for i := range fragments {
		f := g.fragment(0, true, 1400)
		binary.BigEndian.PutUint16(f[18:], uint16(i)) // another datagram each time
		withSum(f[:14+20], 14, 10)
		g.send(f)
	}
	g.next()
	if grown := heap() - before; grown > 32<<20 {
		t.Errorf("%d fragments hold %d MiB", fragments, grown>>20)
	}
	w.None(t, netlab.ToPort(0x7878)) // "xx", the first bytes of the payload
}

// heap returns the bytes that this process's objects hold; the sandbox is in it.
func heap() int64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

// TestBypassL18SYNFlood asks for more half-open flows than there may be.
func TestBypassL18SYNFlood(t *testing.T) {
	g, lab, _ := allowAll(t)
	hole := lab.Host(t, "hole.flood.example")
	hole.Drop()
	w := lab.Watch(t)
	before, start := runtime.NumGoroutine(), time.Now()
	for range 20_000 {
		g.send(g.tcp(hole.IP4.String(), uint16(1+rand.IntN(60_000)), func(h *layers.TCP) { h.SrcPort = layers.TCPPort(1024 + rand.IntN(60_000)) }))
	}
	if grown := runtime.NumGoroutine() - before; grown > 4*512 {
		t.Errorf("%d goroutines more", grown)
	}
	// A dial repeats its SYN, and is given up after ten seconds for another to begin.
	dialled := 0
	for p := range w.Packets(t) {
		if hole.To()(p) {
			dialled++
		}
	}
	bound := 512 * int(1+time.Since(start)/(10*time.Second))
	if dialled > bound {
		t.Errorf("%d ports of the black hole were dialled, want at most the %d of 512 half-open flows at a time", dialled, bound)
	}
	eventually(t, "the next flow passes when dials have been given up", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c, err := g.Dial(ctx, "tcp", g.friend.Endpoint(4, 7))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// TestBypassL27UDPFlood writes to more peers than a guest may have.
func TestBypassL27UDPFlood(t *testing.T) {
	g, _, _ := allowAll(t)
	before := descriptors(t)
	for i := range 20_000 {
		f := g.udp(fmt.Sprintf("93.184.217.%d", i%250+1), uint16(1+i%60_000), "x")
		binary.BigEndian.PutUint16(f[14+20:], uint16(1024+i))
		f[14+20+6], f[14+20+7] = 0, 0 // no checksum
		g.send(f)
	}
	if grown := descriptors(t) - before; grown > 1024+64 {
		t.Errorf("%d descriptors more, want at most 1024 UDP sockets", grown)
	}
	g.next()
}

// TestBypassL29ThirdParty answers the guest's datagram from another host.
func TestBypassL29ThirdParty(t *testing.T) {
	g, lab, friend := allowAll(t)
	from := make(chan net.Addr, 1)
	friend.UDP(99, func(_ []byte, addr net.Addr) []byte {
		from <- addr
		return nil
	})
	third := lab.Host(t, "third.example")
	c, err := g.Dial(t.Context(), "udp", friend.Endpoint(4, 99))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	outside := <-from
	g.received()
	for range 3 {
		if _, err := third.ListenPacket("udp4", 0).WriteTo([]byte("forged"), outside); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := friend.ListenPacket("udp4", 0).WriteTo([]byte("another port"), outside); err != nil {
		t.Fatal(err)
	}
	g.next()
	for _, p := range g.received() {
		if p.Layer(layers.LayerTypeUDP) != nil {
			t.Errorf("the guest got %v", p)
		}
	}
}

// TestBypassL30EchoFlood sends more echo requests than a second may have.
func TestBypassL30EchoFlood(t *testing.T) {
	g, lab, friend := allowAll(t)
	w := lab.Watch(t)
	start := time.Now()
	for range 20_000 {
		g.send(g.echo(friend.IP4.String(), 8))
	}
	g.next()
	bound := 100*int(2+time.Since(start).Seconds()) + 100
	got := w.Count(t, func(p netlab.Packet) bool { return friend.To()(p) && p.Protocol == 1 })
	if got > bound {
		t.Errorf("%d echo requests left, want at most %d", got, bound)
	}
}

// TestBypassL31EchoToDenied is a tunnel through echo requests.
func TestBypassL31EchoToDenied(t *testing.T) {
	lab := netlab.New(t)
	friend := friendHost(t, lab)
	g := startInsider(t, lab, friend, &m.NetworkConfig{Policy: m.NetworkPolicyPresetPublicOnly})
	secret := lab.Host(t, "secret.example", "10.99.0.1", "fd00:99::1")
	w := lab.Watch(t)
	for range 50 {
		g.send(g.echo("10.99.0.1", 1000), g.echo("fd00:99::1", 1000))
	}
	g.next()
	w.None(t, secret.To())
}

// TestBypassL25Churn opens and closes flows: no goroutine stays.
func TestBypassL25Churn(t *testing.T) {
	g, _, _ := allowAll(t)
	before := runtime.NumGoroutine()
	for range 200 {
		g.next()
	}
	eventually(t, "no goroutine stays", func() bool { return runtime.NumGoroutine() <= before+8 })
}

// TestBypassL38Killed kills the sandbox's process under a flow: there is no fallback.
func TestBypassL38Killed(t *testing.T) {
	lab := netlab.New(t)
	friend := friendHost(t, lab)
	g := startGuest(t)
	g.want("curl -s --max-time 1 telnet://"+friend.Endpoint(4, 7)+" </dev/null; echo done", "done")
	pid := g.sandboxPID()
	before, err := netlab.Processes()
	if err != nil {
		t.Fatal(err)
	}
	family := descendants(before, pid)
	process, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	w := lab.Watch(t)
	g.shell.Close() // an error is what it should be: the sandbox was killed
	g.shell = nil
	eventually(t, "every process of the sandbox has ended", func() bool {
		all, err := netlab.Processes()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			if family[p.PID] && p.State != 'Z' {
				return false
			}
		}
		return true
	})
	w.None(t, friend.To())
}

// descendants returns the ids of a process and all below it.
func descendants(all []netlab.Process, pid int) map[int]bool {
	family := map[int]bool{pid: true}
	for grown := true; grown; {
		grown = false
		for _, p := range all {
			if family[p.Parent] && !family[p.PID] {
				family[p.PID], grown = true, true
			}
		}
	}
	return family
}

// descriptors returns how many this process has.
func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
