package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// maxAddressRules bounds the rules that name addresses, whose index grows with
// the square of their number: 4096 take at most some 20 MiB. Rules that name
// domains are not bounded.
const maxAddressRules = 4096

// checkValues returns an error for every value that no text could have given,
// since rules can be built by hand, and for a list that is too long to be
// compiled. What it lets pass, compile and lint can take.
func (c *Config) checkValues() Problems {
	var problems Problems
	addresses := 0
	for i := range c.Rules {
		r := &c.Rules[i]
		// These have no Fix: whoever builds rules by hand reads Go's documentation.
		bad := func(field, message string) {
			problems = append(problems, Problem{Field: ruleField(r, i) + "." + field, Message: message})
		}
		if r.Action > Allow {
			bad("Action", "no such action")
		}
		if r.Direction > Any {
			bad("Direction", "no such direction")
		}
		if r.Protocols&^ProtocolsOf(TCP, UDP, ICMPv4, ICMPv6) != 0 {
			bad("Protocols", "no such protocol")
		}
		for k, p := range r.Ports {
			if !p.valid() {
				bad(fmt.Sprintf("Ports[%d]", k), "no port")
			}
		}
		if !r.Destination.valid() {
			bad("Destination", "no destination")
		}
		if !r.Destination.IsDomain() {
			addresses++
		}
	}
	switch c.Preset {
	case "", PresetPublicOnly, PresetNonLocal, PresetAllowAll:
	case PresetNone: // no card, so nothing here would ever be asked
		if len(c.Rules) > 0 || c.DefaultEgress == Allow || c.DefaultIngress == Allow {
			problems = append(problems, Problem{Field: "Policy", Value: c.Preset, Message: "without a network nothing can be ruled or allowed"})
		}
	default:
		problems = append(problems, Problem{Field: "Policy", Value: c.Preset, Message: "no such preset"})
	}
	if addresses > maxAddressRules {
		problems = append(problems, Problem{Field: "Rules",
			Message: fmt.Sprintf("%d rules name addresses, at most %d can be", addresses, maxAddressRules),
			Fix:     "join neighbouring prefixes"})
	}
	return problems
}

// valid reports whether d is one that ParseDestination could have returned.
func (d Destination) valid() bool {
	switch d.kind {
	case destGroup:
		return GroupPublic <= d.group && d.group <= GroupHost
	case destPrefix:
		return d.prefix.IsValid()
	case destDomain, destSuffix:
		// Names are compared byte by byte: another spelling would never match.
		name, ok := CanonicalName(d.name)
		return ok && name == d.name
	}
	return true
}

// ruleField returns the path of rule i: its source, or its place in the list if
// it was built by hand.
func ruleField(r *Rule, i int) string {
	if r.Source == "" {
		return fmt.Sprintf("Rules[%d]", i)
	}
	return r.Source
}

// field returns the path of what decides at index i: a rule, or the default,
// which the preset allow-all sets and no field of the user's.
func (p *Policy) field(i int) string {
	if i < len(p.rules) {
		return ruleField(&p.rules[i], i)
	}
	if p.config.Preset == PresetAllowAll {
		return "Policy"
	}
	return "DefaultEgress"
}

// lint returns everything that is wrong or doubtful about the compiled rules, in
// the order: single rules, rules that never decide, rules that open more than
// they say, and what the list as a whole lacks.
func (p *Policy) lint() Problems {
	if p.config.Preset == PresetNone {
		return nil // there is no network to judge
	}
	var problems Problems
	for i := range p.rules {
		problems = append(problems, p.rules[i].check().under(ruleField(&p.rules[i], i))...)
	}
	// What follows looks at whole lists: at one flow of every sort.
	u := newUniverse(p)
	problems = append(problems, u.lintCovered()...)
	problems = append(problems, u.lintMetadata()...)
	problems = append(problems, p.lintHost()...)
	problems = append(problems, p.lintQUIC()...)
	problems = append(problems, u.lintQueries()...)
	if !u.anyEgress() {
		problems = append(problems, Problem{Field: "Rules", Warning: true, Message: "nothing may leave the sandbox",
			Fix: "allow a destination, or set DefaultEgress to allow; without a network at all, set Policy to none"})
	}
	return problems
}

// bestKnownMetadata is the address that readers recognise.
var bestKnownMetadata = netip.MustParseAddr("169.254.169.254")

// lintMetadata warns of rules that open a metadata service without naming it. It
// hands out the machine's credentials to whoever asks, which nobody means by
// "169.254.0.0/16". What an earlier rule denies is not opened.
func (u *universe) lintMetadata() Problems {
	opened := make(map[int]netip.Addr) // by the index that decides
	for _, k := range u.egress {
		for n := range u.cells {
			c := &u.cells[n]
			if c.group != GroupMetadata || !k.has(c) || c.denied != "" {
				continue
			}
			i := u.decides(k, c)
			if u.p.action(i, Egress) == Allow && !u.p.namesGroup(i) && opened[i] != bestKnownMetadata {
				opened[i] = c.judged // the best known one if it is among them
			}
		}
	}
	var problems Problems
	for i := 0; i <= len(u.p.rules); i++ { // the last is the default
		if a, ok := opened[i]; ok {
			problems = append(problems, Problem{
				Field: u.p.field(i), Value: u.p.text(i), Warning: true,
				Message: fmt.Sprintf("opens the cloud's metadata services, such as %v", a),
				Fix:     "put `deny metadata` before it, or allow the address by itself",
			})
		}
	}
	return problems
}

// namesGroup reports whether rule i names a group or a single address, and so
// means what it opens.
func (p *Policy) namesGroup(i int) bool {
	if i >= len(p.rules) {
		return false
	}
	d := p.rules[i].Destination
	return d.kind == destGroup || d.kind == destPrefix && d.prefix.IsSingleIP()
}

// text returns the text of rule i, and what the default does behind the last.
func (p *Policy) text(i int) string {
	if i < len(p.rules) {
		return p.texts[i]
	}
	return p.Default(Egress).String()
}

// lintHost warns of rules that open every port of the host: databases and
// debuggers listen on its loopback because nobody else is there.
func (p *Policy) lintHost() Problems {
	var problems Problems
	for i := range p.rules {
		r := &p.rules[i]
		// "*" and allow-all open the host too, but say so; who writes "host" mostly
		// means one service of it.
		open := r.Action == Allow && r.direction()&Egress != 0 && r.Destination == GroupDestination(GroupHost)
		if open && len(r.Ports) == 0 && (r.Protocols.Has(TCP) || r.Protocols.Has(UDP)) {
			problems = append(problems, Problem{
				Field: ruleField(r, i), Value: p.texts[i], Warning: true,
				Message: "opens every service on the host's loopback, other sandboxes' published ports among them",
				Fix:     "add the ports that are meant",
			})
		}
	}
	return problems
}

// lintQUIC warns of rules that let QUIC pass unseen: they lift the QUIC rule, so
// a flow is decided by the names of its address, not by the one that it is for.
func (p *Policy) lintQUIC() Problems {
	var problems Problems
	for i := range p.rules {
		r := &p.rules[i]
		if p.config.QUIC == QUICByRule && r.Destination.IsDomain() && r.Protocols.Lists(UDP) && r.listsPort(443) {
			problems = append(problems, Problem{
				Field: ruleField(r, i), Value: p.texts[i], Warning: true,
				Message: "lists udp and port 443, so QUIC passes, whose name is not seen",
				Fix:     "leave udp out, and clients fall back to TCP",
			})
		}
	}
	return problems
}

// lintQueries warns where names and addresses do not go together: names without
// addresses are a way out, since a query reaches whoever owns the name, and
// addresses without names are of little use.
func (u *universe) lintQueries() Problems {
	i, every := u.p.everyName()
	switch {
	// The data goes out in the labels of a name that is asked for, and comes back
	// in the answer.
	case every && !u.reachesPublic():
		return Problems{{
			Field: u.p.field(i), Value: u.p.text(i), Warning: true,
			Message: "every name can be looked up, though public addresses can't all be reached: DNS itself is a way out",
			Fix:     "allow names instead; each may then be looked up",
		}}
	case !every && !u.p.someName() && u.reachesBeyondHost():
		return Problems{{
			Field: "Rules", Warning: true,
			Message: "addresses can be reached, but no name can be looked up",
			Fix:     "add `allow host tcp,udp 53` to look up every name, or allow names instead",
		}}
	}
	return nil
}

// everyName reports whether a name that no rule mentions may be looked up, and
// by which rule. The root stands for it.
func (p *Policy) everyName() (int, bool) {
	for _, transport := range []Protocol{UDP, TCP} {
		if i := p.firstForQuery("", transport, nil); p.action(i, Egress) == Allow {
			return i, true
		}
	}
	return 0, false
}

// someName reports whether there is a name that may be looked up because a rule
// allows it.
func (p *Policy) someName() bool {
	for i := range p.rules {
		if r := &p.rules[i]; r.Action == Allow && r.Destination.IsDomain() {
			return true
		}
	}
	return false
}

// reachesPublic reports whether every public address of a family can be reached
// somehow, those aside that a rule denies by prefix: who allows the public and
// denies a few addresses has no smaller list of names to allow instead.
func (u *universe) reachesPublic() bool {
	// One family is enough: many a policy speaks of IPv4 alone, on hosts that have
	// nothing else.
	all4, all6 := true, true
	for n := range u.cells {
		c := &u.cells[n]
		nat64 := c.judged != c.addr // the IPv4 cell stands for it
		if c.group != GroupPublic || nat64 || u.deniedByPrefix(c) || u.reachable(c) {
			continue
		}
		if c.addr.Is4() {
			all4 = false
		} else {
			all6 = false
		}
	}
	return all4 || all6
}

// deniedByPrefix reports whether a deny rule names an address range with the
// cell, for whatever protocol and port.
func (u *universe) deniedByPrefix(c *cell) bool {
	for k, word := range c.byPrefix {
		if word&u.p.index.deny[k] != 0 {
			return true
		}
	}
	return false
}

// reachesBeyondHost reports whether an address that is not the host's can be
// reached. The host's names are always answered.
func (u *universe) reachesBeyondHost() bool {
	return slices.ContainsFunc(u.cells, func(c cell) bool { return c.group != GroupHost && u.reachable(&c) })
}

// reachable reports whether some flow to the cell, not for DNS, is allowed by
// address.
func (u *universe) reachable(c *cell) bool {
	for _, k := range u.egress {
		if k.port != 53 && k.has(c) && c.denied == "" && u.p.action(u.decides(k, c), Egress) == Allow {
			return true
		}
	}
	return false
}

// anyEgress reports whether anything may leave, queries included.
func (u *universe) anyEgress() bool {
	_, every := u.p.everyName()
	return every || u.p.someName() || slices.ContainsFunc(u.cells, func(c cell) bool { return u.reachable(&c) })
}
