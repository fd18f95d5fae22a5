package policy

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// texts writes a configuration: the preset, the rules with their sources, the
// defaults.
func texts(c Config) string {
	out := []string{"[" + c.Preset + "]"}
	for _, r := range c.Rules {
		out = append(out, r.Source+": "+strings.TrimPrefix(r.String(), " "))
	}
	return strings.Join(append(out, c.DefaultEgress.String()+"/"+c.DefaultIngress.String()), "; ")
}

const publicOnly = "preset public-only: allow egress host tcp,udp 53; preset public-only: allow egress public"

// The contract's table of effective policies.
func TestFlatten(t *testing.T) {
	t.Parallel()
	one := []RuleSpec{{Action: "allow", Destination: "192.0.2.1"}}
	for _, row := range []struct {
		name string
		spec Spec
		want string
	}{
		{"nothing", Spec{}, "[public-only]; " + publicOnly + "; deny/allow"},
		{"deny lists only", Spec{DenyDomains: []string{"Ads.test."}, DenyDomainSuffixes: []string{".b.test", "c.test"}},
			"[public-only]; DenyDomains[0]: deny egress ads.test; DenyDomainSuffixes[0]: deny egress b.test; DenyDomainSuffixes[0]: deny egress .b.test; " +
				"DenyDomainSuffixes[1]: deny egress c.test; DenyDomainSuffixes[1]: deny egress .c.test; " + publicOnly + "; deny/allow"},
		{"the host", Spec{DenyDomains: []string{"host.docker.internal"}}, "[public-only]; DenyDomains[0]: deny egress host; " + publicOnly + "; deny/allow"},
		{"rules", Spec{Rules: one}, "[]; Rules[0]: allow egress 192.0.2.1; deny/allow"},
		{"default egress", Spec{DefaultEgress: "allow"}, "[]; allow/allow"},
		{"default ingress", Spec{DefaultIngress: "deny"}, "[]; deny/deny"},
		{"defaults", Spec{DefaultEgress: "deny", DefaultIngress: "allow"}, "[]; deny/allow"},
		{"public-only", Spec{Policy: "public-only"}, "[public-only]; " + publicOnly + "; deny/allow"},
		{"non-local", Spec{Policy: "non-local"}, "[non-local]; " + strings.ReplaceAll(publicOnly, "public-only", "non-local") + "; preset non-local: allow egress private; deny/allow"},
		{"allow-all", Spec{Policy: "allow-all"}, "[allow-all]; allow/allow"},
		{"none", Spec{Policy: "none"}, "[none]; deny/deny"},
		{"preset, rules, defaults", Spec{Policy: "public-only", Rules: one, DefaultEgress: "allow", DefaultIngress: "deny", DenyDomains: []string{"a.test"}},
			"[public-only]; DenyDomains[0]: deny egress a.test; " + publicOnly + "; Rules[0]: allow egress 192.0.2.1; allow/deny"},
		{"allow-all, denied", Spec{Policy: "allow-all", DefaultEgress: "deny"}, "[allow-all]; deny/allow"},
	} {
		c, problems := row.spec.Flatten()
		if got := texts(c); got != row.want || len(problems) > 0 {
			t.Errorf("%s:\ngot  %s %v\nwant %s", row.name, got, problems, row.want)
		}
		if _, err := New(c); err != nil {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

// Every problem at once, each with its path, its value and what would be right.
func TestFlattenProblems(t *testing.T) {
	t.Parallel()
	c, problems := Spec{
		Policy:             "lan",
		DefaultEgress:      "drop",
		DefaultIngress:     "Allow",
		DenyDomains:        []string{"ok.test", ".a.test", "*.b.test", "1.2.3.4", ""},
		DenyDomainSuffixes: []string{"*.c.test", "..", "ok.test"},
		Rules: []RuleSpec{
			{Action: "allow", Destination: "ok.test"},
			{Action: "allow", Destination: "meta", Ports: []string{"0"}},
			{Action: "deny", Direction: "ingress", Destination: "a.test"},
		},
	}.Flatten()
	want := []string{
		`Policy: "lan": no such preset; write none, public-only, non-local or allow-all`,
		`DefaultEgress: "drop": no such action; write allow or deny`,
		`DefaultIngress: "Allow": no such action; write allow or deny`,
		`DenyDomains[1]: ".a.test": DenyDomains holds single names; for a domain with its subdomains use DenyDomainSuffixes`,
		`DenyDomains[2]: "*.b.test": DenyDomains holds single names; for a domain with its subdomains use DenyDomainSuffixes`,
		`DenyDomains[3]: "1.2.3.4": an address is no domain name`,
		`DenyDomains[4]: no domain name: labels have 1 to 63 characters, the whole at most 253`,
		"DenyDomainSuffixes[0]: \"*.c.test\": a domain can't hold `*`; write c.test: an entry matches the subdomains as well",
		`DenyDomainSuffixes[1]: "..": no domain name: labels have 1 to 63 characters, the whole at most 253`,
		"Rules[1].Destination: \"meta\": no such group; group `metadata`? for a host name write `meta.`",
		`Rules[1].Ports[0]: "0": no port; write a number from 1 to 65535, or a range such as 8000-9000`,
	}
	for i, p := range problems {
		if i >= len(want) || p.Error() != want[i] || p.Warning {
			t.Errorf("problem %d: %v", i, p)
		}
	}
	if len(problems) != len(want) {
		t.Errorf("%d problems, want %d", len(problems), len(want))
	}
	// The rules that could be read are judged all the same.
	if err := c.Check().Err(); err == nil || !strings.Contains(err.Error(), `Rules[2].Destination: "a.test": peers have no names`) {
		t.Errorf("Check: %v", err)
	}
	if p, err := New(c); err == nil || p != nil {
		t.Errorf("New: %v, %v", p, err)
	}
	var problem Problem
	if err := problems.Err(); !errors.As(err, &problem) || problem.Field != "Policy" {
		t.Errorf("the joined error holds %v", problem)
	}
}

func TestNoneStandsAlone(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		field string
		spec  Spec
	}{
		{"Rules", Spec{Rules: []RuleSpec{{Action: "deny"}}}},
		{"DefaultEgress", Spec{DefaultEgress: "deny"}},
		{"DefaultIngress", Spec{DefaultIngress: "deny"}},
		{"DenyDomains", Spec{DenyDomains: []string{"a.test"}}},
		{"DenyDomainSuffixes", Spec{DenyDomainSuffixes: []string{"a.test"}}},
	} {
		row.spec.Policy = PresetNone
		c, problems := row.spec.Flatten()
		if len(problems) != 1 || problems[0].Field != row.field || problems[0].Warning {
			t.Errorf("none with %s: %v", row.field, problems)
		}
		if _, err := New(c); err == nil {
			t.Errorf("New takes none with %s", row.field)
		}
	}
	if _, err := Preset("lan"); err == nil {
		t.Error("there is a preset lan")
	}
}

// New refuses what no text could have given.
func TestNewRefusesValues(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		want string
		c    Config
	}{
		{"Rules[0].Action", Config{Rules: []Rule{{Action: 2}}}},
		{"Rules[0].Direction", Config{Rules: []Rule{{Direction: 4}}}},
		{"Rules[0].Protocols", Config{Rules: []Rule{{Protocols: 1}}}},
		{"Rules[0].Protocols", Config{Rules: []Rule{{Protocols: 1 << 5}}}},
		{"Rules[1].Ports[1]", Config{Rules: []Rule{{}, {Ports: []PortRange{{1, 2}, {0, 2}}}}}},
		{"mine.Ports[0]", Config{Rules: []Rule{{Source: "mine", Ports: []PortRange{{2, 1}}}}}},
		{"Rules[0].Destination", Config{Rules: []Rule{{Destination: GroupDestination(GroupNone)}}}},
		{"Rules[0].Destination", Config{Rules: []Rule{{Destination: GroupDestination(99)}}}},
		{"Rules[0].Destination", Config{Rules: []Rule{{Destination: PrefixDestination(netip.Prefix{})}}}},
		{"Rules[0].Destination", Config{Rules: []Rule{{Destination: DomainDestination("A.test")}}}},
		{"Rules[0].Destination", Config{Rules: []Rule{{Destination: SuffixDestination("")}}}},
		{"Policy", Config{Preset: "lan"}},
		{"Policy", Config{Preset: PresetNone, DefaultEgress: Allow}},
		{"Policy", Config{Preset: PresetNone, DefaultIngress: Allow}},
		{"Policy", Config{Preset: PresetNone, Rules: []Rule{{}}}},
		{"at most 4096", Config{Rules: make([]Rule, maxAddressRules+1)}},
	} {
		if p, err := New(row.c); p != nil || err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%+v: %v, want %q", row.c, err, row.want)
		}
	}
}

func TestMostAddressRules(t *testing.T) {
	t.Parallel()
	c := Config{Rules: append(make([]Rule, maxAddressRules), Rule{Destination: DomainDestination("a.test")})}
	if problems := c.checkValues(); len(problems) > 0 {
		t.Error(problems)
	}
}

// New keeps its own copy.
func TestNewCopies(t *testing.T) {
	t.Parallel()
	c := parseConfig(t, "allow public")
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	c.Rules[0].Action = Deny
	if v := p.Decide(testHost, parseFlow(t, "tcp 1.1.1.1:443"), Evidence{}); v.Action != Allow || p.Rules()[0].Action != Allow {
		t.Errorf("the policy changed: %+v", v)
	}
}
