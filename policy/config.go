package policy

import (
	"fmt"
	"strings"
)

// The names of the presets.
const (
	PresetNone       = "none"
	PresetPublicOnly = "public-only"
	PresetNonLocal   = "non-local"
	PresetAllowAll   = "allow-all"
)

// sourcePreset begins the Source of a preset's rules.
const sourcePreset = "preset "

// A Config is what New compiles: the flattened list of rules and the defaults.
// The zero Config denies everything.
type Config struct {
	// Preset is the preset that Rules begin with, behind the deny lists; "" if
	// there is none. With PresetNone the sandbox has no network card.
	Preset string
	// Rules in the order of evaluation: deny lists, the preset's, the user's.
	// New copies the list.
	Rules []Rule
	// DefaultEgress and DefaultIngress act where no rule does.
	DefaultEgress, DefaultIngress Action
	// DisableRebindProtection lets answers hold any address, and a domain allow
	// open private and link-local ones.
	DisableRebindProtection bool
	// QUIC is TLSConfig.BlockQUIC.
	QUIC QUICMode
	// InterceptedPorts are the TCP ports where TLS is intercepted; UDP to them
	// is refused unless QUIC is QUICPass. Empty without interception.
	InterceptedPorts []uint16

	broken bool // Flatten found errors: New refuses
}

// A QUICMode says when QUIC is refused, so that clients fall back to TCP, where
// the name can be seen.
type QUICMode uint8

const (
	QUICByRule QUICMode = iota // BlockQUIC unset: where a domain rule matters, and on intercepted ports
	QUICRefuse                 // BlockQUIC true: always
	QUICPass                   // BlockQUIC false: never
)

// A Spec is the part of a configuration that a policy is made from, in the
// user's words: the fields of the reference's NetworkConfig. Its zero value is
// the preset public-only.
type Spec struct {
	Policy             string // a preset's name, or ""
	Rules              []RuleSpec
	DefaultEgress      string // allow, deny, or "" for the preset's default, or deny without a preset
	DefaultIngress     string // allow, deny, or "" for the preset's default, or allow without a preset
	DenyDomains        []string
	DenyDomainSuffixes []string
}

// Flatten returns the configuration that s describes, each Rule with its
// Source, and an error for every field that can't be read, with its whole path.
// If there is any, New refuses the Config, while Check still judges the rules
// that could be read, so that all problems can be reported at once.
func (s Spec) Flatten() (Config, Problems) {
	c, problems := s.base()
	// Deny lists come first, before a preset too: nothing the user allows elsewhere
	// opens what they name.
	var deny []Rule
	for i, domain := range s.DenyDomains {
		rules, p := denyDomain(domain, fmt.Sprintf("DenyDomains[%d]", i))
		deny, problems = append(deny, rules...), append(problems, p...)
	}
	for i, suffix := range s.DenyDomainSuffixes {
		rules, p := denySuffix(suffix, fmt.Sprintf("DenyDomainSuffixes[%d]", i))
		deny, problems = append(deny, rules...), append(problems, p...)
	}
	c.Rules = append(deny, c.Rules...)
	for i, spec := range s.Rules {
		r, p := spec.parse()
		r.Source = fmt.Sprintf("Rules[%d]", i)
		problems = append(problems, p.under(r.Source)...)
		if len(p) == 0 {
			c.Rules = append(c.Rules, r)
		}
	}
	if c.Preset == PresetNone {
		problems = append(problems, s.besideNone()...)
	}
	c.broken = len(problems) > 0
	return c, problems
}

// base returns the preset or the custom defaults that the rest of s adds to: the
// contract's table of effective policies. Deny lists alone do not make a
// configuration custom.
func (s Spec) base() (Config, Problems) {
	preset := s.Policy
	custom := len(s.Rules) > 0 || s.DefaultEgress != "" || s.DefaultIngress != ""
	if preset == "" && !custom {
		preset = PresetPublicOnly
	}
	// What is published was published by the user, so it may be reached; nothing
	// leaves that isn't allowed.
	c := Config{DefaultIngress: Allow}
	var problems Problems
	if preset != "" {
		var err error
		if c, err = Preset(preset); err != nil {
			problems = append(problems, Problem{Field: "Policy", Value: preset, Message: "no such preset",
				Fix: "write none, public-only, non-local or allow-all"})
		}
	}
	for _, d := range []struct {
		field, value string
		action       *Action
	}{
		{"DefaultEgress", s.DefaultEgress, &c.DefaultEgress},
		{"DefaultIngress", s.DefaultIngress, &c.DefaultIngress},
	} {
		switch d.value {
		case "":
		case "allow":
			*d.action = Allow
		case "deny":
			*d.action = Deny
		default:
			problems = append(problems, Problem{Field: d.field, Value: d.value, Message: "no such action", Fix: "write allow or deny"})
		}
	}
	return c, problems
}

// besideNone returns an error for every field that makes no sense without a
// network card.
func (s Spec) besideNone() Problems {
	var problems Problems
	for _, f := range []struct {
		field string
		set   bool
	}{
		{"Rules", len(s.Rules) > 0},
		{"DefaultEgress", s.DefaultEgress != ""},
		{"DefaultIngress", s.DefaultIngress != ""},
		{"DenyDomains", len(s.DenyDomains) > 0},
		{"DenyDomainSuffixes", len(s.DenyDomainSuffixes) > 0},
	} {
		if f.set {
			problems = append(problems, Problem{Field: f.field, Message: "with Policy none there is no network to rule", Fix: "drop it, or choose another policy"})
		}
	}
	return problems
}

// Preset returns the configuration of a preset: its rules, each with the preset
// as its Source, and its defaults.
func Preset(name string) (Config, error) {
	c := Config{Preset: name, DefaultIngress: Allow}
	rule := func(g Group, p ProtocolSet, ports ...PortRange) {
		c.Rules = append(c.Rules, Rule{
			Action: Allow, Direction: Egress, Destination: GroupDestination(g),
			Protocols: p, Ports: ports, Source: sourcePreset + name,
		})
	}
	switch name {
	case PresetNone:
		c.DefaultIngress = Deny
	case PresetPublicOnly, PresetNonLocal:
		// Queries are flows to the host's port 53: without this rule the names of
		// what may be reached couldn't be looked up.
		rule(GroupHost, ProtocolsOf(UDP, TCP), PortRange{53, 53})
		rule(GroupPublic, 0)
		if name == PresetNonLocal {
			rule(GroupPrivate, 0)
		}
	case PresetAllowAll:
		c.DefaultEgress = Allow
	default:
		return Config{}, fmt.Errorf("no preset is named %q", name)
	}
	return c, nil
}

// denyDomain returns the rules of an entry of DenyDomains: one name, or the host by
// one of its aliases.
func denyDomain(entry, source string) ([]Rule, Problems) {
	if strings.HasPrefix(entry, ".") || strings.HasPrefix(entry, "*") {
		return nil, Problems{{Field: source, Value: entry, Message: "DenyDomains holds single names",
			Fix: "for a domain with its subdomains use DenyDomainSuffixes"}}
	}
	name, err := ParseName(entry)
	if p, ok := err.(Problem); ok {
		return nil, Problems{p}.under(source)
	}
	d := DomainDestination(name)
	if IsHostAlias(name) {
		d = GroupDestination(GroupHost)
	}
	return []Rule{{Direction: Egress, Destination: d, Source: source}}, nil
}

// denySuffix returns the rules of an entry of DenyDomainSuffixes, with or
// without its leading dot: the apex and the subdomains, two rules of one source.
func denySuffix(entry, source string) ([]Rule, Problems) {
	base := strings.TrimPrefix(entry, ".")
	name, err := ParseName(base)
	if rest, ok := strings.CutPrefix(base, "*."); ok {
		err = Problem{Message: "a domain can't hold `*`", Fix: "write " + rest + ": an entry matches the subdomains as well"}
	}
	if err != nil {
		p, _ := revalue(err, entry).(Problem)
		return nil, Problems{p}.under(source)
	}
	return []Rule{
		{Direction: Egress, Destination: DomainDestination(name), Source: source},
		{Direction: Egress, Destination: SuffixDestination(name), Source: source},
	}, nil
}
