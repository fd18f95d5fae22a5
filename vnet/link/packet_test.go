package link

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
)

// The two ends of the card in tests: .1 and ::1 are ours.
var (
	ourMAC    = [6]byte{2, 0, 0, 0, 0, 1}
	guestMAC  = [6]byte{2, 0, 0, 0, 0, 2}
	ourAddr4  = netip.MustParseAddr("10.9.0.1")
	guestIP4  = netip.MustParseAddr("10.9.0.2")
	ourAddr6  = netip.MustParseAddr("fd09::1")
	guestIP6  = netip.MustParseAddr("fd09::2")
	guestPort = uint16(7) // echo
)

// A segment describes a frame to the guest in tests.
type segment struct {
	v6       bool
	udp      bool
	id       uint16 // IPv4
	srcPort  uint16
	seq, ack uint32
	flags    byte
	options  []byte // TCP; a multiple of 4
	payload  []byte
}

func (s segment) addrs() (src, dst netip.Addr) {
	if s.v6 {
		return ourAddr6, guestIP6
	}
	return ourAddr4, guestIP4
}

// frame lays s out as our stack does: with partial as the Offload says it, and
// otherwise with a complete checksum.
func (s segment) frame(mss int) Frame {
	var l4 []byte
	proto, field := byte(protoTCP), tcpChecksum
	if s.udp {
		proto, field = protoUDP, udpChecksum
		l4 = binary.BigEndian.AppendUint16(l4, s.srcPort)
		l4 = binary.BigEndian.AppendUint16(l4, guestPort)
		l4 = binary.BigEndian.AppendUint16(l4, uint16(8+len(s.payload)))
		l4 = append(l4, 0, 0)
	} else {
		l4 = binary.BigEndian.AppendUint16(l4, s.srcPort)
		l4 = binary.BigEndian.AppendUint16(l4, guestPort)
		l4 = binary.BigEndian.AppendUint32(l4, s.seq)
		l4 = binary.BigEndian.AppendUint32(l4, s.ack)
		l4 = append(l4, byte(5+len(s.options)/4)<<4, s.flags, 0xff, 0xff, 0, 0, 0, 0)
		l4 = append(l4, s.options...)
	}
	l4 = append(l4, s.payload...)
	src, dst := s.addrs()
	b := append(append([]byte{}, guestMAC[:]...), ourMAC[:]...)
	if s.v6 {
		b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(len(l4)))
		b = append(b, proto, 64)
	} else {
		b = append(b, 0x08, 0x00, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+len(l4)))
		b = binary.BigEndian.AppendUint16(b, s.id)
		b = append(b, 0x40, 0, 64, proto, 0, 0)
	}
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	if !s.v6 {
		binary.BigEndian.PutUint16(b[24:], ^naiveSum(b[14:34]))
	}
	start := len(b)
	b = append(b, l4...)
	pseudo := naiveSum(src.AsSlice(), dst.AsSlice(), []byte{0, proto}, binary.BigEndian.AppendUint16(nil, uint16(len(l4))))
	binary.BigEndian.PutUint16(b[start+field:], pseudo)
	f := Frame{Data: b}
	f.Offload = Offload{NeedsChecksum: true, ChecksumStart: uint16(start), ChecksumOffset: uint16(field)}
	if len(s.payload) > mss {
		f.Offload.SegmentSize = uint16(mss)
		switch {
		case s.udp:
			f.Offload.GSO = GSOUDP
		case s.v6:
			f.Offload.GSO = GSOTCPv6
		default:
			f.Offload.GSO = GSOTCPv4
		}
	}
	return f
}

// naiveSum is the Internet checksum as RFC 1071 describes it, not complemented:
// the oracle for package code, with which it shares nothing.
func naiveSum(parts ...[]byte) uint16 {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	var s uint32
	for i, b := range all {
		if i%2 == 0 {
			s += uint32(b) << 8
		} else {
			s += uint32(b)
		}
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// A parsed is a frame taken apart by checkFrame.
type parsed struct {
	segment
	srcPort, dstPort uint16
}

// parseFrame takes a TCP or UDP frame apart and returns an error unless its
// lengths and, if sums is set, checksums are right.
func parseFrame(b []byte, sums bool) (p parsed, err error) {
	if len(b) < 34 {
		return p, fmt.Errorf("%d bytes", len(b))
	}
	var proto byte
	var ip, addrs []byte
	switch binary.BigEndian.Uint16(b[12:]) {
	case etherIPv4:
		n := int(binary.BigEndian.Uint16(b[16:]))
		if n != len(b)-14 {
			return p, fmt.Errorf("IPv4 total length %d in a frame of %d bytes", n, len(b))
		}
		ip, proto = b[14:14+int(b[14]&15)*4], b[23]
		addrs = ip[12:20]
		p.id = binary.BigEndian.Uint16(ip[4:])
		if sums && naiveSum(ip) != 0xffff {
			return p, fmt.Errorf("IPv4 header sums to %#x", naiveSum(ip))
		}
	case etherIPv6:
		n := int(binary.BigEndian.Uint16(b[18:]))
		if n != len(b)-54 {
			return p, fmt.Errorf("IPv6 payload length %d in a frame of %d bytes", n, len(b))
		}
		ip, proto, p.v6 = b[14:54], b[20], true
		addrs = ip[8:40]
	default:
		return p, fmt.Errorf("EtherType %#x", b[12:14])
	}
	l4 := b[14+len(ip):]
	p.srcPort, p.dstPort = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	p.segment.srcPort = p.srcPort
	switch proto {
	case protoTCP:
		n := int(l4[12]>>4) * 4
		p.seq, p.ack, p.flags = binary.BigEndian.Uint32(l4[4:]), binary.BigEndian.Uint32(l4[8:]), l4[13]
		p.options, p.payload = l4[20:n], l4[n:]
	case protoUDP:
		if n := int(binary.BigEndian.Uint16(l4[4:])); n != len(l4) {
			return p, fmt.Errorf("UDP length %d of %d bytes", n, len(l4))
		}
		if sums && l4[6] == 0 && l4[7] == 0 {
			return p, fmt.Errorf("no UDP checksum")
		}
		p.udp, p.payload = true, l4[8:]
	default:
		return p, fmt.Errorf("protocol %d", proto)
	}
	length := binary.BigEndian.AppendUint32(nil, uint32(len(l4)))
	if s := naiveSum(addrs, length, []byte{0, proto}, l4); sums && s != 0xffff {
		return p, fmt.Errorf("transport sums to %#x", s)
	}
	return p, nil
}

// pattern returns n bytes that differ from their neighbours and from those one
// segment away.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8*13 + i>>16)
	}
	return b
}

// room returns n empty frames with memory of the given capacity.
func room(n, capacity int) []Frame {
	frames := make([]Frame, n)
	for i := range frames {
		frames[i].Data = make([]byte, 0, capacity)
	}
	return frames
}

// must fails the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
