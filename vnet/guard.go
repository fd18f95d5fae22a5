package vnet

import (
	"encoding/binary"
	"net/netip"

	"github.com/sluicenet/sluice/vnet/link"
)

// A guard judges every frame of a guest before anything else looks at it. What
// passes is a well-formed packet from this guest's card and address, of a
// protocol that somebody behind the guard answers; all the rest is dropped with
// a reason. So hostile input meets this parser, which is fuzzed, and not the
// corners of a network stack.
//
// It knows nothing of the policy. A guard is immutable and needs no lock.
type guard struct {
	guestMAC, gatewayMAC [6]byte
	guest4, gateway4     netip.Addr
	broadcast4           netip.Addr // of the guest's /30
	network4             netip.Addr // likewise
	gateway6             netip.Addr
	gatewayLocal         netip.Addr // the gateway's link-local address
	prefix6              netip.Prefix
	mtu                  int
}

// newGuard returns the guard of the guest that holds block, whose packets are
// at most mtu bytes long.
func newGuard(block Block, mtu int) *guard {
	return &guard{
		guestMAC:     macOf(block.GuestMAC),
		gatewayMAC:   macOf(block.GatewayMAC),
		guest4:       block.Guest4,
		gateway4:     block.Gateway4,
		network4:     block.Prefix4.Addr(),
		broadcast4:   block.Guest4.Next(),
		gateway6:     block.Gateway6,
		gatewayLocal: linkLocalOf(macOf(block.GatewayMAC)),
		prefix6:      block.Prefix6,
		mtu:          mtu,
	}
}

var (
	broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	// dhcp6Servers is All_DHCP_Relay_Agents_and_Servers (RFC 8415, section 7.1).
	dhcp6Servers = netip.MustParseAddr("ff02::1:2")
	// compatible6 is ::/96: the unspecified address, loopback and the
	// IPv4-compatible ones, none of which may be on a wire.
	compatible6 = netip.MustParsePrefix("::/96")
)

// check judges f and describes it in p. Only if it returns dropNone does p mean
// anything; it then refers to f's memory. It allocates nothing.
func (g *guard) check(f *link.Frame, p *packet) drop {
	b := f.Data
	*p = packet{frame: b, offload: f.Offload}
	if len(b) < etherLen {
		return dropRunt
	}
	if len(b) > etherLen+g.mtu && f.Offload.GSO == link.GSONone {
		return dropOversize
	}
	if [6]byte(b[6:12]) != g.guestMAC {
		return dropMACSource
	}
	// A group address has the lowest bit of its first byte set (IEEE 802).
	if b[0]&1 == 0 && [6]byte(b[0:6]) != g.gatewayMAC {
		return dropMACDest
	}
	if reason := g.checkNetwork(p); reason != dropNone {
		return reason
	}
	// Segments must fit the guest's own MTU, as if it had sent them one by one.
	if f.Offload.GSO != link.GSONone && p.payload-etherLen+int(f.Offload.SegmentSize) > g.mtu {
		return dropOffload
	}
	return dropNone
}

// checkWhole judges the Ethernet frame of a datagram that was put together from
// fragments: as check does, but the datagram may exceed the MTU.
func (g *guard) checkWhole(frame []byte, p *packet) drop {
	*p = packet{frame: frame}
	if reason := g.checkNetwork(p); reason != dropNone {
		return reason
	}
	// Nodes must not fragment NDP (RFC 6980, section 5), nor need DHCP clients.
	if p.kind != kindUDP && p.kind != kindEcho {
		return dropFragment
	}
	p.dontFragment = false // as it came in fragments
	return dropNone
}

func (g *guard) checkNetwork(p *packet) drop {
	switch binary.BigEndian.Uint16(p.frame[12:]) {
	case etherTypeIPv4:
		return g.checkIPv4(p)
	case etherTypeIPv6:
		return g.checkIPv6(p)
	case etherTypeARP:
		return g.checkARP(p)
	}
	return dropEtherType
}

// checkARP checks the lengths and types of an ARP packet (RFC 826); what it
// asks is for neigh.go.
func (g *guard) checkARP(p *packet) drop {
	b := p.frame[etherLen:]
	if len(b) < arpLen {
		return dropARP
	}
	if p.offload != (link.Offload{}) && p.offload != (link.Offload{ChecksumValid: true}) {
		return dropOffload
	}
	if [6]byte(b[0:6]) != arpEthernetIPv4 {
		return dropARP
	}
	p.kind = kindARP
	p.end = etherLen + arpLen
	return dropNone
}

// checkIPv4 checks the network header and goes on to the transport's.
func (g *guard) checkIPv4(p *packet) drop {
	b := p.frame[etherLen:]
	if len(b) < ipv4Len {
		return dropRunt
	}
	headerLen := int(b[0]&0xf) * 4
	if b[0]>>4 != 4 || headerLen < ipv4Len {
		return dropIPHeader
	}
	if headerLen > ipv4Len {
		if netip.AddrFrom4([4]byte(b[16:20])).IsMulticast() {
			return dropMulticast // IGMP, which every Linux speaks
		}
		return dropIPOptions
	}
	total := int(binary.BigEndian.Uint16(b[2:]))
	if total < ipv4Len || total > len(b) {
		return dropIPHeader
	}
	if sum(b[:ipv4Len], 0) != 0xffff {
		return dropIPChecksum
	}
	// The top bit is reserved and must be zero (RFC 791, section 3.1).
	frag := binary.BigEndian.Uint16(b[6:])
	if frag&0x8000 != 0 {
		return dropIPHeader
	}
	p.ttl = b[8]
	p.proto = b[9]
	p.src = netip.AddrFrom4([4]byte(b[12:16]))
	p.dst = netip.AddrFrom4([4]byte(b[16:20]))
	p.l4 = etherLen + ipv4Len
	p.end = etherLen + total
	p.dontFragment = frag&0x4000 != 0
	p.fragID = uint32(binary.BigEndian.Uint16(b[4:]))
	p.fragOffset = int(frag&0x1fff) * 8
	p.moreFrags = frag&0x2000 != 0
	if p.ttl == 0 {
		return dropTTL
	}
	if p.src == netip.IPv4Unspecified() {
		return g.checkDHCP4(p)
	}
	if p.src != g.guest4 {
		return dropSource
	}
	if p.dst == broadcast4 {
		return g.checkDHCP4(p)
	}
	if reason := g.checkDest4(p); reason != dropNone {
		return reason
	}
	if p.fragOffset != 0 || p.moreFrags {
		return p.checkFragment()
	}
	if reason := p.checkTransport(); reason != dropNone {
		return reason
	}
	// A client that renews its lease asks the server alone.
	if p.dst == g.gateway4 && p.isDHCP(68, 67) {
		p.kind = kindDHCP4
	}
	return dropNone
}

// checkDest4 drops destinations that no policy can open: they are never valid
// on a wire, or are the guest's own.
func (g *guard) checkDest4(p *packet) drop {
	d := p.dst
	switch {
	case d.IsMulticast():
		return dropMulticast
	case d.As4()[0] == 0, d.IsLoopback():
		return dropDestination
	case d == g.guest4, d == g.network4, d == g.broadcast4:
		return dropDestination
	}
	// A unicast packet in a broadcast frame is somebody else's noise (RFC 1122,
	// section 3.3.6).
	if p.frame[0]&1 != 0 {
		return dropMACDest
	}
	return dropNone
}

// checkDHCP4 passes a client's DHCP message and nothing else: the guest may
// then still be without an address (RFC 2131, section 4.1).
func (g *guard) checkDHCP4(p *packet) drop {
	if p.dst != broadcast4 && p.dst != g.gateway4 {
		return dropSource
	}
	if p.proto != protoUDP || p.fragOffset != 0 || p.moreFrags {
		return dropMulticast
	}
	if reason := p.checkTransport(); reason != dropNone {
		return reason
	}
	if !p.isDHCP(68, 67) {
		return dropMulticast
	}
	p.kind = kindDHCP4
	return dropNone
}

// isDHCP reports whether the packet is one datagram between the ports of a DHCP
// client and a server.
func (p *packet) isDHCP(client, server uint16) bool {
	return p.kind == kindUDP && p.srcPort == client && p.dstPort == server && p.offload.GSO == link.GSONone
}

// checkIPv6 checks the network header, and the one extension header that may
// be there, and goes on to the transport's.
func (g *guard) checkIPv6(p *packet) drop {
	b := p.frame[etherLen:]
	if len(b) < ipv6Len {
		return dropRunt
	}
	if b[0]>>4 != 6 {
		return dropIPHeader
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length == 0 || length > len(b)-ipv6Len {
		return dropIPHeader
	}
	p.v6 = true
	p.dontFragment = true
	p.proto = b[6]
	p.ttl = b[7]
	p.src = netip.AddrFrom16([16]byte(b[8:24]))
	p.dst = netip.AddrFrom16([16]byte(b[24:40]))
	p.l4 = etherLen + ipv6Len
	p.end = p.l4 + length
	if p.ttl == 0 {
		return dropTTL
	}
	if p.proto == protoICMPv6 && isNDP(p.frame[p.l4:p.end]) {
		return g.checkNDP(p)
	}
	if p.dst == dhcp6Servers {
		return g.checkDHCP6(p)
	}
	if p.dst.IsMulticast() {
		return dropMulticast // MLD, mDNS and the like, from any source
	}
	if !g.prefix6.Contains(p.src) || p.src == g.gateway6 {
		return dropSource
	}
	if reason := g.checkDest6(p); reason != dropNone {
		return reason
	}
	switch p.proto {
	case 0, 43, 50, 51, 59, 60, 135, 139, 140, 253, 254:
		// Hop-by-hop, routing, ESP, AH, none, destination options, mobility,
		// HIP, shim6, experiments (RFC 7045, section 3). None of our
		// protocols needs one, and chains of them hide what follows.
		return dropExtension
	case protoFragment:
		return p.checkFragmentHeader()
	}
	return p.checkTransport()
}

// checkDest6 drops destinations that no policy can open.
func (g *guard) checkDest6(p *packet) drop {
	d := p.dst
	switch {
	case d.Is4In6(), compatible6.Contains(d), d.IsLinkLocalUnicast():
		return dropDestination
	case d != g.gateway6 && g.prefix6.Contains(d):
		return dropDestination
	}
	if p.frame[0]&1 != 0 {
		return dropMACDest
	}
	return dropNone
}

// checkDHCP6 passes a client's DHCPv6 message and nothing else to the servers'
// group; a client sends it from its link-local address (RFC 8415, section 14).
func (g *guard) checkDHCP6(p *packet) drop {
	if !p.src.IsLinkLocalUnicast() || p.src == g.gatewayLocal {
		return dropSource
	}
	if p.proto != protoUDP {
		return dropMulticast
	}
	if reason := p.checkTransport(); reason != dropNone {
		return reason
	}
	if !p.isDHCP(546, 547) {
		return dropMulticast
	}
	p.kind = kindDHCP6
	return dropNone
}

// checkNDP passes solicitations from the guest (RFC 4861). Advertisements and
// redirects are a router's or a neighbour's word: nothing here learns from them.
func (g *guard) checkNDP(p *packet) drop {
	// From the guest's own addresses, its link-local one, or none yet.
	own := g.prefix6.Contains(p.src) && p.src != g.gateway6 ||
		p.src.IsLinkLocalUnicast() && p.src != g.gatewayLocal ||
		p.src == netip.IPv6Unspecified()
	if !own {
		return dropSource
	}
	// "The IP Hop Limit field has a value of 255, i.e., the packet could not
	// possibly have been forwarded by a router." (sections 6.1.1 and 7.1.1)
	b := p.frame[p.l4:p.end]
	if p.ttl != 255 || b[1] != 0 {
		return dropNDP
	}
	if b[0] != ndpNeighborSolicit && b[0] != ndpRouterSolicit {
		return dropNDP
	}
	if reason := p.checkICMPChecksum(); reason != dropNone {
		return reason
	}
	p.kind = kindNDP
	p.payload = p.l4 + 4
	return dropNone
}
