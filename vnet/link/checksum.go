package link

import (
	"encoding/binary"
	"math/bits"
)

// A sum is a partial Internet checksum (RFC 1071): the ones' complement sum of
// what was added, not yet folded to 16 bits nor complemented. Its 64-bit words
// are little-endian, since a ones' complement sum may be formed in either byte
// order (section 2 (B)); fold turns it round. The zero sum is that of nothing.
type sum uint64

// add returns s with b added, as if b began at an even offset. All but the last
// piece of a sum must have an even length; [pieceSum] lifts that.
//
// Eight words at a time in one carry chain: the loop is bound by memory, not by
// the adder.
func (s sum) add(b []byte) sum {
	acc, carry := uint64(s), uint64(0)
	for len(b) >= 64 {
		w := (*[64]byte)(b)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[0:8]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[8:16]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[16:24]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[24:32]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[32:40]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[40:48]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[48:56]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[56:64]), carry)
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b), carry)
		b = b[8:]
	}
	if len(b) > 0 {
		var tail [8]byte // padded with zeros on the right: section 4.1
		copy(tail[:], b)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(tail[:]), carry)
	}
	// Adding the carry can carry once more, but then acc is 0.
	acc, carry = bits.Add64(acc, 0, carry)
	return sum(acc + carry)
}

// add16 returns s with the 16-bit number v added, as it would stand in a packet.
func (s sum) add16(v uint16) sum {
	return s.plus(sum(bits.ReverseBytes16(v)))
}

// add32 returns s with the 32-bit number v added, as it would stand in a packet.
func (s sum) add32(v uint32) sum {
	return s.plus(sum(bits.ReverseBytes32(v)))
}

// plus returns the sum of both.
func (s sum) plus(t sum) sum {
	acc, carry := bits.Add64(uint64(s), uint64(t), 0)
	return sum(acc + carry)
}

// fold returns the 16 bits of s, as a number in host order.
func (s sum) fold() uint16 {
	v := uint64(s)
	v = v>>32 + v&0xffffffff
	v = v>>32 + v&0xffffffff
	v = v>>16 + v&0xffff
	v = v>>16 + v&0xffff
	return bits.ReverseBytes16(uint16(v))
}

// checksum returns what goes into a TCP or UDP checksum field. 0 is written as
// 0xffff, its other name: in UDP 0 means that there is no checksum (RFC 768).
func (s sum) checksum() uint16 {
	if c := ^s.fold(); c != 0 {
		return c
	}
	return 0xffff
}

// A pieceSum sums bytes that come in pieces of any length.
type pieceSum struct {
	sum sum
	odd bool // the pieces so far have an odd length together
}

// add adds the next piece.
func (p *pieceSum) add(b []byte) {
	p.join(pieceSum{sum(0).add(b), len(b)&1 == 1})
}

// join adds the pieces of q behind those of p.
func (p *pieceSum) join(q pieceSum) {
	if p.odd {
		// The first byte is the right half of a word: section 2 (B).
		q.sum = sum(bits.RotateLeft64(uint64(q.sum), 8))
	}
	p.sum = p.sum.plus(q.sum)
	p.odd = p.odd != q.odd
}

// Sum returns the ones' complement sum of b and initial, as a number in host
// order, folded but not complemented: sums of parts, each but the last of even
// length, add up through initial.
func Sum(b []byte, initial uint16) uint16 {
	return sum(0).add(b).add16(initial).fold()
}
