package vnet

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// The Internet checksum of RFC 1071. A sum is kept as a 16-bit one's complement
// number in network order, not yet complemented, so that sums of parts add up.

// sum returns the one's complement sum of b, added to initial. An odd last byte
// counts as if a zero followed it; only the last of several parts may be odd.
func sum(b []byte, initial uint16) uint16 {
	// Eight bytes at a time with the carry kept: a one's complement sum does not
	// care how wide its words are (RFC 1071, section 2 (C)). Little-endian words
	// need no swap on the machines that we run on; the result is swapped once.
	var acc, carry uint64
	for len(b) >= 64 {
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[0:8]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[8:16]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[16:24]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[24:32]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[32:40]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[40:48]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[48:56]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[56:64]), carry)
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b), carry)
		b = b[8:]
	}
	var rest uint64
	for i := len(b) - 1; i >= 0; i-- {
		rest = rest<<8 | uint64(b[i])
	}
	acc, carry = bits.Add64(acc, rest, carry)
	acc, carry = bits.Add64(acc, 0, carry)
	acc += carry // cannot overflow: a sum that has just carried is zero
	return addSums(bits.ReverseBytes16(fold(acc)), initial)
}

// fold reduces a wide one's complement sum to 16 bits.
func fold(acc uint64) uint16 {
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	return uint16(acc)
}

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
