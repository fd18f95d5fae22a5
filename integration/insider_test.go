package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/sluicenet/sluice/hv/hvtest"
	"github.com/sluicenet/sluice/internal/netlab"
	"github.com/sluicenet/sluice/internal/netlab/memnet"
	m "github.com/sluicenet/sluice/sdk"
)

// An insider is a hostile guest: the test is its kernel. The sandbox around it is a
// real one, on a fake hypervisor.
type insider struct {
	*memnet.Guest
	t        *testing.T
	lab      *netlab.Lab
	mac      net.HardwareAddr
	gateway  net.HardwareAddr // the gateway's, as ARP tells it
	addrs    []netip.Prefix   // its own
	gateways []netip.Addr
	friend   *netlab.Host // a public host that echoes on TCP port 7
	frames   <-chan []byte
}

// startInsider starts a sandbox with the given network, for the time of a test. Its
// state is in a directory of its own, so it gets the first block.
func startInsider(t *testing.T, lab *netlab.Lab, friend *netlab.Host, network *m.NetworkConfig) *insider {
	t.Helper()
	t.Setenv("SLUICE_HOME", t.TempDir())
	return startAnother(t, lab, friend, "insider", network)
}

// startAnother is startInsider beside the sandboxes that there are.
func startAnother(t *testing.T, lab *netlab.Lab, friend *netlab.Host, name string, network *m.NetworkConfig) *insider {
	t.Helper()
	fake := new(hvtest.Fake)
	sb, err := m.CreateSandbox(t.Context(), name, m.WithHypervisor(fake), m.WithNetwork(network))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sb.Close(); err != nil {
			t.Errorf("close the sandbox: %v", err)
		}
	})
	vm := fake.Guests()[0]
	config := vm.Bootstrap().Network
	g := &insider{t: t, lab: lab, mac: vm.Config().NIC.MAC, addrs: config.Addrs, gateways: config.Gateways, friend: friend}
	g.Guest = memnet.NewGuest(t, memnet.Config{
		Link: vm.Card(), MAC: g.mac, Addrs: g.addrs, Gateways: g.gateways, MTU: config.MTU,
	})
	g.frames = g.Watch(t, 4096)
	g.next() // the gateway's MAC is known now
	for _, p := range g.received() {
		if ip := p.Layer(layers.LayerTypeIPv4); ip != nil {
			g.gateway = p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet).SrcMAC
		}
	}
	if g.gateway == nil {
		t.Fatal("no frame came from the gateway")
	}
	return g
}

// own returns the insider's address of the same family.
func (g *insider) own(dst netip.Addr) netip.Addr {
	for _, p := range g.addrs {
		if p.Addr().Is4() == dst.Is4() {
			return p.Addr()
		}
	}
	g.t.Fatalf("the guest has no address to reach %v from", dst)
	return netip.Addr{}
}

// send sends frames.
func (g *insider) send(frames ...[]byte) {
	g.t.Helper()
	for _, f := range frames {
		if err := g.Send(f); err != nil {
			g.t.Fatal(err)
		}
	}
}

// next checks that the next legitimate flow works. Frames are handled in order, so
// whatever was sent before has been handled when it returns.
func (g *insider) next() {
	g.t.Helper()
	for _, family := range families {
		ctx, cancel := context.WithTimeout(g.t.Context(), patience)
		c, err := g.Dial(ctx, "tcp", g.friend.Endpoint(family, 7))
		cancel()
		if err != nil {
			g.t.Errorf("the next legitimate flow, IPv%d: %v", family, err)
			continue
		}
		c.SetDeadline(deadline())
		if _, err := io.WriteString(c, "next"); err != nil {
			g.t.Error(err)
		}
		got := make([]byte, 4)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "next" {
			g.t.Errorf("the next legitimate flow, IPv%d, echoed %q, %v", family, got, err)
		}
		c.Close()
	}
}

// received returns the frames that came since it was last called.
func (g *insider) received() []gopacket.Packet {
	var all []gopacket.Packet
	for {
		select {
		case f := <-g.frames:
			all = append(all, gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default))
		default:
			return all
		}
	}
}

// heardFrom returns what came from an address, the friend's own words apart.
func heardFrom(packets []gopacket.Packet, src netip.Addr) []gopacket.Packet {
	var heard []gopacket.Packet
	for _, p := range packets {
		if n := p.NetworkLayer(); n != nil && bytes.Equal(n.NetworkFlow().Src().Raw(), src.AsSlice()) {
			heard = append(heard, p)
		}
	}
	return heard
}

// ether returns the header of a frame for the gateway.
func (g *insider) ether(t layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: g.mac, DstMAC: g.gateway, EthernetType: t}
}

// ip returns the headers of a packet for dst.
func (g *insider) ip(dst string, proto layers.IPProtocol) []gopacket.SerializableLayer {
	to := netip.MustParseAddr(dst)
	src := g.own(to)
	if to.Is4() {
		return []gopacket.SerializableLayer{
			g.ether(layers.EthernetTypeIPv4),
			&layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: src.AsSlice(), DstIP: to.AsSlice()},
		}
	}
	return []gopacket.SerializableLayer{
		g.ether(layers.EthernetTypeIPv6),
		&layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: src.AsSlice(), DstIP: to.AsSlice()},
	}
}

// tcp returns a SYN, unless change makes something else of it.
func (g *insider) tcp(dst string, port uint16, change func(*layers.TCP)) []byte {
	header := &layers.TCP{SrcPort: 40000, DstPort: layers.TCPPort(port), Seq: 1, SYN: true, Window: 65535}
	if change != nil {
		change(header)
	}
	return serialize(append(g.ip(dst, layers.IPProtocolTCP), header)...)
}

// udp returns a datagram.
func (g *insider) udp(dst string, port uint16, payload string) []byte {
	header := &layers.UDP{SrcPort: 40000, DstPort: layers.UDPPort(port)}
	return serialize(append(g.ip(dst, layers.IPProtocolUDP), header, gopacket.Payload(payload))...)
}

// icmp returns an ICMP message, of ICMPv6 for an IPv6 destination. rest is what
// follows type, code and checksum.
func (g *insider) icmp(dst string, typ, code uint8, rest string) []byte {
	if netip.MustParseAddr(dst).Is4() {
		header := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, code)}
		frame := serialize(append(g.ip(dst, layers.IPProtocolICMPv4), header, gopacket.Payload(rest[min(4, len(rest)):]))...)
		copy(frame[14+20+4:], rest[:min(4, len(rest))])
		return withSum(frame, 14+20, 2)
	}
	header := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, code)}
	return serialize(append(g.ip(dst, layers.IPProtocolICMPv6), header, gopacket.Payload(rest))...)
}

// echo returns an echo request.
func (g *insider) echo(dst string, size int) []byte {
	rest := "\x12\x34\x00\x01" + strings.Repeat("x", size)
	if netip.MustParseAddr(dst).Is4() {
		return g.icmp(dst, 8, 0, rest)
	}
	return g.icmp(dst, 128, 0, rest)
}

// serialize returns the layers' bytes with lengths and checksums.
func serialize(all ...gopacket.SerializableLayer) []byte {
	for i, l := range all {
		if t, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			t.SetNetworkLayerForChecksum(all[i-1].(gopacket.NetworkLayer))
		}
	}
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...)
	if err != nil {
		panic(err) // a mistake in a test's row
	}
	return b.Bytes()
}

// withSum computes the Internet checksum of frame[start:] anew, at an offset in it.
func withSum(frame []byte, start, offset int) []byte {
	b := frame[start:]
	b[offset], b[offset+1] = 0, 0
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[offset:], ^uint16(sum))
	return frame
}

// patience is how long something may take that takes no time of its own: on a machine
// that is busy with other tests too, and never less than what a repetition of ours waits.
const patience = time.Minute

// deadline is when a step is given up.
func deadline() time.Time { return time.Now().Add(patience) }

// eventually waits until done.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := deadline(); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("not so after %v: %s", patience, what)
			return
		}
	}
}

// listeners returns the addresses of this machine, as /proc writes them, that
// something listens on by TCP.
func listeners(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			fields := strings.Fields(line)
			const listen = "0A" // TCP_LISTEN
			if len(fields) > 3 && fields[3] == listen {
				all = append(all, fields[1])
			}
		}
	}
	return all
}
