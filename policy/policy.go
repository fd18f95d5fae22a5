package policy

import (
	"cmp"
	"net/netip"
	"slices"
)

// A Policy is a compiled list of rules. A nil *Policy denies. It is immutable,
// so any number of goroutines may use it, and a verdict's Rule is an index into
// the list of the Policy that gave it, not of its successor.
type Policy struct {
	config   Config
	rules    []Rule   // config.Rules
	texts    []string // of the rules, so that a Verdict costs no allocation
	index    *index
	warnings Problems
}

// New compiles a configuration. The error joins a Problem for everything that
// makes it unusable, dead deny rules included; what is only doubtful is in
// Warnings.
func New(c Config) (*Policy, error) {
	if c.broken {
		return nil, Problem{Message: "Flatten reported errors: the configuration can't be used"}
	}
	p, problems := judge(c)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	p.warnings = problems
	return p, nil
}

// Check returns everything that is wrong or doubtful about a configuration as a
// whole, and the errors of New among it. Of one that Flatten found errors in, it
// judges the rules that were left.
func (c Config) Check() Problems {
	_, problems := judge(c)
	return problems
}

// judge compiles a configuration, unless its values make that impossible, and
// returns everything that is to be said about it.
func judge(c Config) (*Policy, Problems) {
	if problems := c.checkValues(); len(problems) > 0 {
		return nil, problems
	}
	p := compile(c)
	return p, p.lint()
}

// compile builds the policy without judging it. It copies what the caller could
// change later.
func compile(c Config) *Policy {
	c.Rules = slices.Clone(c.Rules)
	c.InterceptedPorts = slices.Clone(c.InterceptedPorts)
	p := &Policy{config: c, rules: c.Rules, texts: make([]string, len(c.Rules)), index: newIndex(c.Rules)}
	for i := range c.Rules {
		p.texts[i] = c.Rules[i].String()
	}
	return p
}

// Rules returns the flattened list, in the order of evaluation. The caller must
// not change it.
func (p *Policy) Rules() []Rule {
	if p == nil {
		return nil
	}
	return p.rules
}

// Default returns what happens in a direction where no rule matches.
func (p *Policy) Default(d Direction) Action {
	switch {
	case p == nil:
		return Deny
	case d == Egress:
		return p.config.DefaultEgress
	case d == Ingress:
		return p.config.DefaultIngress
	}
	return Deny
}

// Warnings returns what New found doubtful.
func (p *Policy) Warnings() Problems {
	if p == nil {
		return nil
	}
	return p.warnings
}

// HasDomainRules reports whether a rule names a domain, so that it matters which
// resolver the guest asks: DNS over TLS to others is then refused.
func (p *Policy) HasDomainRules() bool {
	return p != nil && len(p.index.exact)+len(p.index.suffix) > 0
}

// Decide returns the verdict for a flow: the package's sentences 1 to 9. Only
// TCP is staged, so for UDP and ICMP StageAddress means StageNoName. A stage that
// does not exist, and StageName without a name, count as malformed. What a nil
// Policy, a nil Host or a Flow that does not fit itself would need, is denied.
//
// It allocates nothing, whatever the number of rules.
func (p *Policy) Decide(h *Host, f Flow, ev Evidence) Verdict {
	return p.decide(h, f, ev, nil)
}

// Reasons of verdicts where the rule does not say it all.
const (
	sourceAlways = "always denied"

	reasonNoPolicy  = "there is no policy"
	reasonNoHost    = "nothing is known of the host"
	reasonNoFlow    = "not a flow that a rule can be about"
	reasonNoRule    = "no rule matches"
	reasonMalformed = "the first bytes may hide a name"
	reasonNotGiven  = "the name is allowed, but the configured resolver has not answered this address for it"
	reasonClosed    = "the name is allowed, but the address is not public, and no address rule admits it"
	reasonShared    = "the address has an allowed name, but also one that is not allowed, and the flow shows none"
	reasonUnnamed   = "names are allowed, but the configured resolver has not answered this address for any"
)

// decide is Decide and Explain: rec, if not nil, is told of every comparison.
//
// The first walk finds the first address Yes. Where no domain rule stands before
// it, no evidence can make a difference, which is case a of the contract and the
// path of most flows. Else a second walk reads the evidence.
func (p *Policy) decide(h *Host, f Flow, ev Evidence, rec *recorder) Verdict {
	var w walk
	if why := w.start(p, h, f); why != "" {
		return Verdict{Rule: -1, Source: sourceAlways, Reason: why, Group: w.group}
	}
	addressYes := w.first(&reading{})
	w.open = w.opensDomains(addressYes)
	named := int(w.ports.domain) < addressYes // a domain rule stands before it
	if !named && rec == nil {
		return w.verdict(addressYes, &reading{})
	}

	r := w.read(ev)
	i := w.recorded(rec, &r)
	v := w.verdict(i, &r)
	if !named {
		return v
	}
	v.PerRequest = p.isDomain(i) || int(w.ports.deny) < addressYes
	if v.Action == Deny {
		v.Reason = cmp.Or(w.missed(i, ev), v.Reason)
	}
	if ev.Stage == StageAddress && f.Protocol == TCP { // v is V0
		v.Dial = v.Action == Allow
		v.NeedsName = v.Dial || w.someNameAllowed(ev.Names)
	}
	return v
}

// isDomain reports whether i is the index of a domain rule.
func (p *Policy) isDomain(i int) bool { return i < len(p.rules) && p.rules[i].Destination.IsDomain() }

// action returns what the rule of an index does; the index behind the last rule
// is that of the default.
func (p *Policy) action(i int, d Direction) Action {
	if i < len(p.rules) {
		return p.rules[i].Action
	}
	return p.Default(d)
}

// canonicalPeer returns the address of a flow's peer as rules compare it, and
// why it has none. On the guest's wire an IPv4-mapped address is an attempt to
// look like another one, and a zone can't be.
func canonicalPeer(f Flow) (netip.Addr, string) {
	a := f.Peer.Addr()
	if f.Direction == Ingress {
		return a.Unmap().WithZone(""), "" // the host's sockets report peers in either form
	}
	switch {
	case a.Is4In6():
		return a, deniedMapped
	case a.Zone() != "":
		return a, deniedLinkLocal6
	}
	return a, ""
}
