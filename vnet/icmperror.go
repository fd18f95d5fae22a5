package vnet

import (
	"encoding/binary"
	"net/netip"
)

// ICMP types: RFC 792 and RFC 4443.
const (
	icmpEchoReply    = 0
	icmpUnreachable  = 3
	icmpEcho         = 8
	icmpTimeExceeded = 11

	icmp6Unreachable  = 1
	icmp6TooBig       = 2
	icmp6TimeExceeded = 3
	icmp6Echo         = 128
	icmp6EchoReply    = 129
)

// An icmpError is what a guest is told about its packet, in either family. The
// zero icmpError is none: silence.
type icmpError uint8

const (
	icmpNone         icmpError = iota
	icmpNetUnreach             // no route
	icmpHostUnreach            // the last router found nobody
	icmpPortUnreach            // nobody listens there
	icmpProhibited             // the policy says no, and says so
	icmpTooBig                 // larger than the path's MTU, and not to be cut
	icmpTimeExceed             // TTL or hop limit ran out
	icmpProtoUnreach           // the host there does not know the protocol
	numICMPErrors
)

// icmpCodes gives each error's type and code: RFC 792, RFC 1812 section 5.2.7.1
// and RFC 4443 section 3. IPv6 has no code for a protocol (its is a parameter
// problem, which would need an offset): administratively none fits better than
// an address that does not answer.
var icmpCodes = [numICMPErrors]struct{ v4, v6 [2]byte }{
	icmpNetUnreach:   {[2]byte{icmpUnreachable, 0}, [2]byte{icmp6Unreachable, 0}},
	icmpHostUnreach:  {[2]byte{icmpUnreachable, 1}, [2]byte{icmp6Unreachable, 3}},
	icmpProtoUnreach: {[2]byte{icmpUnreachable, 2}, [2]byte{icmp6Unreachable, 3}},
	icmpPortUnreach:  {[2]byte{icmpUnreachable, 3}, [2]byte{icmp6Unreachable, 4}},
	icmpTooBig:       {[2]byte{icmpUnreachable, 4}, [2]byte{icmp6TooBig, 0}},
	icmpProhibited:   {[2]byte{icmpUnreachable, 13}, [2]byte{icmp6Unreachable, 1}},
	icmpTimeExceed:   {[2]byte{icmpTimeExceeded, 0}, [2]byte{icmp6TimeExceeded, 0}},
}

// An icmpReport is an error message to be sent.
type icmpReport struct {
	what icmpError
	from netip.Addr // who says so; the zero Addr means the gateway
	mtu  int        // of the path, in bytes; valid iff what is icmpTooBig
}

// How much of an error message an IP packet may be. IPv4's leaves room for what
// a host must be able to take: "the ICMP datagram SHOULD contain as much of the
// original datagram as possible without the length of the ICMP datagram
// exceeding 576 bytes" (RFC 1812, section 4.3.2.3). IPv6's is the minimum MTU
// (RFC 4443, section 2.4 (c)).
const (
	maxICMPError4 = 576
	maxICMPError6 = 1280
)

// appendICMP appends the error message about quote, which is the guest's own IP
// packet, to out. It does not limit their rate.
func (b *builder) appendICMP(out *batch, r icmpReport, quote []byte) {
	h := ipHeader{src: r.from, proto: protoICMPv4, ttl: gatewayTTL}
	v6 := quote[0]>>4 == 6
	if !h.src.IsValid() {
		h.src = b.gateway(v6)
	}
	code, limit := icmpCodes[r.what].v4, maxICMPError4
	if v6 {
		code, limit = icmpCodes[r.what].v6, maxICMPError6
		h.proto = protoICMPv6
		h.dst = netip.AddrFrom16([16]byte(quote[8:24]))
	} else {
		h.dst = netip.AddrFrom4([4]byte(quote[12:16]))
	}
	start := h.headersLen()
	quote = quote[:min(len(quote), limit-(start-etherLen)-icmpLen)]
	h.length = icmpLen + len(quote)
	f := out.add(start + h.length)
	b.putIP(f, &h)
	m := f[start:]
	clear(m[:icmpLen])
	m[0], m[1] = code[0], code[1]
	if r.what == icmpTooBig {
		// IPv4 has 16 bits for it (RFC 1191, section 4), at the end of IPv6's 32.
		binary.BigEndian.PutUint32(m[4:], uint32(min(r.mtu, 65535)))
	}
	copy(m[icmpLen:], quote)
	b.finishICMP(m, &h)
}

// appendEchoReply appends the answer to an echo request with the given
// identifier and sequence number, from src to dst, cut into fragments where it
// is larger than the MTU.
func (b *builder) appendEchoReply(out *batch, src, dst netip.Addr, ident, seq uint16, payload []byte) {
	var head [icmpLen]byte
	h := ipHeader{src: src, dst: dst, proto: protoICMPv4, ttl: gatewayTTL, length: icmpLen + len(payload)}
	var initial uint16
	if !src.Is4() {
		h.proto = protoICMPv6
		head[0] = icmp6EchoReply
		initial = pseudoSum(src, dst, protoICMPv6, h.length)
	}
	binary.BigEndian.PutUint16(head[4:], ident)
	binary.BigEndian.PutUint16(head[6:], seq)
	binary.BigEndian.PutUint16(head[2:], checksumField(sum(payload, sum(head[:], initial))))
	start := h.headersLen()
	if start-etherLen+h.length > b.mtu {
		b.appendFragments(out, &h, head[:], payload)
		return
	}
	f := out.add(start + h.length)
	b.putIP(f, &h)
	copy(f[start:], head[:])
	copy(f[start+icmpLen:], payload)
}

// finishICMP writes the checksum of the message m, which h describes.
func (b *builder) finishICMP(m []byte, h *ipHeader) {
	var initial uint16
	if h.proto == protoICMPv6 {
		initial = pseudoSum(h.src, h.dst, protoICMPv6, len(m))
	}
	putChecksum(m, 2, initial)
}

// quoteTransport returns the guest's packet as an error about it must quote it,
// made anew from what is left of it: its addresses, and the transport's header
// and payload. It is appended to dst.
func quoteTransport(dst []byte, src, to netip.Addr, proto uint8, transport []byte) []byte {
	h := ipHeader{src: src, dst: to, proto: proto, ttl: 1, length: len(transport)}
	n := len(dst)
	dst = append(dst, make([]byte, h.headersLen()-etherLen)...)
	if src.Is4() {
		putIPv4(dst[n:], &h)
	} else {
		putIPv6(dst[n:], &h)
	}
	return append(dst, transport...)
}

// errorOf4 returns what an ICMP error of the host's path is to the guest, or
// icmpNone if it is nothing to it.
func errorOf4(kind, code uint8) icmpError {
	switch kind {
	case icmpUnreachable:
		switch code {
		case 0, 6, 8, 11:
			return icmpNetUnreach
		case 2:
			return icmpProtoUnreach
		case 3:
			return icmpPortUnreach
		case 4:
			return icmpTooBig
		case 9, 10, 13:
			return icmpProhibited
		}
		return icmpHostUnreach
	case icmpTimeExceeded:
		if code == 0 {
			return icmpTimeExceed
		}
	}
	return icmpNone
}

// errorOf6 is errorOf4 for ICMPv6.
func errorOf6(kind, code uint8) icmpError {
	switch kind {
	case icmp6Unreachable:
		switch code {
		case 0, 6:
			return icmpNetUnreach
		case 1, 5:
			return icmpProhibited
		case 4:
			return icmpPortUnreach
		}
		return icmpHostUnreach
	case icmp6TooBig:
		return icmpTooBig
	case icmp6TimeExceeded:
		if code == 0 {
			return icmpTimeExceed
		}
	}
	return icmpNone
}
