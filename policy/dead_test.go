package policy

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// lintTexts returns what New would say of a configuration, one line a problem;
// warnings begin with w.
func lintTexts(tb testing.TB, rules string) []string {
	tb.Helper()
	var out []string
	for _, p := range parseConfig(tb, rules).Check() {
		mark := "e "
		if p.Warning {
			mark = "w "
		}
		out = append(out, mark+p.Error())
	}
	return out
}

// only keeps the problems about rules that never decide.
func only(lines []string) []string {
	return slices.DeleteFunc(lines, func(s string) bool {
		return !strings.Contains(s, "decides before it") && !strings.Contains(s, "never matches") && !strings.Contains(s, "always denied")
	})
}

func TestDeadRules(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ rules, want string }{
		// A deny behind an allow that takes all of it is an error.
		{"allow public; deny 1.1.1.1", `e Rules[1]: "deny egress 1.1.1.1": denies nothing: Rules[0] (allow egress public) decides before it; put it before Rules[0]`},
		{"allow *; deny private", `e Rules[1]: "deny egress private": denies nothing: Rules[0] (allow egress *) decides before it; put it before Rules[0]`},
		{"allow public; deny a.test", `e Rules[1]: "deny egress a.test": denies nothing: Rules[0] (allow egress public) decides before it; put it before Rules[0]`},
		{"allow .a.test; deny x.a.test", `e Rules[1]: "deny egress x.a.test": denies nothing: Rules[0] (allow egress .a.test) decides before it; put it before Rules[0]`},
		{"allow x.a.test; deny .a.test; deny .a.test tcp", `e Rules[2]: "deny egress .a.test tcp": denies nothing: Rules[0] (allow egress x.a.test) decides before it; put it before Rules[0]`},
		{"deny x.a.test; allow x.a.test; deny .a.test; deny .a.test tcp", `w Rules[1]: "allow egress x.a.test": is never reached: Rules[0] (deny egress x.a.test) decides before it; put it before Rules[0]` +
			"\n" + `w Rules[3]: "deny egress .a.test tcp": is never reached: Rules[2] (deny egress .a.test) decides before it; drop it`},
		{"allow 10.0.0.0/9; allow 10.128.0.0/9; deny 10.0.0.0/8", `e Rules[2]: "deny egress 10.0.0.0/8": denies nothing: Rules[0] (allow egress 10.0.0.0/9) decides before it; put it before Rules[0]`},
		{"deny 10.0.0.0/9; allow 10.128.0.0/9; deny 10.0.0.0/8", `e Rules[2]: "deny egress 10.0.0.0/8": denies nothing: Rules[1] (allow egress 10.128.0.0/9) decides before it; put it before Rules[1]`},
		{"allow * tcp; allow * udp; deny private 80", `e Rules[2]: "deny egress private 80": denies nothing: Rules[0] (allow egress * tcp) decides before it; put it before Rules[0]`},
		{"allow * 1-79; allow * 80-65535; deny private tcp", `e Rules[2]: "deny egress private tcp": denies nothing: Rules[0] (allow egress * 1-79) decides before it; put it before Rules[0]`},
		{"allow link-local; deny 169.254.0.0/16 80; deny metadata", ""},
		{"allow private; deny any 10.0.0.0/8", ""}, // its ingress half lives
		{"allow any private; deny any 10.0.0.0/8", `e Rules[1]: "deny any 10.0.0.0/8": denies nothing: Rules[0] (allow any private) decides before it; put it before Rules[0]`},
		{"allow 0.0.0.0/0; allow ::/0; deny host", `e Rules[2]: "deny egress host": denies nothing: Rules[0] (allow egress 0.0.0.0/0) decides before it; put it before Rules[0]`},

		// One flow left is enough.
		{"allow public tcp; deny 1.1.1.1", ""},
		{"allow 1.1.1.0/25; deny 1.1.1.0/24", ""},
		{"allow * 80; deny private", ""},
		{"allow * 1-79; allow * 81-65535; deny private tcp", ""},
		{"allow private; deny host", ""},
		{"allow 10.0.0.0/8; deny private", ""},
		{"allow x.a.test; deny .a.test", ""},
		{"allow .a.test; deny a.test", ""},
		{"allow a.test tcp; deny a.test", ""},
		{"allow 1.1.1.1; deny a.test", ""},
		{"allow private; deny a.test", ""},
		{"allow a.test; deny public", ""}, // a domain never takes what has no name
		{"allow a.test; deny public; deny 1.1.1.1", `w Rules[2]: "deny egress 1.1.1.1": is never reached: Rules[1] (deny egress public) decides before it; drop it`},
		{"allow public; deny 64:ff9b::/96", ""},
		{"allow public; deny 64:ff9b::101:101", `e Rules[1]: "deny egress 64:ff9b::101:101": denies nothing: Rules[0] (allow egress public) decides before it; put it before Rules[0]`},

		// The same action before it, or a dead allow, is a warning.
		{"allow public; allow 1.1.1.1", `w Rules[1]: "allow egress 1.1.1.1": is never reached: Rules[0] (allow egress public) decides before it; drop it`},
		{"deny private; deny 10.0.0.5", `w Rules[1]: "deny egress 10.0.0.5": is never reached: Rules[0] (deny egress private) decides before it; drop it`},
		{"deny private; allow 10.0.0.5", `w Rules[1]: "allow egress 10.0.0.5": is never reached: Rules[0] (deny egress private) decides before it; put it before Rules[0]`},
		{"deny .a.test; deny x.a.test", `w Rules[1]: "deny egress x.a.test": is never reached: Rules[0] (deny egress .a.test) decides before it; drop it`},
		{"deny .a.test; allow x.a.test", `w Rules[1]: "allow egress x.a.test": is never reached: Rules[0] (deny egress .a.test) decides before it; put it before Rules[0]`},
		{"deny .a.test; deny .x.a.test", `w Rules[1]: "deny egress .x.a.test": is never reached: Rules[0] (deny egress .a.test) decides before it; drop it`},
		{"deny a.test; deny a.test", `w Rules[1]: "deny egress a.test": is never reached: Rules[0] (deny egress a.test) decides before it; drop it`},

		// Rules that open nothing.
		{"allow loopback", `w Rules[0]: "allow egress loopback": allows only what is always denied; loopback is the guest's own; the host is group host`},
		{"allow any loopback", `w Rules[0]: "allow any loopback": allows only what is always denied; loopback is the guest's own; the host is group host`},
		{"allow 127.0.0.1 tcp 80", `w Rules[0]: "allow egress 127.0.0.1 tcp 80": allows only what is always denied; loopback is the guest's own; the host is group host`},
		{"allow multicast", `w Rules[0]: "allow egress multicast": allows only what is always denied; multicast is not forwarded`},
		{"allow 240.0.0.0/4", `w Rules[0]: "allow egress 240.0.0.0/4": allows only what is always denied; 240.0.0.0/4 and broadcast are no destinations`},
		{"allow fe80::/10", `w Rules[0]: "allow egress fe80::/10": allows only what is always denied; fe80::/10 does not leave its link`},
		{"allow 64:ff9b::192.0.2.1", `w Rules[0]: "allow egress 64:ff9b::c000:201": never matches: NAT64 addresses are judged by the IPv4 address inside; write that`},
		{"deny loopback; deny multicast; deny fe80::/10", ""},
		{"deny ingress loopback", `w Rules[0]: "deny ingress loopback": never matches: the host's loopback is group host for ingress; write host`},
		{"deny fd00::/8 icmpv4", `w Rules[0]: "deny egress fd00::/8 icmpv4": never matches: the protocol is not the addresses'; icmpv4 is for IPv4, icmpv6 for IPv6`},
		{"deny 10.0.0.0/8 icmpv6", ""}, // in NAT64 form
	} {
		if got := strings.Join(only(lintTexts(t, row.rules)), "\n"); got != row.want {
			t.Errorf("%s:\ngot  %s\nwant %s", row.rules, got, row.want)
		}
	}
}

// With a preset the fix writes it out.
func TestDeadBehindPreset(t *testing.T) {
	t.Parallel()
	c, _ := Spec{Policy: PresetNonLocal, Rules: []RuleSpec{{Action: "deny", Destination: "a.test"}, {Action: "allow", Destination: "10.0.0.5"}}}.Flatten()
	_, err := New(c)
	want := `Rules[0]: "deny egress a.test": denies nothing: preset non-local (allow egress public) decides before it; ` +
		`drop Policy and write Rules: [deny egress a.test, allow egress host tcp,udp 53, allow egress public, allow egress private]`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	c, _ = Spec{DenyDomains: []string{"a.test", "b.test"}, DenyDomainSuffixes: []string{"a.test", "b.test", "b.test"}, DefaultEgress: "allow",
		Rules: []RuleSpec{{Action: "allow", Destination: "a.test"}}}.Flatten()
	var got []string
	for _, p := range c.Check() {
		if strings.Contains(p.Message, "before it") {
			got = append(got, p.Error())
		}
	}
	wantAll := []string{
		// The apex of the suffixes was denied before, their subdomains were not.
		`DenyDomainSuffixes[2]: "deny egress b.test": is never reached: DenyDomains[1] (deny egress b.test) decides before it; drop it`,
		`Rules[0]: "allow egress a.test": is never reached: DenyDomains[0] (deny egress a.test) decides before it; drop it, or take DenyDomains[0] out`,
	}
	if !slices.Equal(got, wantAll) {
		t.Errorf("got %q", got)
	}
}

// A brute is a small universe of flows, one by one: every address that the
// rules below can tell apart, with and without a name.
type bruteFlow struct {
	Flow
	name string // "" if it has none
}

var (
	bruteHost         = &Host{Gateways: addrs("172.16.0.1 fc00:ffff::1")} // in no prefix below but /0
	bruteDestinations = strings.Fields(`* public private host metadata link-local loopback multicast 10.0.0.0/8 10.0.0.0/9 10.128.0.0/9 10.0.0.5 1.2.3.0/24 1.2.3.4
		0.0.0.0/0 ::/0 2000::/3 64:ff9b::/96 64:ff9b::a00:5 fd00::/8 169.254.0.0/16 169.254.169.254 192.0.2.0/24 127.0.0.0/8 a.test .a.test x.a.test .x.a.test b.test`)
	bruteAddrs4 = addrs(`10.0.0.5 10.0.0.6 10.200.0.1 192.168.0.1 1.2.3.4 1.2.3.5 8.8.8.8 192.0.2.1 198.18.0.1 169.254.169.254 169.254.170.2 169.254.1.1
		100.100.100.200 168.63.129.16 192.0.0.192 127.0.0.1 224.0.0.1 240.0.0.1 0.0.0.0 172.16.0.1`)
	bruteAddrs6 = addrs("2606::1 fd00::1 fc00::1 fd00:ec2::254 2001:db8::1 4000::1 ::1 ff02::1 fe80::1 fc00:ffff::1")
	bruteNames  = strings.Fields("a.test x.a.test y.x.a.test other.a.test other.y.x.a.test b.test c.test")
	brutePorts  = []PortRange{{1, 65535}, {53, 53}, {80, 80}, {1, 79}, {80, 65535}, {81, 65535}}
)

func bruteFlows() []bruteFlow {
	all := slices.Concat(bruteAddrs4, bruteAddrs6)
	for _, a := range bruteAddrs4 {
		all = append(all, nat64Form(a))
	}
	var flows []bruteFlow
	for _, a := range all {
		for _, d := range []Direction{Egress, Ingress} {
			for _, p := range []Protocol{TCP, UDP, ICMPv4, ICMPv6} {
				for _, port := range []uint16{1, 53, 54, 80, 81, 65535} {
					f := bruteFlow{Flow: Flow{d, p, netip.AddrPortFrom(a, port), port}}
					if !isFlow(f.Flow) || !p.HasPorts() && port != 1 {
						continue
					}
					if v := compile(Config{}).Decide(bruteHost, f.Flow, Evidence{}); v.Source == sourceAlways {
						continue
					}
					flows = append(flows, f)
					if d == Egress && bruteHost.Classify(a) == GroupPublic {
						for _, f.name = range bruteNames {
							flows = append(flows, f)
						}
					}
				}
			}
		}
	}
	return flows
}

// bruteMatch reports whether a rule matches a flow of the small universe.
func bruteMatch(m *modelCase, r Rule, name string) bool {
	if !m.fits(r) {
		return false
	}
	if modelIsDomain(r) {
		return name != "" && modelMatches(r.Destination.String(), name)
	}
	return m.addressYes(r)
}

// bruteCover is cover, flow by flow.
func bruteCover(c Config, flows []bruteFlow) []cover {
	covers := make([]cover, len(c.Rules))
	for _, f := range flows {
		a := f.Peer.Addr()
		m := &modelCase{c: &c, h: bruteHost, f: f.Flow, port: f.port()}
		m.in, _ = modelInner(bruteHost, a)
		m.g = modelClass(bruteHost, m.in)
		if f.Direction == Ingress && m.g == GroupLoopback {
			m.g = GroupHost
		}
		first := -1
		for i, r := range c.Rules {
			if !bruteMatch(m, r, f.name) {
				continue
			}
			if first < 0 {
				first = i
			}
			if f.name != "" && !modelIsDomain(r) {
				continue // rules by address are asked about flows without a name
			}
			covers[i].flows = true
			covers[i].live = covers[i].live || first == i
			if c.Rules[first].Action == Allow {
				covers[i].by = 1 // an allow takes some of it
			}
		}
	}
	return covers
}

// The rules that lint finds dead are those that decide no flow of the small
// universe, and the dead deny rules those of which an allow takes something.
func TestDeadRulesAgreeWithBruteForce(t *testing.T) {
	t.Parallel()
	flows := bruteFlows()
	forCases(t, 1500, func(r *rand.Rand, _ Config) bool {
		c := Config{DefaultEgress: Allow}
		for range 1 + r.IntN(6) {
			rule := Rule{Action: Action(r.IntN(2)), Direction: Direction(1 + r.IntN(3))}
			rule.Destination, _ = ParseDestination(pick(r, bruteDestinations))
			if r.IntN(2) == 0 {
				rule.Protocols = ProtocolSet(r.IntN(16) << 1)
			}
			if r.IntN(3) == 0 {
				rule.Ports = []PortRange{pick(r, brutePorts)}
			}
			if rule.Destination.IsDomain() {
				rule.Direction = Egress
			}
			c.Rules = append(c.Rules, rule)
		}
		want := bruteCover(c, flows)
		u := newUniverse(compile(c))
		for i := range c.Rules {
			got := u.cover(i)
			byAllow := got.flows && !got.live && c.Rules[got.by].Action == Allow
			wantAllow := want[i].flows && !want[i].live && want[i].by == 1
			if got.flows != want[i].flows || got.live != want[i].live || byAllow != wantAllow {
				t.Errorf("%s: rule %d: got %+v, want %+v", ruleTexts(c), i, got, want[i])
				return false
			}
		}
		return true
	})
}

// A rule that is found dead makes no difference to any flow of the small
// universe that shows its name, if it has one.
func TestDeadRulesMakeNoDifference(t *testing.T) {
	t.Parallel()
	c := parseConfig(t, "allow 10.0.0.0/9; deny x.a.test; allow .a.test tcp; allow public; deny 10.0.0.5; deny .x.a.test tcp; deny 1.2.3.4")
	u := newUniverse(compile(c))
	for i := range c.Rules {
		if cover := u.cover(i); cover.live {
			continue
		}
		less := c
		less.Rules = slices.Delete(slices.Clone(c.Rules), i, i+1)
		with, without := compile(c), compile(less)
		for _, f := range bruteFlows() {
			ev := Evidence{Stage: StageNoName}
			if f.name != "" {
				ev = Evidence{Stage: StageName, Name: f.name, Names: []string{f.name}}
			}
			if a, b := with.Decide(bruteHost, f.Flow, ev), without.Decide(bruteHost, f.Flow, ev); a.Action != b.Action {
				t.Fatalf("without rule %d (%v): %+v is %v, was %v", i, c.Rules[i], f, b, a)
			}
		}
	}
}
