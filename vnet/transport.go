package vnet

import (
	"bytes"
	"encoding/binary"

	"github.com/sluicenet/sluice/vnet/link"
)

// The guard's second half: what stands behind the IP header.

// Where the transport's checksum lies, in bytes from its header's first.
const (
	tcpChecksumOffset = 16
	udpChecksumOffset = 6
)

// maxDatagrams is how many datagrams one frame may stand for: Linux's own
// UDP_MAX_SEGMENTS.
const maxDatagrams = 128

// checkFragment passes a fragment to the reassembler if it is one of UDP or
// ICMP. Nobody sends TCP in fragments who wants it to arrive, and fragments
// hide what a flow is.
func (p *packet) checkFragment() drop {
	echo := uint8(protoICMPv4)
	if p.v6 {
		echo = protoICMPv6
	}
	if p.proto != protoUDP && p.proto != echo {
		return dropFragment
	}
	// A kernel completes the checksum before it cuts.
	if p.offload.NeedsChecksum || p.offload.GSO != link.GSONone {
		return dropOffload
	}
	length := p.end - p.l4
	header := 0 // counts towards the 65535 bytes of an IPv4 packet, not an IPv6 one
	if !p.v6 {
		header = ipv4Len
	}
	switch {
	case length == 0, p.moreFrags && length%8 != 0:
		return dropFragment
	case header+p.fragOffset+length > 65535: // "ping of death"
		return dropFragment
	}
	p.kind = kindFragment
	return dropNone
}

// checkFragmentHeader reads the IPv6 fragment header (RFC 8200, section 4.5).
// An atomic fragment, the only one of its datagram, has no use but to slip past
// filters (RFC 8021).
func (p *packet) checkFragmentHeader() drop {
	b := p.frame[p.l4:p.end]
	if len(b) < fragmentLen {
		return dropFragment
	}
	frag := binary.BigEndian.Uint16(b[2:])
	p.proto = b[0]
	p.fragOffset = int(frag &^ 7)
	p.moreFrags = frag&1 != 0
	p.fragID = binary.BigEndian.Uint32(b[4:])
	p.l4 += fragmentLen
	if p.fragOffset == 0 && !p.moreFrags {
		return dropFragment
	}
	return p.checkFragment()
}

// checkTransport checks the transport header of a packet that is no fragment,
// its offload and its checksum.
func (p *packet) checkTransport() drop {
	switch {
	case p.proto == protoTCP:
		return p.checkTCP()
	case p.proto == protoUDP:
		return p.checkUDP()
	case p.proto == protoICMPv4 && !p.v6, p.proto == protoICMPv6 && p.v6:
		return p.checkICMP()
	}
	return dropProtocol
}

func (p *packet) checkTCP() drop {
	b := p.frame[p.l4:p.end]
	if len(b) < tcpLen {
		return dropTCPHeader
	}
	headerLen := int(b[12]>>4) * 4
	if headerLen < tcpLen || headerLen > len(b) {
		return dropTCPHeader
	}
	p.kind = kindTCP
	p.srcPort = binary.BigEndian.Uint16(b[0:])
	p.dstPort = binary.BigEndian.Uint16(b[2:])
	p.payload = p.l4 + headerLen
	p.tcpFlags = b[13]
	if p.srcPort == 0 || p.dstPort == 0 {
		return dropTCPHeader
	}
	if !saneFlags(p.tcpFlags) {
		return dropTCPFlags
	}
	if reason := p.checkOffload(tcpChecksumOffset); reason != dropNone {
		return reason
	}
	return p.checkSum()
}

// saneFlags reports whether a TCP stack sends such a combination of flags: a
// SYN opens and neither closes nor resets, and all else acknowledges or resets
// (RFC 9293, section 3.10.7). What fails are the probes of port scanners.
func saneFlags(flags uint8) bool {
	if flags&flagSYN != 0 {
		return flags&(flagFIN|flagRST) == 0
	}
	return flags&(flagACK|flagRST) != 0
}

func (p *packet) checkUDP() drop {
	b := p.frame[p.l4:p.end]
	if len(b) < udpLen {
		return dropUDPHeader
	}
	p.kind = kindUDP
	p.srcPort = binary.BigEndian.Uint16(b[0:])
	p.dstPort = binary.BigEndian.Uint16(b[2:])
	p.payload = p.l4 + udpLen
	// A length below the packet's would leave bytes that belong to nothing.
	if int(binary.BigEndian.Uint16(b[4:])) != len(b) {
		return dropUDPHeader
	}
	// RFC 768 lets the source port be zero; no answer could find it.
	if p.srcPort == 0 || p.dstPort == 0 {
		return dropUDPHeader
	}
	if reason := p.checkOffload(udpChecksumOffset); reason != dropNone {
		return reason
	}
	if binary.BigEndian.Uint16(b[udpChecksumOffset:]) == 0 && !p.offload.NeedsChecksum {
		// None: allowed in IPv4 only (RFC 8200, section 8.1).
		if p.v6 {
			return dropUDPHeader
		}
		return dropNone
	}
	return p.checkSum()
}

// checkICMP passes echo requests, and the answer that a closed UDP port gives to
// us. Other errors that a guest reports, redirects and the rest have no place to
// go: host sockets are not the guest's.
func (p *packet) checkICMP() drop {
	b := p.frame[p.l4:p.end]
	if len(b) < icmpLen {
		return dropICMPHeader
	}
	request, refused := [2]byte{icmpEcho, 0}, icmpCodes[icmpPortUnreach].v4
	if p.v6 {
		request, refused = [2]byte{icmp6Echo, 0}, icmpCodes[icmpPortUnreach].v6
	}
	switch [2]byte(b) {
	case request:
		p.kind = kindEcho
	case refused:
		if !p.quotesUDP(b[icmpLen:]) {
			return dropICMPType
		}
		p.kind = kindRefused
	default:
		return dropICMPType
	}
	if reason := p.checkICMPChecksum(); reason != dropNone {
		return reason
	}
	p.payload = p.l4 + icmpLen
	return dropNone
}

// quotesUDP reports whether b is the beginning of a UDP datagram that the packet's
// destination has sent (RFC 792; RFC 4443, section 3.1), and takes over its ports,
// as an answer has them. It came without options or extension headers, from us.
func (p *packet) quotesUDP(b []byte) bool {
	length, proto, src := ipv4Len, 9, 12
	if p.v6 {
		length, proto, src = ipv6Len, 6, 8
	}
	from := p.dst.AsSlice()
	if len(b) < length+udpLen || b[proto] != protoUDP || !bytes.Equal(b[src:src+len(from)], from) {
		return false
	}
	p.srcPort = binary.BigEndian.Uint16(b[length+2:])
	p.dstPort = binary.BigEndian.Uint16(b[length:])
	return true
}

// checkICMPChecksum verifies the checksum of ICMP, which no card completes.
func (p *packet) checkICMPChecksum() drop {
	if p.offload.NeedsChecksum || p.offload.GSO != link.GSONone {
		return dropOffload
	}
	if p.offload.ChecksumValid {
		return dropNone
	}
	if p.v6 {
		return p.checkSum()
	}
	if sum(p.frame[p.l4:p.end], 0) != 0xffff {
		return dropChecksum
	}
	return dropNone
}

// checkSum verifies a checksum with pseudo-header, unless the offload says that
// it is yet to be completed, or the guest's side of the link vouches for it. A
// guest that lies there harms only its own datagrams: payloads go to host
// sockets, which write checksums of their own.
func (p *packet) checkSum() drop {
	if p.offload.NeedsChecksum || p.offload.ChecksumValid {
		return dropNone
	}
	b := p.frame[p.l4:p.end]
	if sum(b, pseudoSum(p.src, p.dst, p.proto, len(b))) != 0xffff {
		return dropChecksum
	}
	return dropNone
}

// checkOffload holds the virtio-net header against the packet (virtio 1.2,
// section 5.1.6.2): the header is the guest's word. The checksum must be the
// transport's, whose field lies at offset, and segments must be the protocol's,
// of a positive size that fits the largest frame that was let in.
func (p *packet) checkOffload(offset int) drop {
	o := &p.offload
	if o.NeedsChecksum {
		if int(o.ChecksumStart) != p.l4 || int(o.ChecksumOffset) != offset {
			return dropOffload
		}
	}
	want := link.GSONone
	switch {
	case o.GSO == link.GSONone:
		if o.ECN {
			return dropOffload
		}
		return dropNone
	case p.proto == protoUDP:
		want = link.GSOUDP
		if o.ECN {
			return dropOffload
		}
	case p.v6:
		want = link.GSOTCPv6
	default:
		want = link.GSOTCPv4
	}
	if o.GSO != want || !o.NeedsChecksum || o.SegmentSize == 0 {
		return dropOffload
	}
	// Each datagram costs work of its own, as a segment does not.
	if n, _ := p.segments(); want == link.GSOUDP && n > maxDatagrams {
		return dropOffload
	}
	return dropNone
}
