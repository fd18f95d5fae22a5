package policy

import (
	"net/netip"
	"slices"
)

// A universe is a finite set of flows that stands for all: whatever the rules
// tell apart, it holds one of. Between two ends of a prefix, of the rules or of
// the classes, all addresses are alike, and between two ends of a port range all
// ports; so one of each is enough, and what holds for these flows holds for all.
//
// The host is represented by one gateway of each family. Its other addresses,
// and other sandboxes' blocks, are unknown when a policy is judged.
type universe struct {
	p      *Policy
	cells  []cell
	egress []flowKind // every kind of egress
	allows []int      // flattened indices of the domain rules that allow
}

// A cell is a range of addresses that are alike, by its first one. The vectors
// are those of the address in the policy's index.
type cell struct {
	place
	byPrefix, byOuter vector
}

// newUniverse returns the universe of a policy's rules, and of further
// destinations.
func newUniverse(p *Policy, further ...Destination) *universe {
	u := &universe{p: p}
	for i := range p.rules {
		further = append(further, p.rules[i].Destination)
		if p.rules[i].Action == Allow && p.rules[i].Destination.IsDomain() {
			u.allows = append(u.allows, i)
		}
	}
	firsts := firstAddresses(further)
	h := &Host{Gateways: gatewaysBeside(firsts, p.index)}
	// The gateway is taken out of the cell that it lies in, whose rest goes on at
	// the address behind it.
	for _, g := range h.Gateways {
		firsts = append(firsts, g, g.Next())
	}
	slices.SortFunc(firsts, netip.Addr.Compare)
	for _, a := range slices.Compact(firsts) {
		c := cell{place: h.place(a)}
		c.byPrefix, _ = p.index.byPrefix.Lookup(c.judged)
		if c.judged != c.addr { // NAT64: denies may name the form that travels
			c.byOuter, _ = p.index.byPrefix.Lookup(c.addr)
		}
		u.cells = append(u.cells, c)
	}
	u.egress = u.kinds(&Rule{Direction: Egress})
	return u
}

// firstAddresses returns the first address of every cell: where a prefix begins
// and where it has just ended. Those of IPv4 are there in NAT64 form as well.
func firstAddresses(destinations []Destination) []netip.Addr {
	var firsts []netip.Addr
	add := func(p netip.Prefix) {
		firsts = append(firsts, p.Addr())
		// Behind the last address of all there is none.
		if next := lastAddress(p).Next(); next.IsValid() {
			firsts = append(firsts, next)
		}
	}
	for p := range classes.All() {
		add(p)
	}
	add(wellKnownNAT64)
	for _, d := range destinations {
		if d.kind == destPrefix {
			add(d.prefix)
		}
	}
	for _, a := range slices.Clone(firsts) {
		if a.Is4() {
			firsts = append(firsts, nat64Form(a))
		}
	}
	return firsts
}

// lastAddress returns the last address of a masked prefix.
func lastAddress(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// nat64Form returns an IPv4 address in the well-known NAT64 form.
func nat64Form(v4 netip.Addr) netip.Addr {
	b := wellKnownNAT64.Addr().As16()
	inner := v4.As4()
	copy(b[12:], inner[:])
	return netip.AddrFrom16(b)
}

// gatewaysBeside returns one address of each family to stand for the host: in
// as few prefixes of the rules as there are, since nobody knows where it is.
func gatewaysBeside(firsts []netip.Addr, ix *index) []netip.Addr {
	var best [2]netip.Addr
	var least [2]int
	for _, a := range firsts {
		// The pools that gateways come from are private or public, never special;
		// and what is judged by the address inside is no place for one.
		c, _ := classes.Lookup(a)
		if c.group != GroupPrivate && c.group != GroupPublic || wellKnownNAT64.Contains(a) {
			continue
		}
		family := 0
		if a.Is6() {
			family = 1
		}
		in, _ := ix.byPrefix.Lookup(a)
		if n := in.count(); !best[family].IsValid() || n < least[family] {
			best[family], least[family] = a, n
		}
	}
	return best[:]
}

// A flowKind is a slice of the universe: the flows of one direction and protocol
// whose ports are alike.
type flowKind struct {
	direction Direction
	protocol  Protocol
	port      uint16 // one of them, 53 only if there is no other; 0 for ICMP
	interval  *portInterval
}

// kinds returns the kinds of flows that a rule fits.
func (u *universe) kinds(r *Rule) []flowKind {
	var kinds []flowKind
	for _, d := range []Direction{Egress, Ingress} {
		for proto := TCP; proto <= ICMPv6; proto++ {
			if !r.fitsProtocol(d, proto) {
				continue
			}
			intervals := u.p.index.ports[d][proto]
			for k := range intervals {
				first, last := intervals.bounds(k)
				switch {
				case !proto.HasPorts():
					first = 0
				case first > last || !r.fitsPort(proto, first):
					continue
				case first == 53 && last > 53:
					first++ // flows to 53 are queries, of which reachable counts none
				}
				kinds = append(kinds, flowKind{d, proto, first, &intervals[k]})
			}
		}
	}
	return kinds
}

// has reports whether there are flows of the kind with a peer in the cell: each
// ICMP belongs to one family.
func (k flowKind) has(c *cell) bool {
	switch k.protocol {
	case ICMPv4:
		return c.addr.Is4()
	case ICMPv6:
		return c.addr.Is6()
	}
	return true
}

// denied returns why the flows of the kind with a peer in the cell are always
// denied, or "".
func (k flowKind) denied(c *cell) string {
	// A peer on the host's own loopback is the host; one that only claims to be,
	// inside a NAT64 address, isn't.
	if k.direction == Ingress && c.group == GroupLoopback && c.judged == c.addr {
		return ""
	}
	return c.denied
}

// group returns the group of the cell for flows of the kind.
func (k flowKind) group(c *cell) Group {
	if k.direction == Ingress && c.group == GroupLoopback {
		return GroupHost
	}
	return c.group
}

// decides returns the index of the address rule that decides the flows of a
// kind in a cell; the index behind the last for the default.
func (u *universe) decides(k flowKind, c *cell) int {
	return u.p.index.nextAddress(0, len(u.p.rules), k.interval.fits, u.p.index.byGroup[k.group(c)], c.byPrefix, c.byOuter)
}

// matches reports whether a rule that fits the kind could match a flow with a
// peer in the cell. A domain stands for all public addresses.
func (u *universe) matches(r *Rule, k flowKind, c *cell) bool {
	if r.Destination.IsDomain() {
		return k.direction == Egress && c.group == GroupPublic
	}
	at := c.place
	at.group = k.group(c)
	yes, _ := r.matchPlace(&at)
	return yes
}
