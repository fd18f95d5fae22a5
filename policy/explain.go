package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// An Explanation is a verdict with the way to it.
type Explanation struct {
	Verdict Verdict
	// Steps holds every rule in order, then the default. It is empty where no
	// rule was asked, as for an address that is always denied.
	Steps []Step
	// Change is the smallest change that turns the verdict round; nil if none
	// does.
	Change *Change
}

// A Step is one rule of an Explanation, or the default.
type Step struct {
	Rule    int    // index into the flattened list; -1 for the default
	Source  string // as in Verdict
	Text    string // as in Verdict; "" for the default
	Action  Action
	Matched bool   // the rule is Yes
	Reached bool   // no rule before it decided
	Why     string // what was compared, and how it came out
	Missing string // the evidence that would make the rule Yes; "" if none would
}

// Decides reports whether the step gave the verdict.
func (s Step) Decides() bool { return s.Matched && s.Reached }

// A Change is one rule that turns a verdict round.
type Change struct {
	Rule   Rule   // without a Source
	Before int    // index in the flattened list where it is to stand
	Place  string // the same in the user's words
}

// Explain returns the verdict of Decide with the way to it. It is for people:
// it costs as much as compiling the policy twice.
func (p *Policy) Explain(h *Host, f Flow, ev Evidence) Explanation {
	rec := &recorder{ev: ev}
	v := p.decide(h, f, ev, rec)
	e := Explanation{Verdict: v, Steps: rec.end(p, f.Direction)}
	if len(e.Steps) > 0 {
		e.Change = p.changeFlow(h, f, ev, v)
	}
	return e
}

// ExplainDNS returns the verdict of PermitDNS with the way to it.
func (p *Policy) ExplainDNS(q Query) Explanation {
	rec := &recorder{}
	v := p.permit(q, rec)
	e := Explanation{Verdict: v, Steps: rec.end(p, Egress)}
	if len(e.Steps) > 0 {
		e.Change = p.changeQuery(q, v)
	}
	return e
}

// A why says what a comparison of a rule compared; the recorder puts it into
// words, so that a decision need not.
type why uint8

// The first three are the rule's filters, compared before its destination: one
// that fails there is not compared any further.
const (
	whyDirection why = iota
	whyProtocol
	whyPort
	whyAny
	whyGroup
	whyPrefix
	whyName      // the names of the reading, or the queried one
	whyMalformed // the first bytes, which may hide a name
	whyFilter    // a query with the rule's protocols and ports
	whyPort53    // a query with the rule's protocols and ports, which must name 53
	whyPublic    // a query with a rule for everything public
	whyNoQuery   // a query with a rule that has nothing to say about it
)

// A recorder is told of every comparison of one walk. It alone makes words of
// them, so that Decide, which has none, pays for none.
type recorder struct {
	ev    Evidence
	asked bool // the walk took place
	steps []Step
}

// restart forgets a walk that another one follows. A nil recorder, as Decide
// has, forgets nothing.
func (rec *recorder) restart() {
	if rec != nil {
		rec.steps = nil
	}
}

// add records rule i; decided is the index of the rule that decided so far.
func (rec *recorder) add(p *Policy, i int, yes bool, decided int, why, missing string) {
	rec.steps = append(rec.steps, Step{
		Rule: i, Source: p.rules[i].Source, Text: p.texts[i], Action: p.rules[i].Action,
		Matched: yes, Reached: i <= decided, Why: why, Missing: missing,
	})
}

// end returns the steps, with the default behind them, if a walk took place.
func (rec *recorder) end(p *Policy, d Direction) []Step {
	if !rec.asked {
		return nil
	}
	reached := !slices.ContainsFunc(rec.steps, Step.Decides)
	return append(rec.steps, Step{
		Rule: -1, Source: defaultSource(d), Action: p.Default(d), Matched: true, Reached: reached,
		Why: "the default is for whatever no rule matches",
	})
}

// note records the comparison of rule i with a flow: whether it is Yes, what was
// compared, and the index of the rule that decided so far.
func (rec *recorder) note(w *walk, r *reading, i int, yes bool, decided int, code why) {
	rule := &w.p.rules[i]
	var text, missing string
	switch code {
	case whyDirection:
		text = fmt.Sprintf("for %v, the flow is %v", rule.direction(), w.f.Direction)
		if rule.Destination.IsDomain() {
			// "any" and a domain is for egress only, which its direction doesn't show.
			text = "peers of ingress have no names"
		}
	case whyProtocol:
		text = fmt.Sprintf("for %v, the flow is %v", rule.Protocols, w.f.Protocol)
		if rule.Protocols.Has(w.f.Protocol) {
			// The set fits, or is empty: it is the ports that rule ICMP out.
			text = fmt.Sprintf("a rule with ports is never for %v", w.f.Protocol)
		}
	case whyPort:
		text = fmt.Sprintf("for port %s, the flow's is %d", portList(rule.Ports), w.f.port())
	case whyAny:
		text = "for any address"
	case whyGroup:
		text = w.peerText() + " is " + w.group.String()
		if !yes {
			text += ", not " + rule.Destination.group.String()
		}
	case whyPrefix:
		text = fmt.Sprintf("%s is in %v", w.peerText(), rule.Destination)
		if !yes {
			text = fmt.Sprintf("%s is not in %v", w.peerText(), rule.Destination)
		}
	case whyMalformed:
		text = "the first bytes are malformed and may hide a name, so every domain rule denies"
	case whyName:
		text, missing = rec.nameText(w, r, rule, yes)
	}
	rec.add(w.p, i, yes, decided, text, missing)
}

// peerText writes the address that is judged and, in NAT64 form, how it came.
func (w *walk) peerText() string {
	if w.judged != w.addr {
		return fmt.Sprintf("%v inside %v", w.judged, w.addr)
	}
	return w.addr.String()
}

// nameText says how a domain rule came out for the recorder's evidence, and what
// evidence would have made it Yes. It looks at names again, which match has
// already compared, to find the one to speak of.
func (rec *recorder) nameText(w *walk, r *reading, rule *Rule, yes bool) (text, missing string) {
	shown := ""
	if rec.ev.Stage == StageName {
		shown = rec.ev.Name
	}
	given := rec.ev.Names
	i := slices.IndexFunc(given, rule.Destination.matchesName)
	// In the order in which the walk asks: what the flow shows counts more than
	// what the address has, a deny needs one name, and an allow needs the address
	// to be open before its names are looked at.
	switch {
	case shown != "":
		text, missing = rec.shownText(w, rule, shown, yes)
	case len(given) == 0:
		text = fmt.Sprintf("no name is known for %v", w.addr)
		missing = fmt.Sprintf("an answer of the configured resolver with %v for a name in %v", w.addr, rule.Destination)
	case i < 0:
		text = fmt.Sprintf("none of the names of %v matches: %s", w.addr, nameList(given))
		missing = "a name that matches, in the flow's first bytes and in an answer of the configured resolver"
	case rule.Action == Deny:
		text = fmt.Sprintf("%v is an address of %s", w.addr, given[i])
	case !w.open:
		text = fmt.Sprintf("%v is an address of %s, but %s, and no address rule admits it", w.addr, given[i], w.group)
	case !yes:
		// One of the names would do, but the guest might mean another: it is named.
		other := slices.IndexFunc(given, func(n string) bool { return !w.quietly(n) })
		text = fmt.Sprintf("%v is an address of %s, but also of %s, which is not allowed, and the flow shows no name",
			w.addr, given[i], given[max(other, 0)])
		missing = "the name in the flow's first bytes"
	default:
		text = fmt.Sprintf("%v is an address of %s, and all its names are allowed", w.addr, given[i])
	}
	return text, missing
}

// quietly is nameAllowed without a record: it walks while a walk is recorded.
func (w *walk) quietly(name string) bool {
	quiet := *w
	quiet.rec = nil
	return quiet.nameAllowed(name)
}

// shownText says how a domain rule came out for a flow that shows a name.
func (rec *recorder) shownText(w *walk, rule *Rule, shown string, yes bool) (text, missing string) {
	given := slices.Contains(rec.ev.Names, shown)
	matches := rule.Destination.matchesName(shown)
	switch {
	case matches && yes:
		return "the flow shows " + shown, ""
	case yes: // a deny by another name of the address
		i := slices.IndexFunc(rec.ev.Names, rule.Destination.matchesName)
		return fmt.Sprintf("%v is an address of %s, and not of %s, which the flow shows", w.addr, rec.ev.Names[i], shown), ""
	case !matches:
		return "the flow shows " + shown, ""
	case !given: // whoever shows a name may lie, so the resolver must have said it
		return fmt.Sprintf("the flow shows %s, but the configured resolver has not answered %v for it", shown, w.addr),
			fmt.Sprintf("an answer of the configured resolver with %v for %s", w.addr, shown)
	}
	return fmt.Sprintf("the flow shows %s, but %v is %s, and no address rule admits it", shown, w.addr, w.group), ""
}

// noteQuery records the comparison of rule i with a query. No evidence is ever
// missing: a query is its name.
func (rec *recorder) noteQuery(p *Policy, name string, i int, yes bool, decided int, code why) {
	rule := &p.rules[i]
	var text string
	switch code {
	case whyDirection:
		text = "for ingress, a query is egress"
	case whyName:
		text = fmt.Sprintf("%s is not in %v", name, rule.Destination)
	case whyNoQuery: // a rule by address, such as "allow 10.0.0.0/8"
		text = "says nothing about names"
	case whyPublic:
		text = "whoever may reach every public address may look up every name"
		if !yes {
			text = "a deny of public addresses says nothing about names"
		}
	case whyFilter:
		text = fmt.Sprintf("for %v", rule.Destination)
		if !yes { // a deny of port 443 of a name leaves its other ports, and so its query
			text += ", but only for some protocols or ports"
		}
	case whyPort53:
		text = "for port 53, where queries go"
		if !yes {
			text = "does not list port 53 for this transport"
		}
	}
	rec.add(p, i, yes, decided, text, "")
}

// portList writes ports as a rule does.
func portList(ports []PortRange) string {
	texts := make([]string, len(ports))
	for i, p := range ports {
		texts[i] = p.String()
	}
	return strings.Join(texts, ",")
}

// nameList writes at most four names, so that an explanation stays readable.
func nameList(names []string) string {
	const most = 4
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// changeFlow looks for the smallest rule that turns the verdict on a flow
// round: one name, else one address, with the flow's protocol and port. Each is
// tried where it would go, since whether it helps depends on the evidence: a
// name does not open an address that the resolver did not give for it.
func (p *Policy) changeFlow(h *Host, f Flow, ev Evidence, v Verdict) *Change {
	rule := Rule{Action: Allow - v.Action, Direction: f.Direction, Protocols: ProtocolsOf(f.Protocol)}
	if f.Protocol.HasPorts() {
		rule.Ports = []PortRange{{f.port(), f.port()}}
	}
	var tries []Destination
	if f.Direction == Egress {
		// Of several names nobody knows which is meant, and so it is the address.
		if ev.Stage == StageName && ev.Name != "" {
			tries = append(tries, DomainDestination(ev.Name))
		} else if len(ev.Names) == 1 {
			tries = append(tries, DomainDestination(ev.Names[0]))
		}
	}
	a := f.Peer.Addr().Unmap().WithZone("")
	if v.Group == GroupHost {
		// The gateway's address is another one in the next sandbox.
		tries = append(tries, GroupDestination(GroupHost))
	} else {
		tries = append(tries, PrefixDestination(netip.PrefixFrom(a, a.BitLen())))
		// A deny may name either form, an allow the address inside alone.
		if inner, ok := h.nat64(a); ok {
			tries = append(tries, PrefixDestination(netip.PrefixFrom(inner, 32)))
		}
	}
	for _, d := range tries {
		rule.Destination = d
		// An allow that still waits for a name is one; a deny that waits isn't yet.
		changed, c := p.with(rule, v.Rule)
		if w := changed.Decide(h, f, ev); w.Action == rule.Action && (w.Action == Allow || !w.NeedsName) {
			return c
		}
	}
	return nil
}

// changeQuery is changeFlow for a query. To allow a name, a rule for HTTPS to it
// is enough; a deny must be without filter to be about queries.
func (p *Policy) changeQuery(q Query, v Verdict) *Change {
	if q.Name == "" { // the root, which no rule can name
		return nil
	}
	rule := Rule{Action: Allow - v.Action, Direction: Egress, Destination: DomainDestination(q.Name)}
	if rule.Action == Allow {
		rule.Protocols, rule.Ports = ProtocolsOf(TCP), []PortRange{{443, 443}}
	}
	_, c := p.with(rule, v.Rule)
	return c
}

// with returns the policy with a rule put before rule i, or behind all rules if
// i is negative, and the change that this is.
func (p *Policy) with(rule Rule, i int) (*Policy, *Change) {
	c := &Change{Rule: rule, Before: i, Place: "behind the rules"}
	if i < 0 {
		c.Before = len(p.rules)
	} else {
		c.Place = placeBefore(p.rules[i].Source)
	}
	config := p.config
	// The change is the caller's, the compiled rule the policy's.
	rule.Ports = slices.Clone(rule.Ports)
	config.Rules = slices.Insert(slices.Clone(p.rules), c.Before, rule)
	return compile(config), c
}

// placeBefore says how a user puts a rule before the one that comes from source:
// the rules of a preset and the deny lists stand before all of the user's.
func placeBefore(source string) string {
	preset, isPreset := strings.CutPrefix(source, sourcePreset)
	switch {
	case isPreset:
		return fmt.Sprintf("before the preset's rules: drop Policy %s and write its rules out behind this one", preset)
	case strings.HasPrefix(source, "DenyDomain"):
		return fmt.Sprintf("nowhere, since deny lists come first: take %s out instead", source)
	case source == "":
		return "before the rule that decided"
	}
	return "before " + source
}
