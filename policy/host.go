package policy

import (
	"net/netip"
	"slices"
)

// Host describes the machine that the sandbox runs on and the sandbox's place
// in it, as far as the classification of an address needs it. It is immutable;
// who follows the host's routes makes a new one at every change.
//
// Addresses are without zone and not IPv4-mapped. A nil *Host knows nothing:
// it classifies by ranges alone, and Decide denies everything.
type Host struct {
	Gateways []netip.Addr   // the sandbox's gateway addresses: group host
	Blocks   []netip.Prefix // the sandbox's own blocks
	Others   []netip.Prefix // blocks that other sandboxes hold: always denied
	Addrs    []netip.Addr   // every other address of the host: group host
	Ranges   []netip.Prefix // prefixes that are the host's own as a whole: group host
	NAT64    []netip.Prefix // NAT64 prefixes beside 64:ff9b::/96
}

// Classify returns the group of an address. It is the only classifier: policy,
// rebind protection, CONNECT, ICMP and UDP all ask it. The groups are disjoint,
// and every address has one, GroupNone included. A zone and the IPv4-mapped
// form are ignored; an address in NAT64 form has the group of the IPv4 address
// inside; the invalid Addr has none.
//
// The order is the contract's:
//  1. unspecified: none
//  2. a gateway: host
//  3. metadata, loopback, multicast, fe80::/10
//  4. another address of the host: host
//  5. private, link-local, reserved (none), else public
func (h *Host) Classify(a netip.Addr) Group {
	a = a.Unmap().WithZone("")
	if inner, ok := h.nat64(a); ok {
		a = inner
	}
	return h.classify(a).group
}

// classify returns the class of an address that is canonical and not of NAT64
// form, with what depends on the host, but without other sandboxes' blocks.
func (h *Host) classify(a netip.Addr) class {
	c, _ := classes.Lookup(a)
	if h == nil || c.denied == deniedUnspecified {
		return c
	}
	if slices.Contains(h.Gateways, a) {
		return class{group: GroupHost}
	}
	switch c.group {
	case GroupMetadata, GroupLoopback, GroupMulticast:
		return c
	}
	if c.denied == deniedLinkLocal6 {
		return c
	}
	if slices.Contains(h.Addrs, a) || containedIn(h.Ranges, a) {
		return class{group: GroupHost}
	}
	if isISATAP(a) {
		return class{group: GroupNone}
	}
	return c
}

// wellKnownNAT64 is the prefix of RFC 6052 section 2.1.
var wellKnownNAT64 = netip.MustParsePrefix("64:ff9b::/96")

// nat64 returns the IPv4 address inside an address of a NAT64 prefix.
func (h *Host) nat64(a netip.Addr) (netip.Addr, bool) {
	if !a.Is6() {
		return netip.Addr{}, false
	}
	if wellKnownNAT64.Contains(a) {
		return embedded(a, wellKnownNAT64.Bits())
	}
	if h == nil {
		return netip.Addr{}, false
	}
	for _, p := range h.NAT64 {
		if p.Contains(a) && !h.isSpecial(a) {
			return embedded(a, p.Bits())
		}
	}
	return netip.Addr{}, false
}

// isSpecial reports whether an address is one that a prefix of NAT64 can't make
// anything else of: always denied, the host's own, or a metadata service's. Which
// prefixes there are is what some resolver says.
func (h *Host) isSpecial(a netip.Addr) bool {
	c := h.classify(a)
	return c.denied != "" || c.group == GroupHost || c.group == GroupMetadata
}

// embedded takes the IPv4 address out of an IPv6 address behind a prefix of the
// given length, RFC 6052 section 2.2: the bits behind the prefix, of which bits
// 64 to 71 are left out.
func embedded(a netip.Addr, bits int) (netip.Addr, bool) {
	switch bits {
	case 32, 40, 48, 56, 64, 96:
	default:
		return netip.Addr{}, false
	}
	b := a.As16()
	var v4 [4]byte
	from := bits / 8
	for i := range v4 {
		if from == 8 && bits != 96 {
			from++
		}
		v4[i] = b[from]
		from++
	}
	return netip.AddrFrom4(v4), true
}

// A place is what the walk knows of a flow's peer.
type place struct {
	addr   netip.Addr // as it travels: no zone, never IPv4-mapped
	judged netip.Addr // the IPv4 address inside if addr is of NAT64 form, else addr
	group  Group      // of judged
	denied string     // why no rule can open it; "" if a rule can
}

// place looks an address up, which must be valid, not mapped and without zone.
func (h *Host) place(a netip.Addr) place {
	p := place{addr: a, judged: a}
	inner, nat64 := h.nat64(a)
	if nat64 {
		p.judged = inner
	}
	c := h.classify(p.judged)
	p.group, p.denied = c.group, c.denied
	switch {
	case p.denied != "":
	case nat64 && p.group == GroupHost:
		p.denied = deniedNAT64Host
	case nat64 && p.group == GroupNone:
		p.denied = deniedNAT64None
	case containedIn(h.Others, p.judged) || nat64 && containedIn(h.Others, a):
		p.denied = deniedOther
	case isBlockEdge(h.Blocks, p.judged):
		p.denied = deniedBlockEdge
	}
	return p
}

// AlwaysDenied reports whether no rule can open an address for egress, and why,
// in one clause. It takes the address as it travels: the IPv4-mapped form and a
// zone are reasons.
func (h *Host) AlwaysDenied(a netip.Addr) (why string, denied bool) {
	switch {
	case !a.IsValid():
		return deniedUnspecified, true
	case a.Is4In6():
		return deniedMapped, true
	case a.Zone() != "":
		return deniedLinkLocal6, true
	}
	if h == nil {
		h = new(Host)
	}
	why = h.place(a).denied
	return why, why != ""
}

func containedIn(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// isBlockEdge reports whether a is the network or, for IPv4, the broadcast
// address of one of the blocks.
func isBlockEdge(blocks []netip.Prefix, a netip.Addr) bool {
	for _, p := range blocks {
		if !p.Contains(a) {
			continue
		}
		if a == p.Masked().Addr() || a.Is4() && !p.Contains(a.Next()) {
			return true
		}
	}
	return false
}
