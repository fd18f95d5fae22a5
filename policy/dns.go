package policy

import (
	"net/netip"
	"slices"
	"strings"
)

// A Query is a name that a guest asks for.
type Query struct {
	// Name is canonical; "" is the root.
	Name string
	// Transport is how the query came: UDP or TCP.
	Transport Protocol
	// Service reports that the type is SRV, TXT, URI, SVCB or HTTPS, for which
	// _a._b.D may be looked up where D may.
	Service bool
}

// Reasons of verdicts on queries and answers.
const (
	sourceRebind = "rebind protection"

	reasonNoTransport = "queries come over udp or tcp"
	reasonNoQueryRule = "no rule permits the name"
	reasonHop         = "the answer leads to a denied name"
	reasonRebindOff   = "rebind protection is off"
	reasonPublic      = "the address is public"
	reasonAdmitted    = "an address rule admits it"
	reasonRebind      = "rebind protection: the address is not public, and no address rule admits it"
)

// PermitDNS returns the verdict for a query: whether it may leave the host. It
// is one first-match walk over the egress rules. A rule applies if it
//
//  1. denies a domain that the name matches, for every protocol and port;
//  2. allows a domain that the name matches, for any;
//  3. is for host or * and lists port 53 and admits the transport;
//  4. denies *, for every protocol and port;
//  5. allows * or public, for any.
//
// Else the default acts. Host aliases are answered without asking.
func (p *Policy) PermitDNS(q Query) Verdict { return p.permit(q, nil) }

// permit is PermitDNS and ExplainDNS: rec, if not nil, is told of every
// comparison.
func (p *Policy) permit(q Query, rec *recorder) Verdict {
	switch {
	case p == nil:
		return Verdict{Rule: -1, Source: sourceAlways, Reason: reasonNoPolicy}
	case !q.Transport.HasPorts():
		return Verdict{Rule: -1, Source: sourceAlways, Reason: reasonNoTransport}
	}
	i := p.firstForQuery(q.Name, q.Transport, rec)
	if owner, ok := serviceOwner(q.Name); ok && q.Service && p.action(i, Egress) == Deny && !p.isExact(i) {
		// The rules were asked for _a._b.D itself first, so that one that names
		// it still stands.
		rec.restart()
		i = p.firstForQuery(owner, q.Transport, rec)
	}
	return p.queryVerdict(i)
}

// serviceOwner returns D of _a._b.D, the form of RFC 2782 and RFC 8552.
func serviceOwner(name string) (string, bool) {
	for range 2 {
		label, rest, ok := strings.Cut(name, ".")
		if !ok || !strings.HasPrefix(label, "_") {
			return "", false
		}
		name = rest
	}
	return name, true
}

// isExact reports whether i is the index of a rule for one name.
func (p *Policy) isExact(i int) bool {
	return i < len(p.rules) && p.rules[i].Destination.kind == destDomain
}

// queryVerdict returns the verdict of rule i on a query, or of the default behind
// the last.
func (p *Policy) queryVerdict(i int) Verdict {
	v := Verdict{Action: p.action(i, Egress), Rule: -1}
	if i < len(p.rules) {
		v.Rule, v.Source, v.Text = i, p.rules[i].Source, p.texts[i]
	} else {
		v.Source, v.Reason = defaultSource(Egress), reasonNoQueryRule
	}
	return v
}

// firstForQuery returns the index of the first rule that applies to a name, and
// the index behind the last rule for the default.
func (p *Policy) firstForQuery(name string, transport Protocol, rec *recorder) int {
	if rec != nil {
		rec.asked = true
	}
	end := len(p.rules)
	decided := end
	for i := p.nextForQuery(0, name, rec); i < end; i = p.nextForQuery(i+1, name, rec) {
		yes, why := p.rules[i].matchQuery(name, transport)
		if yes && decided == end {
			decided = i
		}
		if rec != nil {
			rec.noteQuery(p, name, i, yes, decided, why)
		} else if yes {
			return i
		}
	}
	return decided
}

// nextForQuery returns the index, from i on, of the next rule to visit: of the
// rules by address those few that say anything about names.
func (p *Policy) nextForQuery(i int, name string, rec *recorder) int {
	if rec != nil {
		return i
	}
	n := len(p.rules)
	if k, _ := slices.BinarySearch(p.index.queries, int32(i)); k < len(p.index.queries) {
		n = int(p.index.queries[k])
	}
	return p.index.nextDomain(i, n, name, func(int32) bool { return true })
}

// concernsQueries reports whether the rule, which is no domain rule, may apply
// to a query.
func (r *Rule) concernsQueries() bool {
	d := r.Destination
	return r.direction()&Egress != 0 && (d.kind == destAny || d.kind == destGroup && (d.group == GroupHost || d.group == GroupPublic))
}

// matchQuery reports whether the rule applies to a query for name, and what was
// compared: the sentences above PermitDNS.
func (r *Rule) matchQuery(name string, transport Protocol) (bool, why) {
	switch {
	case r.direction()&Egress == 0:
		return false, whyDirection
	case r.Destination.IsDomain() && !r.Destination.matchesName(name):
		return false, whyName
	case r.Destination.IsDomain():
		return r.Action == Allow || r.unfiltered(), whyFilter
	case !r.concernsQueries():
		return false, whyNoQuery
	}
	any := r.Destination.kind == destAny
	switch {
	case (any || r.Destination.group == GroupHost) && r.listsPort(53) && r.Protocols.Has(transport):
		return true, whyPort53
	case any && r.Action == Deny:
		return r.unfiltered(), whyFilter
	case any || r.Destination.group == GroupPublic:
		return r.Action == Allow, whyPublic
	}
	return false, whyPort53
}

// PermitHop returns the verdict for a name that the answer to a permitted query
// leads to: the target of a CNAME, SRV, MX, SVCB or HTTPS record. It is denied
// by a deny rule for it that stands before the rule that permitted the query;
// else it has the query's verdict, which must be of this Policy.
func (p *Policy) PermitHop(permit Verdict, name string) Verdict {
	if p == nil || permit.Action != Allow || permit.Rule >= len(p.rules) {
		return Verdict{Rule: -1, Source: sourceAlways, Reason: reasonHop}
	}
	end := permit.Rule
	if end < 0 {
		end = len(p.rules)
	}
	i := p.index.nextDomain(0, end, name, func(i int32) bool {
		r := &p.rules[i]
		return r.Action == Deny && r.unfiltered() && r.direction()&Egress != 0
	})
	if i == end {
		return permit
	}
	v := p.queryVerdict(i)
	v.Reason = reasonHop
	return v
}

// AdmitAnswer returns the verdict on an address in an answer: rebind protection.
// It allows an address that is public or admitted: for some protocol and port
// other than 53 the address rules and the default allow a flow to it, and where
// it is neither private nor link-local, by a rule that names its group, the
// address or a prefix. The preset allow-all admits the host as well. What is
// always denied is never admitted.
func (p *Policy) AdmitAnswer(h *Host, a netip.Addr) Verdict {
	v := Verdict{Rule: -1, Source: sourceRebind}
	switch {
	case p == nil:
		v.Reason = reasonNoPolicy
		return v
	case h == nil:
		v.Reason = reasonNoHost
		return v
	}
	v.Group = h.Classify(a)
	if p.config.DisableRebindProtection {
		v.Action, v.Reason = Allow, reasonRebindOff
		return v
	}
	if denied, ok := h.AlwaysDenied(a); ok {
		v.Reason = denied
		return v
	}
	return p.admitPlace(h.place(a))
}

// admitPlace is AdmitAnswer, with rebind protection, for an address that is not
// always denied.
func (p *Policy) admitPlace(at place) Verdict {
	v := Verdict{Rule: -1, Source: sourceRebind, Reason: reasonRebind, Group: at.group}
	switch i, ok := p.admits(at); {
	case at.group == GroupPublic:
		v.Action, v.Reason = Allow, reasonPublic
	case ok:
		v = p.queryVerdict(i)
		v.Reason, v.Group = reasonAdmitted, at.group
	}
	return v
}

// admits returns the rule by which an address is admitted in an answer: the
// first that allows some flow to it. One port of every interval stands for all;
// port 53 counts for nothing, as the proxy answers it whatever the address.
func (p *Policy) admits(at place) (int, bool) {
	w := walk{p: p, place: at}
	w.lookUp()
	for proto := TCP; proto <= ICMPv6; proto++ {
		if proto == ICMPv4 && !at.addr.Is4() || proto == ICMPv6 && !at.addr.Is6() {
			continue
		}
		intervals := p.index.ports[Egress][proto]
		for k := range intervals {
			if proto.HasPorts() && !intervals.hasPortBeside53(k) {
				continue
			}
			w.ports = &intervals[k]
			i := w.firstAddress()
			if p.action(i, Egress) == Allow && p.admitsByName(i, at.group) {
				return i, true
			}
		}
	}
	return 0, false
}

// admitsByName reports whether rule i, which allows an address of the group, is
// specific enough to admit it in an answer. A broad allow means the network, not
// that strangers' names may point to the host or its credentials.
func (p *Policy) admitsByName(i int, g Group) bool {
	switch {
	case g == GroupPrivate || g == GroupLinkLocal:
		return true
	case i < len(p.rules) && p.rules[i].Destination.kind != destAny:
		return true
	}
	return g == GroupHost && p.config.Preset == PresetAllowAll
}

// hasPortBeside53 reports whether interval k holds a port that a flow can have,
// other than 53.
func (s portIntervals) hasPortBeside53(k int) bool {
	first, last := s.bounds(k)
	return first <= last && !(first == 53 && last == 53)
}

// bounds returns the first and last port of interval k that a flow can have;
// the first is above the last if there is none.
func (s portIntervals) bounds(k int) (first, last uint16) {
	first, last = s[k].first, 65535
	if k+1 < len(s) {
		last = s[k+1].first - 1
	}
	return max(first, 1), last
}
