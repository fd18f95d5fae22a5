package vnet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/sluicenet/sluice/vnet/link"
)

// finish completes a frame as a link's card would.
func finish(f link.Frame) []byte {
	b := bytes.Clone(f.Data)
	for _, m := range f.More {
		b = append(b, m...)
	}
	if o := f.Offload; o.NeedsChecksum {
		field := b[int(o.ChecksumStart)+int(o.ChecksumOffset):]
		binary.BigEndian.PutUint16(field, checksumField(slowSum(b[o.ChecksumStart:])))
	}
	return b
}

// decode reads a frame that the guest would get with gopacket, and checks what
// must be true of every one: Ethernet addresses, lengths, checksums, TTL.
func decode(t testing.TB, f link.Frame) gopacket.Packet {
	t.Helper()
	b := finish(f)
	o := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	eth := o.LinkLayer().(*layers.Ethernet)
	if eth.SrcMAC.String() != gatewayMAC || eth.DstMAC[0]&1 == 0 && eth.DstMAC.String() != guestMAC {
		t.Errorf("frame goes %v to %v", eth.SrcMAC, eth.DstMAC)
	}
	switch ip := o.NetworkLayer().(type) {
	case *layers.IPv4:
		if slowSum(ip.Contents) != 0xffff {
			t.Errorf("IPv4 header checksum is wrong: %v", o)
		}
		if int(ip.Length) != len(b)-etherLen || ip.TTL == 0 {
			t.Errorf("IPv4 length %d of %d, TTL %d", ip.Length, len(b)-etherLen, ip.TTL)
		}
		if ip.FragOffset != 0 || ip.Flags&layers.IPv4MoreFragments != 0 {
			return o
		}
		checkSums(t, o, ip)
	case *layers.IPv6:
		if int(ip.Length) != len(b)-etherLen-ipv6Len || ip.HopLimit == 0 {
			t.Errorf("IPv6 length %d of %d, hop limit %d", ip.Length, len(b)-etherLen-ipv6Len, ip.HopLimit)
		}
		if o.Layer(layers.LayerTypeIPv6Fragment) == nil {
			checkSums(t, o, ip)
		}
	}
	return o
}

// checkSums serialises the transport layer again with a checksum of gopacket's
// and compares.
func checkSums(t testing.TB, o gopacket.Packet, network gopacket.NetworkLayer) {
	t.Helper()
	for _, l := range o.Layers() {
		var want, got uint16
		buf := gopacket.NewSerializeBuffer()
		must(gopacket.Payload(l.LayerPayload()).SerializeTo(buf, gopacket.SerializeOptions{}))
		opts := gopacket.SerializeOptions{ComputeChecksums: true}
		switch l := l.(type) {
		case *layers.TCP:
			want = l.Checksum
			must(l.SetNetworkLayerForChecksum(network))
			must(l.SerializeTo(buf, opts))
			got = binary.BigEndian.Uint16(buf.Bytes()[16:])
		case *layers.UDP:
			want = l.Checksum
			must(l.SetNetworkLayerForChecksum(network))
			must(l.SerializeTo(buf, opts))
			got = binary.BigEndian.Uint16(buf.Bytes()[6:])
		case *layers.ICMPv4:
			want = l.Checksum
			must(l.SerializeTo(buf, opts))
			got = binary.BigEndian.Uint16(buf.Bytes()[2:])
		case *layers.ICMPv6:
			want = l.Checksum
			must(l.SetNetworkLayerForChecksum(network))
			must(l.SerializeTo(buf, opts))
			got = binary.BigEndian.Uint16(buf.Bytes()[2:])
		default:
			continue
		}
		if got%0xffff != want%0xffff {
			t.Errorf("checksum %#x, gopacket computes %#x: %v", want, got, o)
		}
	}
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// reassemble puts frames that went to the guest together again, and checks that
// each fits the MTU.
func reassemble(t testing.TB, frames []link.Frame, mtu int) (ip []byte) {
	t.Helper()
	r := newReassembler(func(d drop) { t.Errorf("reassembler dropped a fragment: %v", d) })
	for i, f := range frames {
		decode(t, f)
		b := finish(f)
		if len(b) > etherLen+mtu {
			t.Errorf("frame %d has %d bytes, MTU is %d", i, len(b), mtu)
		}
		if len(frames) == 1 {
			return b[etherLen:]
		}
		var p packet
		parseFragment(t, b, &p)
		whole, d := r.add(&p, time.Unix(0, 0))
		if d != dropNone || (whole != nil) != (i == len(frames)-1) {
			t.Fatalf("fragment %d of %d: whole %v, %v", i, len(frames), whole != nil, d)
		}
		if whole != nil {
			return bytes.Clone(whole[etherLen:])
		}
	}
	t.Fatalf("%d frames make no datagram", len(frames))
	return nil
}

// parseFragment reads a fragment towards the guest as the guard reads those
// from it.
func parseFragment(t testing.TB, b []byte, p *packet) {
	t.Helper()
	o := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.NoCopy)
	*p = packet{frame: b, kind: kindFragment, end: len(b)}
	switch ip := o.NetworkLayer().(type) {
	case *layers.IPv4:
		p.src, p.dst, p.proto, p.fragID = addrOf(ip.SrcIP), addrOf(ip.DstIP), uint8(ip.Protocol), uint32(ip.Id)
		p.fragOffset, p.moreFrags = int(ip.FragOffset)*8, ip.Flags&layers.IPv4MoreFragments != 0
		p.l4 = etherLen + ipv4Len
	case *layers.IPv6:
		h := o.Layer(layers.LayerTypeIPv6Fragment).(*layers.IPv6Fragment)
		p.v6 = true
		p.src, p.dst, p.proto, p.fragID = addrOf(ip.SrcIP), addrOf(ip.DstIP), uint8(h.NextHeader), h.Identification
		p.fragOffset, p.moreFrags = int(h.FragmentOffset)*8, h.MoreFragments
		p.l4 = etherLen + ipv6Len + fragmentLen
	}
}

func TestAppendUDP(t *testing.T) {
	t.Parallel()
	rows := []struct {
		src, dst string
		size     int
		mtu      int
		frames   int // 0: refused
	}{
		{remote4 + ":53", guest4 + ":1000", 0, 1500, 1},
		{remote4 + ":53", guest4 + ":1000", 1472, 1500, 1},
		{remote4 + ":53", guest4 + ":1000", 1473, 1500, 2},
		{remote4 + ":53", guest4 + ":1000", 65507, 1500, 45},
		{remote4 + ":53", guest4 + ":1000", 65507, 65520, 2},
		{remote4 + ":53", guest4 + ":1000", 65508, 65520, 0},
		{"[" + remote6 + "]:53", "[" + guest6 + "]:1000", 0, 1500, 1},
		{"[" + remote6 + "]:53", "[" + guest6 + "]:1000", 1452, 1500, 1},
		{"[" + remote6 + "]:53", "[" + guest6 + "]:1000", 1453, 1500, 2},
		{"[" + remote6 + "]:53", "[" + guest6 + "]:1000", 65527, 1280, 54},
		{"[" + remote6 + "]:53", "[" + guest6 + "]:1000", 65528, 1500, 0},
	}
	for _, r := range rows {
		b := newBuilder(testBlock(t), r.mtu)
		payload := []byte(strings.Repeat("sluice ", r.size/7+1)[:r.size])
		src, dst := addrPort(r.src), addrPort(r.dst)
		var out batch
		ok := b.appendUDP(&out, src, dst, payload)
		if ok != (r.frames > 0) || len(out.frames) != r.frames {
			t.Errorf("%s, %d bytes, MTU %d: %v, %d frames; want %d", r.src, r.size, r.mtu, ok, len(out.frames), r.frames)
			continue
		}
		if !ok {
			continue
		}
		checkUDP(t, reassemble(t, out.frames, r.mtu), src, dst, payload)
	}
}

// checkUDP checks that ip is the datagram, its checksum included.
func checkUDP(t testing.TB, ip []byte, src, dst netip.AddrPort, payload []byte) {
	t.Helper()
	first := layers.LayerTypeIPv4
	if ip[0]>>4 == 6 {
		first = layers.LayerTypeIPv6
	}
	o := gopacket.NewPacket(ip, first, gopacket.Default)
	u, ok := o.TransportLayer().(*layers.UDP)
	if !ok {
		t.Fatalf("no datagram: %v", o)
	}
	if uint16(u.SrcPort) != src.Port() || uint16(u.DstPort) != dst.Port() || !bytes.Equal(u.Payload, payload) {
		t.Errorf("datagram %v > %v with %d bytes; want %v > %v with %d", u.SrcPort, u.DstPort, len(u.Payload), src, dst, len(payload))
	}
	checkSums(t, o, o.NetworkLayer())
	if u.Checksum == 0 {
		t.Error("datagram without checksum")
	}
}

// TestWrapUDP: a payload becomes a frame where it lies, without a copy.
func TestWrapUDP(t *testing.T) {
	t.Parallel()
	b := newBuilder(testBlock(t), 1500)
	for _, r := range []struct {
		src, dst string
		size     int
		ok       bool
	}{
		{remote4 + ":53", guest4 + ":1000", 0, true},
		{remote4 + ":53", guest4 + ":1000", 1472, true},
		{remote4 + ":53", guest4 + ":1000", 1473, false},
		{"[" + remote6 + "]:53", "[" + guest6 + "]:1000", 1452, true},
		{"[" + remote6 + "]:53", "[" + guest6 + "]:1000", 1453, false},
	} {
		buf := append(make([]byte, udpHeadroom), strings.Repeat("x", r.size)...)
		f, ok := b.wrapUDP(buf, addrPort(r.src), addrPort(r.dst))
		if ok != r.ok {
			t.Errorf("%s, %d bytes: %v", r.src, r.size, ok)
		}
		if !ok {
			continue
		}
		if &f.Data[len(f.Data)-1] != &buf[len(buf)-1] {
			t.Errorf("%s, %d bytes: copied", r.src, r.size)
		}
		decode(t, f)
		checkUDP(t, finish(f)[etherLen:], addrPort(r.src), addrPort(r.dst), buf[udpHeadroom:])
	}
}

func TestAppendRST(t *testing.T) {
	t.Parallel()
	g := newGuard(testBlock(t), 1500)
	b := newBuilder(testBlock(t), 1500)
	const s4, d4, s6, d6 = guest4 + ":1000", remote4 + ":80", "[" + guest6 + "]:1000", "[" + remote6 + "]:80"
	// The helper's segments have sequence number 1000 and acknowledge 2000.
	rows := []struct {
		name     string
		frame    link.Frame
		seq, ack uint32
		isACK    bool
	}{
		{"SYN", tcpSegment(s4, d4, "S"), 0, 1001, true},
		{"SYN with data", tcpSegment(s4, d4, "S", payload("abc")), 0, 1004, true},
		{"SYN, IPv6", tcpSegment(s6, d6, "S"), 0, 1001, true},
		{"data", tcpSegment(s4, d4, "PA", payload("abc")), 2000, 0, false},
		{"FIN", tcpSegment(s6, d6, "FA"), 2000, 0, false},
		{"SYN+ACK", tcpSegment(s4, d4, "SA"), 2000, 0, false},
	}
	for _, r := range rows {
		var p packet
		if d := g.check(&r.frame, &p); d != dropNone {
			t.Fatalf("%s: %v", r.name, d)
		}
		var out batch
		b.appendRST(&out, &p)
		o := decode(t, out.frames[0])
		rst, ok := o.TransportLayer().(*layers.TCP)
		if !ok || !rst.RST || rst.SYN || rst.FIN || rst.ACK != r.isACK || rst.Seq != r.seq || rst.Ack != r.ack {
			t.Errorf("%s: got %+v, want seq %d ack %d", r.name, rst, r.seq, r.ack)
		}
		if uint16(rst.SrcPort) != p.dstPort || uint16(rst.DstPort) != p.srcPort || addrOf(o.NetworkLayer().NetworkFlow().Src().Raw()) != p.dst {
			t.Errorf("%s: answer goes %v %v", r.name, o.NetworkLayer().NetworkFlow(), rst.TransportFlow())
		}
	}

	var p packet
	var out batch
	reset := tcpSegment(s4, d4, "RA")
	g.check(&reset, &p)
	if b.appendRST(&out, &p); len(out.frames) != 0 {
		t.Error("a reset was answered with a reset")
	}
}

func TestAppendICMP(t *testing.T) {
	t.Parallel()
	g := newGuard(testBlock(t), 1500)
	b := newBuilder(testBlock(t), 1500)
	router4, router6 := netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::9")
	small4, big4 := udp(guest4+":1", remote4+":2", "hello"), udp(guest4+":1", remote4+":2", strings.Repeat("x", 1472))
	small6, big6 := udp("["+guest6+"]:1", "["+remote6+"]:2", "hello"), udp("["+guest6+"]:1", "["+remote6+"]:2", strings.Repeat("x", 1452))
	rows := []struct {
		frame      link.Frame
		report     icmpReport
		kind, code uint8
		from       string
		quoted     int // bytes of the guest's packet
	}{
		{small4, icmpReport{what: icmpNetUnreach}, 3, 0, gateway4, 33},
		{small4, icmpReport{what: icmpHostUnreach}, 3, 1, gateway4, 33},
		{small4, icmpReport{what: icmpProtoUnreach}, 3, 2, gateway4, 33},
		{small4, icmpReport{what: icmpPortUnreach, from: netip.MustParseAddr(remote4)}, 3, 3, remote4, 33},
		{small4, icmpReport{what: icmpProhibited}, 3, 13, gateway4, 33},
		{small4, icmpReport{what: icmpTimeExceed, from: router4}, 11, 0, router4.String(), 33},
		{big4, icmpReport{what: icmpTooBig, mtu: 1400}, 3, 4, gateway4, 576 - 28},
		{small6, icmpReport{what: icmpNetUnreach}, 1, 0, gateway6, 53},
		{small6, icmpReport{what: icmpHostUnreach}, 1, 3, gateway6, 53},
		{small6, icmpReport{what: icmpProtoUnreach}, 1, 3, gateway6, 53},
		{small6, icmpReport{what: icmpPortUnreach}, 1, 4, gateway6, 53},
		{small6, icmpReport{what: icmpProhibited}, 1, 1, gateway6, 53},
		{small6, icmpReport{what: icmpTimeExceed, from: router6}, 3, 0, router6.String(), 53},
		{big6, icmpReport{what: icmpTooBig, mtu: 1400}, 2, 0, gateway6, 1280 - 48},
	}
	for _, r := range rows {
		var p packet
		if d := g.check(&r.frame, &p); d != dropNone {
			t.Fatal(d)
		}
		var out batch
		b.appendICMP(&out, r.report, p.ip())
		o := decode(t, out.frames[0])
		flow := o.NetworkLayer().NetworkFlow()
		if flow.Src().String() != r.from || addrOf(flow.Dst().Raw()) != p.src {
			t.Errorf("%v: goes %v", r.report, flow)
		}
		var m []byte
		if l := o.Layer(layers.LayerTypeICMPv4); l != nil {
			m = append(l.LayerContents(), l.LayerPayload()...)
		} else {
			l := o.Layer(layers.LayerTypeICMPv6)
			m = append(bytes.Clone(l.LayerContents()), l.LayerPayload()...)
		}
		if m[0] != r.kind || m[1] != r.code || int(binary.BigEndian.Uint32(m[4:])) != r.report.mtu {
			t.Errorf("%v: got type %d, code %d, % x; want %d, %d", r.report, m[0], m[1], m[4:8], r.kind, r.code)
		}
		if !bytes.Equal(m[8:], p.ip()[:r.quoted]) {
			t.Errorf("%v: quotes %d bytes, want the first %d", r.report, len(m)-8, r.quoted)
		}
	}
}

// TestQuoteTransport: a packet made anew for a quotation is the guest's.
func TestQuoteTransport(t *testing.T) {
	t.Parallel()
	for _, ends := range [][2]string{{guest4, remote4}, {guest6, remote6}} {
		src, dst := netip.MustParseAddr(ends[0]), netip.MustParseAddr(ends[1])
		q := quoteTransport([]byte("before"), src, dst, protoUDP, []byte("8 bytes!"))
		if string(q[:6]) != "before" {
			t.Errorf("quoteTransport overwrote: %q", q)
		}
		first := layers.LayerTypeIPv4
		if src.Is6() {
			first = layers.LayerTypeIPv6
		}
		o := gopacket.NewPacket(q[6:], first, gopacket.Default)
		if f := o.NetworkLayer().NetworkFlow(); f.Src().String() != ends[0] || f.Dst().String() != ends[1] {
			t.Errorf("quoted %v, want %v", f, ends)
		}
		if string(o.NetworkLayer().LayerPayload()) != "8 bytes!" {
			t.Errorf("quoted %q", o.NetworkLayer().LayerPayload())
		}
	}
}

func TestAppendEchoReply(t *testing.T) {
	t.Parallel()
	b := newBuilder(testBlock(t), 1500)
	for _, r := range []struct {
		src, dst string
		size     int
		frames   int
	}{
		{remote4, guest4, 0, 1}, {remote4, guest4, 56, 1}, {remote4, guest4, 1472, 1}, {remote4, guest4, 1473, 2}, {remote4, guest4, 65507, 45},
		{remote6, guest6, 0, 1}, {remote6, guest6, 56, 1}, {remote6, guest6, 1452, 1}, {remote6, guest6, 1453, 2}, {remote6, guest6, 65527, 46},
	} {
		var out batch
		payload := []byte(strings.Repeat("sluice ", r.size/7+1)[:r.size])
		b.appendEchoReply(&out, netip.MustParseAddr(r.src), netip.MustParseAddr(r.dst), 0x1234, 99, payload)
		if len(out.frames) != r.frames {
			t.Errorf("%s, %d bytes: %d frames, want %d", r.src, r.size, len(out.frames), r.frames)
		}
		ip := reassemble(t, out.frames, 1500)
		first, kind, start := layers.LayerTypeIPv4, byte(0), ipv4Len
		if ip[0]>>4 == 6 {
			first, kind, start = layers.LayerTypeIPv6, 129, ipv6Len
		}
		o := gopacket.NewPacket(ip, first, gopacket.Default)
		checkSums(t, o, o.NetworkLayer())
		m := ip[start:]
		if m[0] != kind || m[1] != 0 || !bytes.Equal(m[4:8], []byte{0x12, 0x34, 0, 99}) || !bytes.Equal(m[8:], payload) {
			t.Errorf("%s, %d bytes: got % x..., %d bytes", r.src, r.size, m[:8], len(m)-8)
		}
	}
}

// TestBatch: frames keep their bytes when the batch's memory grows.
func TestBatch(t *testing.T) {
	t.Parallel()
	var out batch
	for i := range 100 {
		f := out.add(i * 10)
		for j := range f {
			f[j] = byte(i)
		}
	}
	for i, f := range out.frames {
		if len(f.Data) != i*10 || bytes.Count(f.Data, []byte{byte(i)}) != i*10 {
			t.Errorf("frame %d was overwritten", i)
		}
	}
	out.reset()
	if len(out.frames) != 0 || len(out.add(1)) != 1 {
		t.Error("reset did not empty the batch")
	}
}

func TestBuildersAllocateNothing(t *testing.T) {
	b := newBuilder(testBlock(t), 1500)
	g := newGuard(testBlock(t), 1500)
	syn := tcpSegment(guest4+":1", remote4+":2", "S")
	var p packet
	g.check(&syn, &p)
	src4, dst4 := addrPort(remote4+":1"), addrPort(guest4+":2")
	src6, dst6 := addrPort("["+remote6+"]:1"), addrPort("["+guest6+"]:2")
	small, large := make([]byte, 100), make([]byte, 9000)
	buf := make([]byte, udpHeadroom+1000)
	var out batch
	for name, build := range map[string]func(){
		"UDP":           func() { b.appendUDP(&out, src4, dst4, small) },
		"UDP, IPv6":     func() { b.appendUDP(&out, src6, dst6, small) },
		"UDP fragments": func() { b.appendUDP(&out, src6, dst6, large) },
		"UDP wrapped":   func() { b.wrapUDP(buf, src4, dst4) },
		"echo reply":    func() { b.appendEchoReply(&out, src6.Addr(), dst6.Addr(), 1, 2, small) },
		"RST":           func() { b.appendRST(&out, &p) },
		"ICMP error":    func() { b.appendICMP(&out, icmpReport{what: icmpProhibited}, p.ip()) },
	} {
		if n := testing.AllocsPerRun(100, func() { out.reset(); build() }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkAppendUDP(b *testing.B) {
	bu := newBuilder(testBlock(b), 1500)
	src, dst := addrPort(remote4+":1"), addrPort(guest4+":2")
	for _, n := range []int{64, 1400, 9000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			payload := make([]byte, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			var out batch
			for b.Loop() {
				out.reset()
				bu.appendUDP(&out, src, dst, payload)
			}
		})
	}
}
