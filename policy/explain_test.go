package policy

import (
	"fmt"
	"strings"
	"testing"
)

// steps writes an explanation, one line for each rule: ! decided, + matched, -
// not, in brackets what no longer mattered.
func steps(e Explanation) []string {
	var out []string
	for _, s := range e.Steps {
		mark := "-"
		switch {
		case s.Decides():
			mark = "!"
		case s.Matched && s.Rule >= 0:
			mark = "+"
		}
		line := fmt.Sprintf("%s %s: %s", mark, s.Source, s.Why)
		if s.Missing != "" {
			line += " | " + s.Missing
		}
		if !s.Reached {
			line = "(" + line + ")"
		}
		out = append(out, line)
	}
	return out
}

func checkSteps(t *testing.T, what string, got []string, want string) {
	t.Helper()
	lines := strings.Split(strings.Trim(want, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	if strings.Join(got, "\n") != strings.Join(lines, "\n") {
		t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(lines, "\n"))
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ rules, flow, evidence, want string }{
		{"deny ingress *; deny * udp; deny * 80,90-99; deny private; deny 10.0.0.0/8; allow public; deny *", "tcp 1.1.1.1:443", "", `
			- Rules[0]: for ingress, the flow is egress
			- Rules[1]: for udp, the flow is tcp
			- Rules[2]: for port 80,90-99, the flow's is 443
			- Rules[3]: 1.1.1.1 is public, not private
			- Rules[4]: 1.1.1.1 is not in 10.0.0.0/8
			! Rules[5]: 1.1.1.1 is public
			(+ Rules[6]: for any address)
			(- default egress: the default is for whatever no rule matches)`},
		{"deny * 80; deny 1.1.1.1", "icmpv6 64:ff9b::1.1.1.1", "", `
			- Rules[0]: a rule with ports is never for icmpv6
			! Rules[1]: 1.1.1.1 inside 64:ff9b::101:101 is in 1.1.1.1
			(- default egress: the default is for whatever no rule matches)`},
		{"deny any a.test; ingress deny", "in tcp 1.1.1.1 80", "", `
			- Rules[0]: peers of ingress have no names
			! default ingress: the default is for whatever no rule matches`},
		{"allow a.test; deny b.test", "tcp 1.1.1.1:443", "opaque |", `
			- Rules[0]: no name is known for 1.1.1.1 | an answer of the configured resolver with 1.1.1.1 for a name in a.test
			- Rules[1]: no name is known for 1.1.1.1 | an answer of the configured resolver with 1.1.1.1 for a name in b.test
			! default egress: the default is for whatever no rule matches`},
		{"allow c.test; allow a.test", "tcp 1.1.1.1:443", "opaque | a.test b.test", `
			- Rules[0]: none of the names of 1.1.1.1 matches: a.test, b.test | a name that matches, in the flow's first bytes and in an answer of the configured resolver
			- Rules[1]: 1.1.1.1 is an address of a.test, but also of b.test, which is not allowed, and the flow shows no name | the name in the flow's first bytes
			! default egress: the default is for whatever no rule matches`},
		{"deny b.test; allow a.test", "tcp 1.1.1.1:443", "opaque | a.test", `
			- Rules[0]: none of the names of 1.1.1.1 matches: a.test | a name that matches, in the flow's first bytes and in an answer of the configured resolver
			! Rules[1]: 1.1.1.1 is an address of a.test, and all its names are allowed
			(- default egress: the default is for whatever no rule matches)`},
		{"deny a.test; default allow", "tcp 1.1.1.1:443", "opaque | a.test", `
			! Rules[0]: 1.1.1.1 is an address of a.test
			(- default egress: the default is for whatever no rule matches)`},
		{"allow a.test", "tcp 10.0.0.5:443", "opaque | a.test", `
			- Rules[0]: 10.0.0.5 is an address of a.test, but private, and no address rule admits it
			! default egress: the default is for whatever no rule matches`},
		{"allow b.test; allow a.test", "tcp 1.1.1.1:443", "name a.test |", `
			- Rules[0]: the flow shows a.test
			- Rules[1]: the flow shows a.test, but the configured resolver has not answered 1.1.1.1 for it | an answer of the configured resolver with 1.1.1.1 for a.test
			! default egress: the default is for whatever no rule matches`},
		{"allow b.test; allow a.test", "tcp 1.1.1.1:443", "name a.test | a.test", `
			- Rules[0]: the flow shows a.test
			! Rules[1]: the flow shows a.test
			(- default egress: the default is for whatever no rule matches)`},
		{"allow a.test", "tcp 10.0.0.5:443", "name a.test | a.test", `
			- Rules[0]: the flow shows a.test, but 10.0.0.5 is private, and no address rule admits it
			! default egress: the default is for whatever no rule matches`},
		{"deny a.test; default allow", "tcp 1.1.1.1:443", "name b.test | a.test", `
			! Rules[0]: 1.1.1.1 is an address of a.test, and not of b.test, which the flow shows
			(- default egress: the default is for whatever no rule matches)`},
		{"deny a.test; default allow", "tcp 1.1.1.1:443", "malformed |", `
			! Rules[0]: the first bytes are malformed and may hide a name, so every domain rule denies
			(- default egress: the default is for whatever no rule matches)`},
	} {
		e := parsePolicy(t, row.rules).Explain(testHost, parseFlow(t, row.flow), parseEvidence(t, row.evidence))
		checkSteps(t, row.rules+": "+row.flow+" ["+row.evidence+"]", steps(e), row.want)
	}
}

func TestExplainDNS(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ rules, query, want string }{
		{"deny ingress *; deny b.test; deny a.test 80; allow private; deny public; allow host; deny * udp; allow host udp,tcp 53; allow public; allow a.test", "udp a.test", `
			- Rules[0]: for ingress, a query is egress
			- Rules[1]: a.test is not in b.test
			- Rules[2]: for a.test, but only for some protocols or ports
			- Rules[3]: says nothing about names
			- Rules[4]: a deny of public addresses says nothing about names
			- Rules[5]: does not list port 53 for this transport
			- Rules[6]: for *, but only for some protocols or ports
			! Rules[7]: for port 53, where queries go
			(+ Rules[8]: whoever may reach every public address may look up every name)
			(+ Rules[9]: for a.test)
			(- default egress: the default is for whatever no rule matches)`},
		{"allow a.test", "service _sip._tcp.a.test", `
			! Rules[0]: for a.test
			(- default egress: the default is for whatever no rule matches)`},
	} {
		e := parsePolicy(t, row.rules).ExplainDNS(parseQuery(row.query))
		checkSteps(t, row.rules+": "+row.query, steps(e), row.want)
	}
}

// The smallest rule that turns the verdict round, and where it goes.
func TestExplainChange(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ rules, flow, evidence, want string }{
		{"", "tcp 1.1.1.1:443", "syn |", "allow egress 1.1.1.1 tcp 443 at 0"},
		{"allow public", "tcp 1.1.1.1:443", "syn |", "deny egress 1.1.1.1 tcp 443 at 0"},
		{"", "icmpv4 1.1.1.1", "", "allow egress 1.1.1.1 icmpv4 at 0"},
		{"", "tcp 172.16.0.1:8080", "", "allow egress host tcp 8080 at 0"},
		{"", "tcp 169.254.169.254:80", "", "allow egress 169.254.169.254 tcp 80 at 0"},
		{"deny private; deny 1.1.0.0/16", "udp 1.1.1.1:53", "", "allow egress 1.1.1.1 udp 53 at 1"},
		{"", "tcp [64:ff9b::1.1.1.1]:443", "syn |", "allow egress 1.1.1.1 tcp 443 at 0"},
		{"default allow", "tcp [64:ff9b::1.1.1.1]:443", "syn |", "deny egress 64:ff9b::101:101 tcp 443 at 0"},
		{"ingress deny", "in tcp 127.0.0.1 80", "", "allow ingress host tcp 80 at 0"},
		{"", "in tcp 1.1.1.1 80", "", "deny ingress 1.1.1.1 tcp 80 at 0"},
		// A name, where a name would do.
		{"", "tcp 1.1.1.1:443", "name a.test | a.test", "allow egress a.test tcp 443 at 0"},
		{"deny .test; allow public", "tcp 1.1.1.1:443", "name a.test | a.test", "allow egress a.test tcp 443 at 0"},
		{"", "tcp 1.1.1.1:443", "name a.test |", "allow egress 1.1.1.1 tcp 443 at 0"},
		{"", "tcp 10.0.0.5:443", "name a.test | a.test", "allow egress 10.0.0.5 tcp 443 at 0"},
		{"", "tcp 1.1.1.1:443", "syn | a.test", "allow egress a.test tcp 443 at 0"},
		{"allow a.test", "tcp 1.1.1.1:443", "syn | a.test b.test", "allow egress 1.1.1.1 tcp 443 at 1"},
		{"default allow", "tcp 1.1.1.1:443", "name a.test |", "deny egress a.test tcp 443 at 0"},
		{"deny b.test; default allow", "tcp 1.1.1.1:443", "malformed |", "allow egress 1.1.1.1 tcp 443 at 0"},
		// Nothing helps.
		{"default allow", "tcp 127.0.0.1:80", "", "none"},
		{"default allow", "tcp 1.1.1.1:0", "", "none"},
	} {
		e := parsePolicy(t, row.rules).Explain(testHost, parseFlow(t, row.flow), parseEvidence(t, row.evidence))
		got := "none"
		if e.Change != nil {
			got = fmt.Sprintf("%v at %d", e.Change.Rule, e.Change.Before)
		}
		if got != row.want {
			t.Errorf("%s: %s [%s]: %s, want %s", row.rules, row.flow, row.evidence, got, row.want)
		}
	}
	for _, row := range []struct{ rules, query, want string }{
		{"", "udp a.test", "allow egress a.test tcp 443 at 0"},
		{"deny *", "udp a.test", "allow egress a.test tcp 443 at 0"},
		{"allow public", "udp a.test", "deny egress a.test at 0"},
		{"", "udp .", "none"},
	} {
		got := "none"
		if e := parsePolicy(t, row.rules).ExplainDNS(parseQuery(row.query)); e.Change != nil {
			got = fmt.Sprintf("%v at %d", e.Change.Rule, e.Change.Before)
		}
		if got != row.want {
			t.Errorf("%s: %s: %s, want %s", row.rules, row.query, got, row.want)
		}
	}
}

func TestExplainPlace(t *testing.T) {
	t.Parallel()
	c, _ := Spec{Policy: PresetPublicOnly, DenyDomains: []string{"ads.test"}, Rules: []RuleSpec{{Action: "deny", Destination: "10.0.0.0/8"}}}.Flatten()
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ flow, evidence, want string }{
		{"tcp 1.1.1.1:443", "name ads.test | ads.test", "nowhere, since deny lists come first: take DenyDomains[0] out instead"},
		{"tcp 1.1.1.1:443", "name b.test |", "before the preset's rules: drop Policy public-only and write its rules out behind this one"},
		{"tcp 10.0.0.5:443", "syn |", "before Rules[0]"},
		{"tcp 192.168.0.5:443", "syn |", "behind the rules"},
	} {
		e := p.Explain(testHost, parseFlow(t, row.flow), parseEvidence(t, row.evidence))
		if e.Change == nil || e.Change.Place != row.want {
			t.Errorf("%s: %+v, want %q", row.flow, e.Change, row.want)
		}
	}
	if got := nameList(strings.Fields("a b c d")); got != "a, b, c, d" {
		t.Error(got)
	}
	if got := nameList(strings.Fields("a b c d e f")); got != "a, b, c, d and 2 more" {
		t.Error(got)
	}
	if got := placeBefore(""); got != "before the rule that decided" {
		t.Error(got)
	}
}
