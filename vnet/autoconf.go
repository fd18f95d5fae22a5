package vnet

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/time/rate"
)

const (
	// leaseTime is how long a DHCP lease holds. The address is the guest's for
	// life; a day keeps renewals rare and lets a guest notice a new MTU.
	leaseTime = 24 * time.Hour
	// routerLifetime is how long a guest keeps us as its default router without
	// another advertisement, in seconds (RFC 4861, section 6.2.1: at most 9000).
	// A guest that has had one never asks again, so advertiseInterval is the
	// longest that the section allows.
	routerLifetime    = 9000
	advertiseInterval = 30 * time.Minute
	// infinite is NDP's lifetime without an end.
	infinite = 0xffffffff
	// autoconfPerSecond bounds the answers to a guest that asks in a loop; a
	// client's whole exchange takes four.
	autoconfPerSecond = 20
)

// NDP options of a router advertisement: RFC 4861 section 4.6, RFC 8106 section 5.1.
const (
	ndpPrefix    = 3
	ndpMTU       = 5
	ndpRDNSS     = 25
	ndpAdvertLen = 16
)

// Families is a set of address families. Its zero value is empty.
type Families uint8

const (
	FamilyIPv4 Families = 1 << iota
	FamilyIPv6
)

// An autoconf lets a guest that nobody has configured configure itself: one
// fixed DHCPv4 lease, router advertisements for the /64, and stateless DHCPv6.
// Answers are made on the reader's goroutine.
type autoconf struct {
	block   Block
	mtu     int
	guard   *guard
	builder *builder
	// unusable tells the families that the host has no route for: the guest
	// gets their addresses, and no default route.
	unusable func() Families
	limit    *rate.Limiter
	asked    atomic.Bool // the guest has solicited a router: it lives by advertisements
}

func newAutoconf(block Block, mtu int, g *guard, b *builder, unusable func() Families) *autoconf {
	return &autoconf{
		block: block, mtu: mtu, guard: g, builder: b, unusable: unusable,
		limit: rate.NewLimiter(autoconfPerSecond, autoconfPerSecond),
	}
}

// answer appends the answer to p, a DHCP message or a router solicitation, to
// out, or returns why there is none.
func (a *autoconf) answer(out *batch, p *packet, now time.Time) drop {
	if !a.limit.AllowN(now, 1) {
		return dropAutoconfRate
	}
	switch p.kind {
	case kindDHCP4:
		return a.answerDHCP4(out, p)
	case kindDHCP6:
		return a.answerDHCP6(out, p)
	}
	a.asked.Store(true)
	a.appendAdvert(out, p.src)
	return dropNone
}

// answerDHCP4 answers as the server of one lease (RFC 2131, section 4.3).
func (a *autoconf) answerDHCP4(out *batch, p *packet) drop {
	m, err := dhcpv4.FromBytes(p.frame[p.payload:p.end])
	if err != nil || m.OpCode != dhcpv4.OpcodeBootRequest || macOf(m.ClientHWAddr) != a.guard.guestMAC {
		return dropDHCP
	}
	var kind dhcpv4.MessageType
	yours := a.block.Guest4
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
	case dhcpv4.MessageTypeRequest:
		kind = a.request4(m)
	case dhcpv4.MessageTypeInform:
		kind, yours = dhcpv4.MessageTypeAck, netip.IPv4Unspecified()
	}
	if kind == dhcpv4.MessageTypeNone {
		return dropDHCP // a release, a decline, another server's client
	}
	reply, err := dhcpv4.NewReplyFromRequest(m, a.options4(kind, yours)...)
	if err != nil {
		return dropDHCP
	}
	to := netip.AddrPortFrom(a.block.Guest4, 68)
	if m.IsBroadcast() || kind == dhcpv4.MessageTypeNak {
		to = netip.AddrPortFrom(broadcast4, 68)
	}
	// The frame goes to the guest's card in any case: there is nobody else.
	a.builder.appendUDP(out, netip.AddrPortFrom(a.block.Gateway4, 67), to, reply.ToBytes())
	return dropNone
}

// request4 says what a DHCPREQUEST gets: an ACK for the lease, a NAK for any
// other address, silence if it is another server's.
func (a *autoconf) request4(m *dhcpv4.DHCPv4) dhcpv4.MessageType {
	if id := m.ServerIdentifier(); id != nil && !id.Equal(a.block.Gateway4.AsSlice()) {
		return dhcpv4.MessageTypeNone
	}
	asked := m.RequestedIPAddress()
	if asked == nil {
		asked = m.ClientIPAddr
	}
	if !asked.Equal(a.block.Guest4.AsSlice()) {
		return dhcpv4.MessageTypeNak
	}
	return dhcpv4.MessageTypeAck
}

// options4 is what the reply says beside the request's own fields.
func (a *autoconf) options4(kind dhcpv4.MessageType, yours netip.Addr) []dhcpv4.Modifier {
	gateway := net.IP(a.block.Gateway4.AsSlice())
	mods := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithServerIP(gateway),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(gateway)),
	}
	if kind == dhcpv4.MessageTypeNak {
		return mods
	}
	mods = append(mods,
		dhcpv4.WithNetmask(net.CIDRMask(a.block.Prefix4.Bits(), 32)),
		dhcpv4.WithDNS(gateway),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, binary.BigEndian.AppendUint16(nil, uint16(a.mtu)))))
	if a.unusable()&FamilyIPv4 == 0 {
		mods = append(mods, dhcpv4.WithRouter(gateway))
	}
	if !yours.IsUnspecified() { // "MUST NOT send a lease expiration time" to an INFORM
		mods = append(mods, dhcpv4.WithYourIP(yours.AsSlice()), dhcpv4.WithLeaseTime(uint32(leaseTime/time.Second)))
	}
	return mods
}

// answerDHCP6 answers the one message of stateless DHCPv6 (RFC 8415, section
// 18.3.6): the address comes from the router's advertisement.
func (a *autoconf) answerDHCP6(out *batch, p *packet) drop {
	m, err := dhcpv6.MessageFromBytes(p.frame[p.payload:p.end])
	if err != nil || m.MessageType != dhcpv6.MessageTypeInformationRequest {
		return dropDHCP
	}
	us := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: a.block.GatewayMAC}
	if id := m.Options.ServerID(); id != nil && !id.Equal(us) {
		return dropDHCP
	}
	reply := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: m.TransactionID}
	if id := m.GetOneOption(dhcpv6.OptionClientID); id != nil { // a client may go without
		reply.AddOption(id)
	}
	reply.AddOption(dhcpv6.OptServerID(us))
	reply.AddOption(dhcpv6.OptDNS(a.block.Gateway6.AsSlice()))
	a.builder.appendUDP(out, netip.AddrPortFrom(a.guard.gatewayLocal, 547), netip.AddrPortFrom(p.src, 546), reply.ToBytes())
	return dropNone
}

// appendAdvert appends a router advertisement (RFC 4861, section 4.2) to dst, or
// to all nodes if dst is no address: addresses by themselves (M=0), the rest by
// stateless DHCPv6 (O=1).
func (a *autoconf) appendAdvert(out *batch, dst netip.Addr) {
	if dst.IsUnspecified() {
		dst = allNodes
	}
	lifetime := uint16(routerLifetime)
	if a.unusable()&FamilyIPv6 != 0 {
		lifetime = 0 // a router, but not a way out
	}
	m := make([]byte, ndpAdvertLen, 256)
	m[0], m[4], m[5] = ndpRouterAdvert, gatewayTTL, 0x40 // type, hop limit, O
	binary.BigEndian.PutUint16(m[6:], lifetime)
	m = append(m, ndpSourceLinkLayer, 1)
	m = append(m, a.guard.gatewayMAC[:]...)
	m = append(m, ndpMTU, 1, 0, 0)
	m = binary.BigEndian.AppendUint32(m, uint32(a.mtu))
	// A without L: the guest makes addresses of the prefix, and sends to all
	// others of it by way of us.
	m = appendPrefix(m, a.block.Prefix6, 0x40)
	// The way to the gateway's own address stays when the default route goes. L, as
	// few guests heed the routes of RFC 4191.
	m = appendPrefix(m, netip.PrefixFrom(a.block.Gateway6, 128), 0x80)
	m = append(m, ndpRDNSS, 3, 0, 0)
	m = append(binary.BigEndian.AppendUint32(m, infinite), a.block.Gateway6.AsSlice()...)

	f := out.add(etherLen + ipv6Len + len(m))
	a.builder.putIP(f, &ipHeader{src: a.guard.gatewayLocal, dst: dst, proto: protoICMPv6, ttl: 255, length: len(m)})
	if dst == allNodes {
		copy(f, allNodesMAC[:])
	}
	r := f[etherLen+ipv6Len:]
	copy(r, m)
	putChecksum(r, 2, pseudoSum(a.guard.gatewayLocal, dst, protoICMPv6, len(m)))
}

// appendPrefix appends an option that tells a prefix with its flags (RFC 4861,
// section 4.6.2).
func appendPrefix(m []byte, p netip.Prefix, flags byte) []byte {
	m = append(m, ndpPrefix, 4, byte(p.Bits()), flags)
	m = binary.BigEndian.AppendUint32(m, infinite)
	m = binary.BigEndian.AppendUint32(m, infinite)
	return append(append(m, 0, 0, 0, 0), p.Addr().AsSlice()...)
}

// allNodesMAC is the Ethernet group of ff02::1 (RFC 2464, section 7).
var allNodesMAC = [6]byte{0x33, 0x33, 0, 0, 0, 1}

// advertise is a goroutine that renews, at every tick, what a guest that has
// asked for a router knows of it.
func (n *Network) advertise(tick <-chan time.Time) {
	for {
		select {
		case <-tick:
		case <-n.ctx.Done():
			return
		}
		if n.autoconf.asked.Load() {
			var out batch
			n.autoconf.appendAdvert(&out, allNodes)
			n.send(&out)
		}
	}
}

// SetUnusable tells which families the host has no route for, and tells the
// guest with an advertisement; DHCPv4 guests learn it with their next renewal.
func (n *Network) SetUnusable(f Families) error {
	if n.unusable.Swap(uint32(f)) == uint32(f) {
		return nil
	}
	var out batch
	n.autoconf.appendAdvert(&out, allNodes)
	if err := n.write(out.frames); err != nil {
		return fmt.Errorf("advertise routes to guest: %w", err)
	}
	return nil
}
