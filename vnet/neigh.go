package vnet

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// ARP (RFC 826) and NDP (RFC 4861) messages, in bytes and numbers.
const (
	arpLen     = 28
	arpRequest = 1
	arpReply   = 2

	ndpRouterSolicit   = 133
	ndpRouterAdvert    = 134
	ndpNeighborSolicit = 135
	ndpNeighborAdvert  = 136
	ndpRedirect        = 137
	ndpSolicitLen      = 24 // without options
	ndpSourceLinkLayer = 1  // option
	ndpTargetLinkLayer = 2  // option
)

// arpEthernetIPv4 is what the only ARP that we speak begins with: hardware
// type, protocol type and the lengths of both addresses.
var arpEthernetIPv4 = [6]byte{0, 1, 0x08, 0x00, 6, 4}

// allNodes is the group of every node on the link (RFC 4291, section 2.7.1).
var allNodes = netip.MustParseAddr("ff02::1")

// A neighbour answers ARP and NDP for the gateway's addresses, and for no
// other: a guest that asks for somebody else's, or probes its own, hears
// nothing. It learns nothing either, so that no flood of false claims can fill
// or change anything. It is immutable and needs no lock.
type neighbour struct {
	guard   *guard
	builder *builder
}

// answer appends the answer to p, of kind ARP or NDP, to out, or returns why
// there is none. Router solicitations are for autoconf.go.
func (n *neighbour) answer(out *batch, p *packet) drop {
	if p.kind == kindARP {
		return n.answerARP(out, p)
	}
	b := p.frame[p.l4:p.end]
	if b[0] == ndpNeighborSolicit {
		return n.answerSolicit(out, p, b)
	}
	return dropNDP
}

func (n *neighbour) answerARP(out *batch, p *packet) drop {
	b := p.frame[etherLen:p.end]
	sender := netip.AddrFrom4([4]byte(b[14:18]))
	target := netip.AddrFrom4([4]byte(b[24:28]))
	switch {
	case binary.BigEndian.Uint16(b[6:]) != arpRequest, target != n.guard.gateway4:
		return dropARP
	case [6]byte(b[8:14]) != n.guard.guestMAC:
		return dropARP
	case sender != n.guard.guest4 && sender != netip.IPv4Unspecified():
		// From 0.0.0.0 comes a probe (RFC 5227): the gateway defends its address.
		return dropARP
	}
	f := out.add(etherLen + arpLen)
	n.builder.putEther(f, etherTypeARP)
	r := f[etherLen:]
	copy(r, arpEthernetIPv4[:])
	binary.BigEndian.PutUint16(r[6:], arpReply)
	copy(r[8:], n.guard.gatewayMAC[:])
	copy(r[14:], b[24:28])
	copy(r[18:], b[8:18])
	return dropNone
}

// answerSolicit answers the neighbour solicitation in b, following the checks of
// RFC 4861, section 7.1.1.
func (n *neighbour) answerSolicit(out *batch, p *packet, b []byte) drop {
	if len(b) < ndpSolicitLen {
		return dropNDP
	}
	target := netip.AddrFrom16([16]byte(b[8:24]))
	if target != n.guard.gateway6 && target != n.guard.gatewayLocal {
		return dropNDP
	}
	hasSource, ok := scanOptions(b[ndpSolicitLen:])
	if !ok {
		return dropNDP
	}
	// "Solicited" is for an answer to somebody; a probe (RFC 4862, section
	// 5.4.3) has no address yet, and all nodes hear who holds it.
	flags, dst := byte(0xe0), p.src // router, solicited, override
	if p.src == netip.IPv6Unspecified() {
		if hasSource || p.dst != solicitedNode(target) {
			return dropNDP
		}
		flags, dst = 0xa0, allNodes
	}

	const length = ndpSolicitLen + 8
	f := out.add(etherLen + ipv6Len + length)
	n.builder.putIP(f, &ipHeader{src: target, dst: dst, proto: protoICMPv6, ttl: 255, length: length})
	if dst == allNodes {
		group := dst.As16()
		copy(f, []byte{0x33, 0x33})
		copy(f[2:6], group[12:])
	}
	r := f[etherLen+ipv6Len:]
	clear(r)
	r[0] = ndpNeighborAdvert
	r[4] = flags
	copy(r[8:], b[8:24])
	r[24], r[25] = ndpTargetLinkLayer, 1
	copy(r[26:], n.guard.gatewayMAC[:])
	putChecksum(r, 2, pseudoSum(target, dst, protoICMPv6, length))
	return dropNone
}

// scanOptions walks NDP options. It reports whether they hold a source
// link-layer address, and whether they are sound: "All included options have a
// length that is greater than zero."
func scanOptions(b []byte) (hasSource, ok bool) {
	for len(b) > 0 {
		if len(b) < 8 || b[1] == 0 || len(b) < int(b[1])*8 {
			return false, false
		}
		hasSource = hasSource || b[0] == ndpSourceLinkLayer
		b = b[int(b[1])*8:]
	}
	return hasSource, true
}

// isNDP reports whether an ICMPv6 message is one of RFC 4861's.
func isNDP(b []byte) bool {
	return len(b) >= 4 && b[0] >= ndpRouterSolicit && b[0] <= ndpRedirect
}

// solicitedNode returns the group in which the holder of a is asked for (RFC
// 4291, section 2.7.1).
func solicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0xff, 0x02, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// linkLocalOf returns the link-local address that a card's MAC gives it (RFC
// 4291, appendix A).
func linkLocalOf(mac [6]byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff,
		12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}

// macOf returns a MAC as a comparable value; one that is not 6 bytes long is
// the zero MAC, which no guest has.
func macOf(a net.HardwareAddr) [6]byte {
	if len(a) != 6 {
		return [6]byte{}
	}
	return [6]byte(a)
}
