package vnet

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"net/netip"
)

// A Block is one sandbox's part of the address pools: a /30 and a /64.
type Block struct {
	Prefix4, Prefix6   netip.Prefix
	Gateway4, Gateway6 netip.Addr // +1, ::1
	Guest4, Guest6     netip.Addr // +2, ::2
	GuestMAC           net.HardwareAddr
	GatewayMAC         net.HardwareAddr
}

// Pools that are used where none is named, and the blocks that they are cut
// into, in bits of prefix.
var (
	defaultPool4 = netip.MustParsePrefix("172.16.0.0/12")
	defaultPool6 = netip.MustParsePrefix("fd42:6d73:62::/48")
)

const (
	blockBits4 = 30
	blockBits6 = 64
)

// A Pool is the pair of prefixes that sandboxes' blocks are cut from. It is
// arithmetic only: who holds which block is not its business. The zero Pool has
// no block; make one with [NewPool].
type Pool struct {
	prefix4, prefix6 netip.Prefix
}

// NewPool returns the pool of two prefixes, whose host bits are masked; a zero
// Prefix means the default, 172.16.0.0/12 and fd42:6d73:62::/48. It fails if a
// prefix is of the wrong family or too long to hold a block.
func NewPool(prefix4, prefix6 netip.Prefix) (Pool, error) {
	if prefix4 == (netip.Prefix{}) {
		prefix4 = defaultPool4
	}
	if prefix6 == (netip.Prefix{}) {
		prefix6 = defaultPool6
	}
	switch {
	case !prefix4.IsValid(), !prefix4.Addr().Is4():
		return Pool{}, fmt.Errorf("pool %v is not an IPv4 prefix", prefix4)
	case prefix4.Bits() > blockBits4:
		return Pool{}, fmt.Errorf("IPv4 pool %v is longer than /%d: it holds no block", prefix4, blockBits4)
	case !prefix6.IsValid(), !prefix6.Addr().Is6(), prefix6.Addr().Is4In6():
		return Pool{}, fmt.Errorf("pool %v is not an IPv6 prefix", prefix6)
	case prefix6.Bits() > blockBits6:
		return Pool{}, fmt.Errorf("IPv6 pool %v is longer than /%d: it holds no block", prefix6, blockBits6)
	}
	return Pool{prefix4: prefix4.Masked(), prefix6: prefix6.Masked()}, nil
}

// Prefixes returns the two prefixes, masked.
func (p Pool) Prefixes() (prefix4, prefix6 netip.Prefix) { return p.prefix4, p.prefix6 }

// String returns the two prefixes, as errors name the pool.
func (p Pool) String() string { return fmt.Sprintf("%v and %v", p.prefix4, p.prefix6) }

// Capacity returns how many blocks the pool holds: as many as the smaller of
// its two prefixes does.
func (p Pool) Capacity() int {
	if !p.prefix4.IsValid() || !p.prefix6.IsValid() {
		return 0
	}
	bits := min(blockBits4-p.prefix4.Bits(), blockBits6-p.prefix6.Bits())
	return int(min(uint64(1)<<bits, math.MaxInt))
}

// Block returns the i-th block, counted from 0, and reports false if the pool
// ends before it.
func (p Pool) Block(i int) (Block, bool) {
	if i < 0 || i >= p.Capacity() {
		return Block{}, false
	}
	a4 := p.prefix4.Addr().As4()
	base4 := binary.BigEndian.Uint32(a4[:]) + uint32(i)<<(32-blockBits4)
	a6 := p.prefix6.Addr().As16()
	base6 := binary.BigEndian.Uint64(a6[:8]) + uint64(i)
	return Block{
		Prefix4:    netip.PrefixFrom(addr4(base4), blockBits4),
		Prefix6:    netip.PrefixFrom(addr6(base6, 0), blockBits6),
		Gateway4:   addr4(base4 + 1),
		Gateway6:   addr6(base6, 1),
		Guest4:     addr4(base4 + 2),
		Guest6:     addr6(base6, 2),
		GuestMAC:   blockMAC(base4 + 2),
		GatewayMAC: blockMAC(base4 + 1),
	}, true
}

// Index returns the number of the block that holds a, and reports false if none
// does.
func (p Pool) Index(a netip.Addr) (int, bool) {
	var i uint64
	switch {
	case p.prefix4.Contains(a):
		b, base := a.As4(), p.prefix4.Addr().As4()
		i = uint64(binary.BigEndian.Uint32(b[:])-binary.BigEndian.Uint32(base[:])) >> (32 - blockBits4)
	case p.prefix6.Contains(a):
		b, base := a.As16(), p.prefix6.Addr().As16()
		i = binary.BigEndian.Uint64(b[:8]) - binary.BigEndian.Uint64(base[:8])
	default:
		return 0, false
	}
	if i >= uint64(p.Capacity()) {
		return 0, false
	}
	return int(i), true
}

func addr4(a uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], a)
	return netip.AddrFrom4(b)
}

func addr6(high, low uint64) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], high)
	binary.BigEndian.PutUint64(b[8:], low)
	return netip.AddrFrom16(b)
}

// blockMAC returns a locally administered unicast MAC (its second lowest bit
// set, the lowest not) that is as unique as the IPv4 address a. 02:73 keeps
// clear of 02:42, which Docker uses in the same way.
func blockMAC(a uint32) net.HardwareAddr {
	return net.HardwareAddr(binary.BigEndian.AppendUint32([]byte{0x02, 0x73}, a))
}
