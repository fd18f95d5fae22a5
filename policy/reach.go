package policy

import (
	"net/netip"
	"slices"
)

// MayReach reports whether a TCP flow to d could ever be allowed: for a domain,
// one that shows a name of d at an address that the configured resolver gave for
// it, which takes a query that is permitted; for other destinations, one to an
// address of d. A secret for a host that can't be reached is a mistake.
func (p *Policy) MayReach(d Destination) bool {
	if p == nil {
		return false
	}
	// d itself is among the ends that part the universe: a prefix that no rule has
	// would otherwise lie inside a cell, by whose first address it is not judged.
	u := newUniverse(p, d)
	if d.IsDomain() {
		return slices.ContainsFunc(p.namesIn(d), u.reachesName)
	}
	r := Rule{Destination: d, Protocols: ProtocolsOf(TCP)}
	for _, k := range u.kinds(&r) {
		for n := range u.cells {
			if c := &u.cells[n]; u.matches(&r, k, c) && k.denied(c) == "" && p.action(u.decides(k, c), Egress) == Allow {
				return true
			}
		}
	}
	return false
}

// namesIn returns names that stand for all of d: the name itself, or of its
// subdomains those that a rule names, and one that none does.
func (p *Policy) namesIn(d Destination) []string {
	names := []string{d.anyName()}
	if d.kind == destDomain {
		return names
	}
	for i := range p.rules {
		if name := p.rules[i].Destination.anyName(); d.matchesName(name) {
			names = append(names, name)
		}
	}
	return names
}

// reachesName reports whether a TCP flow that shows the name could be allowed.
func (u *universe) reachesName(name string) bool {
	// Either transport will do: resolvers repeat over TCP what UDP doesn't answer.
	udp := u.p.PermitDNS(Query{Name: name, Transport: UDP})
	tcp := u.p.PermitDNS(Query{Name: name, Transport: TCP})
	if udp.Action != Allow && tcp.Action != Allow {
		return false
	}
	return slices.ContainsFunc(u.cells, func(c cell) bool {
		// What rebinding protection takes out of answers is never learnt.
		given := u.p.config.DisableRebindProtection || u.p.admitPlace(c.place).Action == Allow
		return given && u.reachesAt(name, &c)
	})
}

// reachesAt reports whether a TCP flow to the cell that shows the name, which
// was given for it, could be allowed.
func (u *universe) reachesAt(name string, c *cell) bool {
	for _, k := range u.egress {
		if k.protocol != TCP || c.denied != "" {
			continue
		}
		// The walk that Decide makes once the first bytes are there, without a
		// Host: the cell knows its place already.
		w := walk{p: u.p, place: c.place, ports: k.interval,
			f: Flow{Direction: Egress, Protocol: TCP, Peer: netip.AddrPortFrom(c.addr, k.port)}}
		w.lookUp()
		w.open = w.opensDomains(w.firstAddress())
		if w.nameAllowed(name) {
			return true
		}
	}
	return false
}
