package policy

import "slices"

// A walk is one evaluation of the rules for one flow. It lives on the stack of
// decide, may go over the rules several times, each time with another reading of
// the evidence, and remembers nothing from one time to the next.
type walk struct {
	p *Policy
	f Flow
	place
	ports *portInterval // the rules that fit the flow's protocol and port
	// The address rules that match the flow's peer: by its group or as any
	// address, by a prefix, and in IPv6 form by a prefix (deny rules only).
	byGroup, byPrefix, byOuter vector
	// open reports that an allow domain rule may open the flow's address.
	open bool
	rec  *recorder // nil unless the walk is to be explained
}

// start fills the walk in. It returns why the flow is denied whatever the rules
// say, or "". Whatever is missing or does not fit is a reason: there is no flow
// that passes because nobody thought of it.
func (w *walk) start(p *Policy, h *Host, f Flow) string {
	switch {
	case p == nil:
		return reasonNoPolicy
	case h == nil:
		return reasonNoHost
	case !isFlow(f):
		return reasonNoFlow
	}
	a, why := canonicalPeer(f)
	if why != "" {
		return why
	}
	w.p, w.f, w.place = p, f, h.place(a)
	if f.Direction == Ingress && w.group == GroupLoopback {
		w.group = GroupHost // the guest's own loopback never comes in
		if w.judged == w.addr {
			w.denied = "" // in NAT64 form it is a neighbour that calls itself so
		}
	}
	if w.denied != "" {
		return w.denied
	}
	w.ports = p.index.ports[f.Direction][f.Protocol].of(f.port())
	w.lookUp()
	return ""
}

// lookUp finds the address rules that match the walk's place. The vectors belong
// to the index.
func (w *walk) lookUp() {
	w.byGroup = w.p.index.byGroup[w.group]
	w.byPrefix, _ = w.p.index.byPrefix.Lookup(w.judged)
	if w.judged != w.addr {
		w.byOuter, _ = w.p.index.byPrefix.Lookup(w.addr)
	}
}

// isFlow reports whether the fields of f fit each other. Port 0 is no port: a
// socket that is told to use it picks another, which no rule has seen.
func isFlow(f Flow) bool {
	a := f.Peer.Addr()
	switch {
	case !a.IsValid() || f.Direction != Egress && f.Direction != Ingress:
		return false
	case f.Protocol == TCP || f.Protocol == UDP:
		return f.port() != 0
	case f.Protocol == ICMPv4:
		return f.Direction == Egress && a.Is4()
	case f.Protocol == ICMPv6:
		return f.Direction == Egress && a.Is6()
	}
	return false
}

// first returns the index of the first rule that is Yes, and the index behind
// the last rule for the default. To be explained, the walk visits every rule,
// else only those that the index can't exclude.
func (w *walk) first(r *reading) int {
	end := len(w.p.rules)
	decided := end
	for i := w.next(0, r); i < end; i = w.next(i+1, r) {
		yes, why := w.match(i, r)
		if yes && decided == end {
			decided = i
		}
		switch {
		case w.rec != nil:
			w.rec.note(w, r, i, yes, decided, why)
		case yes:
			return i
		}
	}
	return decided
}

// recorded is first, with every comparison told to rec if it is not nil.
func (w *walk) recorded(rec *recorder, r *reading) int {
	if rec == nil {
		return w.first(r)
	}
	rec.asked = true
	w.rec = rec
	i := w.first(r)
	w.rec = nil
	return i
}

// next returns the index, from i on, of the next rule to visit. The first one
// that it returns is Yes, as long as the index is right, and ends the walk.
func (w *walk) next(i int, r *reading) int {
	if w.rec != nil {
		return i
	}
	n := w.nextAddress(i)
	if int(w.ports.domain) > n {
		return n
	}
	if r.malformed {
		return min(n, max(i, int(w.ports.domain)))
	}
	n = w.nextDomain(i, n, &r.deny, Deny)
	return w.nextDomain(i, n, &r.allow, Allow)
}

// firstAddress returns the first address Yes: what the walk would give without
// any evidence.
func (w *walk) firstAddress() int { return w.nextAddress(0) }

// nextAddress returns the index, from i on, of the next address rule that the
// index can't exclude.
func (w *walk) nextAddress(i int) int {
	return w.p.index.nextAddress(i, len(w.p.rules), w.ports.fits, w.byGroup, w.byPrefix, w.byOuter)
}

// nextDomain returns the index, from i on and before n, of the next domain rule
// with an action that matches one of the names; n if there is none. Its cost is
// that of a few look-ups for each name, however many rules there are.
func (w *walk) nextDomain(i, n int, names *names, action Action) int {
	keep := func(i int32) bool {
		r := &w.p.rules[i]
		return r.Action == action && r.fitsProtocol(Egress, w.f.Protocol) && r.fitsPort(w.f.Protocol, w.f.port())
	}
	if names.one != "" {
		n = w.p.index.nextDomain(i, n, names.one, keep)
	}
	for _, name := range names.more {
		n = w.p.index.nextDomain(i, n, name, keep)
	}
	return n
}

// fitsProtocol reports whether the rule is for the direction and protocol.
// Without a protocol filter it is for every one that the direction has, but a
// rule with ports is never for ICMP.
func (r *Rule) fitsProtocol(d Direction, p Protocol) bool {
	return r.direction()&d != 0 && r.Protocols.Has(p) && (p.HasPorts() || d == Egress && len(r.Ports) == 0)
}

// fitsPort reports whether the rule is for the port, where the protocol has any.
func (r *Rule) fitsPort(p Protocol, port uint16) bool {
	return len(r.Ports) == 0 || p.HasPorts() && r.listsPort(port)
}

// match compares rule i with the flow: one row of the contract's table. The
// second result says what was compared.
func (w *walk) match(i int, r *reading) (bool, why) {
	rule := &w.p.rules[i]
	switch {
	case rule.direction()&w.f.Direction == 0:
		return false, whyDirection
	case !rule.fitsProtocol(w.f.Direction, w.f.Protocol):
		return false, whyProtocol
	case !rule.fitsPort(w.f.Protocol, w.f.port()):
		return false, whyPort
	}
	d := &rule.Destination
	if !d.IsDomain() {
		return rule.matchPlace(&w.place)
	}
	switch {
	case w.f.Direction != Egress:
		return false, whyDirection
	case r.malformed:
		return true, whyMalformed
	case rule.Action == Deny:
		return r.deny.match(d), whyName
	}
	return r.allow.match(d), whyName
}

// matchPlace compares an address rule with a peer. A deny rule matches the IPv6
// form of a NAT64 address as well as the address inside.
func (r *Rule) matchPlace(at *place) (bool, why) {
	d := &r.Destination
	switch d.kind {
	case destAny:
		return true, whyAny
	case destGroup:
		return d.group == at.group && at.group != GroupNone, whyGroup
	}
	return d.prefix.Contains(at.judged) || r.Action == Deny && d.prefix.Contains(at.addr), whyPrefix
}

// A reading is what the evidence says to domain rules: one row of the
// contract's table, as the names that answer Yes.
//
//	evidence         allow D is Yes if one of these   deny D is Yes if one of these
//	name N in P(A)   N                                N
//	name N, other    -                                N, P(A)
//	no name          P(A), if all are allowed names   P(A)
//	malformed        always, and denies               always
//
// The column of allow is empty as well where the address is not open (see
// opensDomains). The zero reading answers No to every domain rule, so that a
// walk with it is over the address rules and the default alone.
type reading struct {
	allow     names // an allow rule is Yes iff it matches one of these
	deny      names // a deny rule is Yes iff it matches one of these
	malformed bool  // every rule is Yes, and denies
}

// names are names to match, one and many, so that neither needs memory.
type names struct {
	one  string // "" if there is none
	more []string
}

func (n *names) match(d *Destination) bool {
	return n.one != "" && d.matchesName(n.one) || slices.ContainsFunc(n.more, d.matchesName)
}

// read turns evidence into a reading.
func (w *walk) read(ev Evidence) reading {
	switch {
	case ev.Stage == StageName && ev.Name != "":
		return w.named(ev.Name, ev.Names)
	case ev.Stage == StageNoName || ev.Stage == StageAddress:
		r := reading{deny: names{more: ev.Names}}
		if w.open && w.everyNameAllowed(ev.Names) {
			r.allow.more = ev.Names
		}
		return r
	}
	return reading{malformed: true}
}

// named returns the reading of a flow that shows a name, at an address that the
// configured resolver gave for the names given.
func (w *walk) named(name string, given []string) reading {
	if !slices.Contains(given, name) {
		return reading{deny: names{one: name, more: given}}
	}
	return w.namedRightly(name)
}

// namedRightly returns the reading of a flow that shows a name of P(A).
func (w *walk) namedRightly(name string) reading {
	r := reading{deny: names{one: name}}
	if w.open {
		r.allow.one = name
	}
	return r
}

// nameAllowed reports whether a name of P(A) is an allowed name: the flow would
// pass if it showed it. Without a name the flow may be for any of the names of
// its address, so all must be allowed, or an allowed name would open the others
// that share its machine.
func (w *walk) nameAllowed(name string) bool {
	r := w.namedRightly(name)
	return w.p.action(w.first(&r), Egress) == Allow
}

func (w *walk) everyNameAllowed(given []string) bool {
	for _, name := range given {
		if !w.nameAllowed(name) {
			return false
		}
	}
	return true
}

func (w *walk) someNameAllowed(given []string) bool {
	return slices.ContainsFunc(given, w.nameAllowed)
}

// opensDomains reports whether an allow domain rule may open the flow's
// address: it is public, or admitted for this flow (the first address Yes
// allows), or private or link-local without rebind protection.
func (w *walk) opensDomains(addressYes int) bool {
	switch {
	case w.group == GroupPublic || w.p.action(addressYes, w.f.Direction) == Allow:
		return true
	case w.group == GroupPrivate || w.group == GroupLinkLocal:
		return w.p.config.DisableRebindProtection
	}
	return false
}

// verdict returns the verdict of rule i, or of the default behind the last. All
// its strings exist already: a verdict costs no memory.
func (w *walk) verdict(i int, r *reading) Verdict {
	v := Verdict{Action: w.p.action(i, w.f.Direction), Rule: -1, Group: w.group, ByAddress: !w.p.isDomain(i)}
	if i < len(w.p.rules) {
		v.Rule, v.Source, v.Text = i, w.p.rules[i].Source, w.p.texts[i]
	} else {
		v.Source, v.Reason = defaultSource(w.f.Direction), reasonNoRule
	}
	if r.malformed && !v.ByAddress {
		v.Action, v.Reason = Deny, reasonMalformed
	}
	if v.Action == Allow && w.f.Protocol == UDP {
		v.Refuse = w.refusal(i)
	}
	return v
}

// missed returns why no domain rule before i allowed the flow although one fits
// its name, or fits and no name is known; "" if there is no such rule. A denial
// by the default, behind a rule that looks as if it allowed the flow, is what
// users report as a bug.
func (w *walk) missed(i int, ev Evidence) string {
	if int(w.ports.allow) >= i {
		return ""
	}
	known := names{more: ev.Names}
	if ev.Stage == StageName {
		known = names{one: ev.Name}
	}
	matched := w.nextDomain(0, i, &known, Allow) < i
	switch {
	case ev.Stage != StageName && len(ev.Names) == 0:
		return reasonUnnamed
	case !matched:
		return ""
	case !w.open:
		return reasonClosed
	case ev.Stage == StageName:
		return reasonNotGiven
	}
	return reasonShared
}

func defaultSource(d Direction) string {
	if d == Ingress {
		return "default ingress"
	}
	return "default egress"
}

// refusal returns which datagrams of a UDP flow are refused although rule i
// allows it: the QUIC rule. A QUIC Initial is encrypted, so the name that it is
// for would escape the domain rules; refused, clients come back over TCP, where
// it is seen. A rule that lists udp and the port shows that its author knows.
func (w *walk) refusal(i int) Refusal {
	c := &w.p.config
	port := w.f.port()
	quic := RefuseQUIC
	if port == 443 {
		quic = RefuseAll
	}
	switch {
	case c.QUIC == QUICPass || w.f.Direction != Egress:
		return RefuseNone
	case slices.Contains(c.InterceptedPorts, port):
		return RefuseAll
	case c.QUIC == QUICRefuse:
		return quic
	case w.p.isDomain(i):
		if r := &w.p.rules[i]; r.Protocols.Lists(UDP) && r.listsPort(port) {
			return RefuseNone
		}
	case int(w.ports.silent) >= i: // no domain rule before, or each lists udp and the port
		return RefuseNone
	}
	return quic
}
