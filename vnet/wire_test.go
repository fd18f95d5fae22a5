package vnet

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/sluicenet/sluice/vnet/link"
)

// Helpers that make a guest's frames from what a human would write, with
// gopacket as the encoder so that our own builders are not their own oracle.

// testBlock is the first block of the default pools: 172.16.0.1 and .2,
// fd42:6d73:62::1 and ::2.
func testBlock(t testing.TB) Block {
	t.Helper()
	pool, err := NewPool(netip.Prefix{}, netip.Prefix{})
	if err != nil {
		t.Fatal(err)
	}
	b, ok := pool.Block(0)
	if !ok {
		t.Fatal("the default pools have no block")
	}
	return b
}

const (
	guest4, gateway4 = "172.16.0.2", "172.16.0.1"
	guest6, gateway6 = "fd42:6d73:62::2", "fd42:6d73:62::1"
	remote4, remote6 = "93.184.216.34", "2606:2800:220::34"

	guestMAC   = "02:73:ac:10:00:02"
	gatewayMAC = "02:73:ac:10:00:01"
)

// A change alters a frame's layers before they are serialised, or its bytes
// after.
type change func(*wire)

// wire is a frame in the making.
type wire struct {
	eth     layers.Ethernet
	ip4     layers.IPv4
	ip6     layers.IPv6
	frag6   *layers.IPv6Fragment
	tcp     *layers.TCP
	udp     *layers.UDP
	icmp4   *layers.ICMPv4
	icmp6   *layers.ICMPv6
	arp     *layers.ARP
	payload []byte
	offload link.Offload
	after   []func([]byte) []byte
	noSums  bool
}

func newWire(src, dst string) *wire {
	w := &wire{}
	w.eth = layers.Ethernet{SrcMAC: mac(guestMAC), DstMAC: mac(gatewayMAC), EthernetType: layers.EthernetTypeIPv4}
	if s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst); s.Is4() && d.Is4() {
		w.ip4 = layers.IPv4{Version: 4, TTL: 64, SrcIP: s.AsSlice(), DstIP: d.AsSlice()}
	} else {
		w.eth.EthernetType = layers.EthernetTypeIPv6
		sb, db := s.As16(), d.As16()
		w.ip6 = layers.IPv6{Version: 6, HopLimit: 64, SrcIP: sb[:], DstIP: db[:]}
	}
	return w
}

func mac(s string) net.HardwareAddr {
	a, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return a
}

func (w *wire) v6() bool { return w.eth.EthernetType == layers.EthernetTypeIPv6 }

// splitPort splits "addr:port" and "[addr]:port".
func splitPort(s string) (addr string, port uint16) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		panic(err)
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		panic(err)
	}
	return host, uint16(n)
}

// tcpSegment makes a segment with the given flags, as letters of "SAFRPU".
func tcpSegment(src, dst, flags string, changes ...change) link.Frame {
	sa, sp := splitPort(src)
	da, dp := splitPort(dst)
	w := newWire(sa, da)
	has := func(c string) bool { return strings.Contains(flags, c) }
	w.tcp = &layers.TCP{SrcPort: layers.TCPPort(sp), DstPort: layers.TCPPort(dp), Seq: 1000, Ack: 2000, Window: 65535,
		SYN: has("S"), ACK: has("A"), FIN: has("F"), RST: has("R"), PSH: has("P"), URG: has("U")}
	w.ip4.Protocol, w.ip6.NextHeader = layers.IPProtocolTCP, layers.IPProtocolTCP
	return w.frame(changes)
}

// udp makes a datagram.
func udp(src, dst, payload string, changes ...change) link.Frame {
	sa, sp := splitPort(src)
	da, dp := splitPort(dst)
	w := newWire(sa, da)
	w.udp = &layers.UDP{SrcPort: layers.UDPPort(sp), DstPort: layers.UDPPort(dp)}
	w.ip4.Protocol, w.ip6.NextHeader = layers.IPProtocolUDP, layers.IPProtocolUDP
	w.payload = []byte(payload)
	return w.frame(changes)
}

// icmp makes an ICMP message of the addresses' family; body follows the four
// bytes of type, code and checksum.
func icmp(src, dst string, kind, code uint8, body string, changes ...change) link.Frame {
	w := newWire(src, dst)
	b := append([]byte(body), make([]byte, max(0, 4-len(body)))...)
	if w.v6() {
		w.icmp6 = &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, code)}
		w.ip6.NextHeader = layers.IPProtocolICMPv6
		w.payload = b
	} else {
		w.icmp4 = &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, code),
			Id: binary.BigEndian.Uint16(b), Seq: binary.BigEndian.Uint16(b[2:])}
		w.ip4.Protocol = layers.IPProtocolICMPv4
		w.payload = b[4:]
	}
	return w.frame(changes)
}

// echo makes an echo request.
func echo(src, dst string, ident, seq uint16, payload string, changes ...change) link.Frame {
	kind := uint8(8)
	if netip.MustParseAddr(src).Is6() {
		kind = 128
	}
	head := binary.BigEndian.AppendUint16(nil, ident)
	head = binary.BigEndian.AppendUint16(head, seq)
	return icmp(src, dst, kind, 0, string(head)+payload, changes...)
}

// rawIP makes an IP packet of any protocol.
func rawIP(src, dst string, proto uint8, payload string, changes ...change) link.Frame {
	w := newWire(src, dst)
	w.ip4.Protocol, w.ip6.NextHeader = layers.IPProtocol(proto), layers.IPProtocol(proto)
	w.payload = []byte(payload)
	return w.frame(changes)
}

// arp makes an ARP message.
func arp(op uint16, senderMAC, sender, target string, changes ...change) link.Frame {
	w := &wire{eth: layers.Ethernet{SrcMAC: mac(guestMAC), DstMAC: mac("ff:ff:ff:ff:ff:ff"), EthernetType: layers.EthernetTypeARP}}
	w.arp = &layers.ARP{AddrType: 1, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: op,
		SourceHwAddress: mac(senderMAC), SourceProtAddress: netip.MustParseAddr(sender).AsSlice(),
		DstHwAddress: make([]byte, 6), DstProtAddress: netip.MustParseAddr(target).AsSlice()}
	return w.frame(changes)
}

// solicit makes a neighbour solicitation for target, with options behind it.
func solicit(src, dst, target, options string, changes ...change) link.Frame {
	a := netip.MustParseAddr(target).As16()
	return icmp(src, dst, 135, 0, "\x00\x00\x00\x00"+string(a[:])+options, append([]change{hops(255)}, changes...)...)
}

// frame serialises the layers that are set.
func (w *wire) frame(changes []change) link.Frame {
	for _, c := range changes {
		c(w)
	}
	ls := []gopacket.SerializableLayer{&w.eth}
	var network gopacket.NetworkLayer = &w.ip4
	switch {
	case w.arp != nil:
		ls = append(ls, w.arp)
	case w.v6():
		network = &w.ip6
		ls = append(ls, &w.ip6)
		if w.frag6 != nil {
			w.frag6.NextHeader, w.ip6.NextHeader = w.ip6.NextHeader, layers.IPProtocolIPv6Fragment
			ls = append(ls, w.frag6)
		}
	default:
		ls = append(ls, &w.ip4)
	}
	switch {
	case w.tcp != nil:
		must(w.tcp.SetNetworkLayerForChecksum(network))
		ls = append(ls, w.tcp)
	case w.udp != nil:
		must(w.udp.SetNetworkLayerForChecksum(network))
		ls = append(ls, w.udp)
	case w.icmp4 != nil:
		ls = append(ls, w.icmp4)
	case w.icmp6 != nil:
		must(w.icmp6.SetNetworkLayerForChecksum(network))
		ls = append(ls, w.icmp6)
	}
	ls = append(ls, gopacket.Payload(w.payload))
	buf := gopacket.NewSerializeBuffer()
	must(gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: !w.noSums}, ls...))
	b := buf.Bytes()
	for _, f := range w.after {
		b = f(b)
	}
	return link.Frame{Data: b, Offload: w.offload}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// hops sets the TTL or hop limit.
func hops(n uint8) change { return func(w *wire) { w.ip4.TTL, w.ip6.HopLimit = n, n } }

// from and to set the Ethernet addresses.
func from(m string) change { return func(w *wire) { w.eth.SrcMAC = mac(m) } }
func to(m string) change   { return func(w *wire) { w.eth.DstMAC = mac(m) } }

// etherType replaces the frame's.
func etherType(n uint16) change { return poke(12, byte(n>>8), byte(n)) }

// dontFrag sets IPv4's DF.
func dontFrag(w *wire) { w.ip4.Flags |= layers.IPv4DontFragment }

// part makes the packet a fragment, at an offset in bytes, which must be a
// multiple of 8.
func part(id uint32, offset int, more bool) change {
	return func(w *wire) {
		w.ip4.Id, w.ip4.FragOffset = uint16(id), uint16(offset/8)
		if more {
			w.ip4.Flags |= layers.IPv4MoreFragments
		}
		w.frag6 = &layers.IPv6Fragment{FragmentOffset: uint16(offset / 8), MoreFragments: more, Identification: id}
	}
}

// offload sets the virtio-net header.
func offload(o link.Offload) change { return func(w *wire) { w.offload = o } }

// poke sets bytes of the finished frame.
func poke(offset int, b ...byte) change {
	return bytesAfter(func(f []byte) []byte { copy(f[offset:], b); return f })
}

// pokeIP is poke in an IPv4 header, whose checksum is then made right again.
func pokeIP(offset int, b ...byte) change {
	return bytesAfter(func(f []byte) []byte {
		copy(f[etherLen+offset:], b)
		binary.BigEndian.PutUint16(f[24:], 0)
		binary.BigEndian.PutUint16(f[24:], ^slowSum(f[etherLen:etherLen+ipv4Len]))
		return f
	})
}

// cut shortens the frame; pad lengthens it.
func cut(n int) change { return bytesAfter(func(f []byte) []byte { return f[:n] }) }
func pad(n int) change {
	return bytesAfter(func(f []byte) []byte { return append(f, make([]byte, n)...) })
}

func bytesAfter(f func([]byte) []byte) change {
	return func(w *wire) { w.after = append(w.after, f) }
}

// slowSum is the checksum as RFC 1071, section 4.1 writes it.
func slowSum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(b[i]) << 8
		if i+1 < len(b) {
			s += uint32(b[i+1])
		}
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
