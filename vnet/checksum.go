package vnet

import (
	"net/netip"

	"github.com/sluicenet/sluice/vnet/link"
)

// The Internet checksum of RFC 1071. A sum is kept as a 16-bit one's complement
// number in network order, not yet complemented, so that sums of parts add up.

// sum returns the one's complement sum of b, added to initial. An odd last byte
// counts as if a zero followed it; only the last of several parts may be odd.
func sum(b []byte, initial uint16) uint16 { return link.Sum(b, initial) }

// addSums adds two one's complement sums.
func addSums(a, b uint16) uint16 {
	s := uint32(a) + uint32(b)
	return uint16(s>>16 + s&0xffff)
}

// pseudoSum returns the sum of the pseudo-header that TCP, UDP and ICMPv6 add
// to their own (RFC 9293, section 3.1; RFC 8200, section 8.1): addresses of one
// family, the protocol and the length of the transport header and payload.
func pseudoSum(src, dst netip.Addr, proto uint8, length int) uint16 {
	s := addSums(uint16(proto), uint16(length))
	s = addSums(s, uint16(length>>16))
	if src.Is4() {
		a, b := src.As4(), dst.As4()
		return sum(b[:], sum(a[:], s))
	}
	a, b := src.As16(), dst.As16()
	return sum(b[:], sum(a[:], s))
}

// checksumField turns a finished sum into what UDP puts on the wire: its
// complement, with zero, which means none, written as all ones (RFC 768). TCP
// and ICMP may carry either zero, so that all builders use it.
func checksumField(s uint16) uint16 {
	if s == 0xffff {
		return 0xffff
	}
	return ^s
}
