package policy

import (
	"flag"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The model is a second implementation of the contract, slow and obvious, kept
// apart from the first one: it shares the types and nothing else. Its functions
// repeat the contract's sentences in their order.

var (
	modelSeed  = flag.Uint64("seed", 0, "seed of the generated cases; 0 takes the clock")
	modelCases = flag.Int("cases", 1<<20, "number of generated cases")
)

// The ranges of the contract.
var (
	modelMetadata   = addrs("169.254.169.254 fd00:ec2::254 fd20:ce::254 169.254.170.2 169.254.170.23 fd00:ec2::23 100.100.100.200 168.63.129.16 192.0.0.192 169.254.0.23 169.254.10.10 169.254.42.42")
	modelLoopback   = prefixes("127.0.0.0/8 ::1/128")
	modelMulticast  = prefixes("224.0.0.0/4 ff00::/8")
	modelLinkLocal6 = prefixes("fe80::/10")
	modelPrivate    = prefixes("10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7")
	modelLinkLocal4 = prefixes("169.254.0.0/16")
	modelReserved4  = prefixes("0.0.0.0/8 192.0.0.0/24 192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 192.88.99.0/24 198.18.0.0/15 240.0.0.0/4")
	modelReachable6 = prefixes("2001:1::1/128 2001:1::2/128 2001:1::3/128 2001:3::/32 2001:4:112::/48 2001:20::/28 2001:30::/28")
	modelReserved6  = prefixes("2001::/23 2001:db8::/32 2002::/16 3fff::/20")
	modelGlobal6    = prefixes("2000::/3")
	modelNever      = prefixes("0.0.0.0/8 240.0.0.0/4 ::/96 ::ffff:0:0/96 fe80::/10")
	modelNAT64      = prefixes("64:ff9b::/96")
)

func inOneOf(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

func modelISATAP(a netip.Addr) bool {
	if !a.Is6() {
		return false
	}
	id := a.StringExpanded()[20:]
	return strings.HasPrefix(id, "0000:5efe") || strings.HasPrefix(id, "0200:5efe")
}

// modelClass is the contract's order as a chain of questions.
func modelClass(h *Host, a netip.Addr) Group {
	switch {
	case a.IsUnspecified():
		return GroupNone
	case slices.Contains(h.Gateways, a):
		return GroupHost
	case slices.Contains(modelMetadata, a):
		return GroupMetadata
	case inOneOf(modelLoopback, a):
		return GroupLoopback
	case inOneOf(modelMulticast, a):
		return GroupMulticast
	case inOneOf(modelLinkLocal6, a):
		return GroupLinkLocal
	case slices.Contains(h.Addrs, a):
		return GroupHost
	case modelISATAP(a):
		return GroupNone
	case inOneOf(modelPrivate, a):
		return GroupPrivate
	case inOneOf(modelLinkLocal4, a):
		return GroupLinkLocal
	case inOneOf(modelReserved4, a):
		return GroupNone
	case inOneOf(modelReachable6, a):
		return GroupPublic
	case inOneOf(modelReserved6, a), a.Is6() && !inOneOf(modelGlobal6, a):
		return GroupNone
	}
	return GroupPublic
}

// modelInner takes the IPv4 address out of the NAT64 forms that the tests use.
func modelInner(h *Host, a netip.Addr) (netip.Addr, bool) {
	if !a.Is6() {
		return a, false
	}
	b := a.As16()
	for _, p := range slices.Concat(modelNAT64, h.NAT64) {
		switch {
		case !p.Contains(a):
		case p.Bits() == 96:
			return netip.AddrFrom4([4]byte(b[12:16])), true
		case p.Bits() == 32:
			return netip.AddrFrom4([4]byte(b[4:8])), true
		}
	}
	return a, false
}

// modelAlways reports whether an address is denied whatever the rules say.
func modelAlways(h *Host, a netip.Addr) bool {
	inner, nat64 := modelInner(h, a)
	if nat64 {
		if g := modelClass(h, inner); g == GroupHost || g == GroupNone {
			return true
		}
	}
	if inOneOf(h.Others, inner) || inOneOf(h.Others, a) {
		return true
	}
	for _, block := range h.Blocks {
		if inner == block.Addr() || inner == lastAddress(block) && inner.Is4() {
			return true
		}
	}
	switch g := modelClass(h, inner); {
	case g == GroupHost:
		return false
	case g == GroupLoopback, g == GroupMulticast:
		return true
	}
	return inOneOf(modelNever, inner)
}

// A modelCase is one flow under one configuration.
type modelCase struct {
	c    *Config
	h    *Host
	f    Flow
	ev   Evidence
	in   netip.Addr // the address that is judged
	g    Group
	port uint16
}

// fits: direction, protocol and ports.
func (m *modelCase) fits(r Rule) bool {
	if r.Direction != Any && r.Direction != m.f.Direction {
		return false
	}
	if r.Protocols != 0 {
		listed := false
		for _, p := range strings.Split(r.Protocols.String(), ",") {
			listed = listed || p == m.f.Protocol.String()
		}
		if !listed {
			return false
		}
	}
	if len(r.Ports) == 0 {
		return true
	}
	if m.f.Protocol == ICMPv4 || m.f.Protocol == ICMPv6 {
		return false
	}
	for _, p := range r.Ports {
		if m.port >= p.First && m.port <= p.Last {
			return true
		}
	}
	return false
}

func modelIsDomain(r Rule) bool {
	s := r.Destination.String()
	if s == "*" || strings.ContainsAny(s, ":/") {
		return false
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return false
	}
	return strings.Contains(s, ".")
}

// modelMatches compares labels from the right.
func modelMatches(domain, name string) bool {
	base, isSuffix := strings.CutPrefix(domain, ".")
	d, n := strings.Split(strings.TrimSuffix(base, "."), "."), strings.Split(name, ".")
	if len(n) < len(d) || !isSuffix && len(n) != len(d) || isSuffix && len(n) == len(d) {
		return false
	}
	for i := range d {
		if d[len(d)-1-i] != n[len(n)-1-i] {
			return false
		}
	}
	return true
}

// addressYes: a group, an address, a prefix or any.
func (m *modelCase) addressYes(r Rule) bool {
	switch s := r.Destination.String(); {
	case s == "*":
		return true
	case strings.ContainsAny(s, ":/") || s[0] >= '0' && s[0] <= '9':
		if !strings.Contains(s, "/") {
			a := netip.MustParseAddr(s)
			return a == m.in || r.Action == Deny && a == m.f.Peer.Addr()
		}
		p := netip.MustParsePrefix(s)
		return p.Contains(m.in) || r.Action == Deny && p.Contains(m.f.Peer.Addr())
	default:
		return s == m.g.String() && m.g != GroupNone
	}
}

func (m *modelCase) defaultAction() Action {
	if m.f.Direction == Ingress {
		return m.c.DefaultIngress
	}
	return m.c.DefaultEgress
}

// walk is the table: yes says whether a domain rule is Yes. It returns the
// action and the index of the rule, or -1.
func (m *modelCase) walk(yes func(Rule) bool) (Action, int) {
	for i, r := range m.c.Rules {
		if !m.fits(r) {
			continue
		}
		if modelIsDomain(r) {
			if m.f.Direction == Egress && yes(r) {
				return r.Action, i
			}
		} else if m.addressYes(r) {
			return r.Action, i
		}
	}
	return m.defaultAction(), -1
}

func (m *modelCase) addressOnly() (Action, int) { return m.walk(func(Rule) bool { return false }) }

// opens: the address is public, or admitted for this flow, or private or
// link-local with rebind protection off.
func (m *modelCase) opens() bool {
	admitted, _ := m.addressOnly()
	return m.g == GroupPublic || admitted == Allow ||
		m.c.DisableRebindProtection && (m.g == GroupPrivate || m.g == GroupLinkLocal)
}

func someMatches(r Rule, list []string) bool {
	for _, n := range list {
		if modelMatches(r.Destination.String(), n) {
			return true
		}
	}
	return false
}

// named are the rows "name N".
func (m *modelCase) named(n string) (Action, int) {
	given := slices.Contains(m.ev.Names, n)
	return m.walk(func(r Rule) bool {
		matches := modelMatches(r.Destination.String(), n)
		if r.Action == Allow {
			return matches && given && m.opens()
		}
		return matches || someMatches(r, m.ev.Names) && !given
	})
}

// unnamed are the rows "no name".
func (m *modelCase) unnamed() (Action, int) {
	return m.walk(func(r Rule) bool {
		if r.Action == Deny {
			return someMatches(r, m.ev.Names)
		}
		if !someMatches(r, m.ev.Names) || !m.opens() {
			return false
		}
		for _, n := range m.ev.Names {
			if a, _ := m.named(n); a != Allow {
				return false
			}
		}
		return true
	})
}

// standing returns the domain rules that stand before rule i, or before the
// default for -1.
func (m *modelCase) standing(i int) []Rule {
	var out []Rule
	for k, r := range m.c.Rules {
		if i >= 0 && k >= i {
			break
		}
		if modelIsDomain(r) && m.f.Direction == Egress && m.fits(r) {
			out = append(out, r)
		}
	}
	return out
}

// A modelVerdict is what of a Verdict the contract fixes.
type modelVerdict struct {
	action                      Action
	needsName, dial, perRequest bool
	refuse                      Refusal
	rule                        int
}

func (m *modelCase) decide() modelVerdict {
	deny := modelVerdict{rule: -1}
	a := m.f.Peer.Addr()
	if m.f.Direction == Egress {
		m.in, _ = modelInner(m.h, a)
		m.g = modelClass(m.h, m.in)
		m.port = m.f.Peer.Port()
		if a.Is4In6() || modelAlways(m.h, a) {
			return deny
		}
	} else {
		a = a.Unmap()
		m.f.Peer = netip.AddrPortFrom(a, m.f.Peer.Port())
		m.in, _ = modelInner(m.h, a)
		m.g = modelClass(m.h, m.in)
		m.port = m.f.GuestPort
		if m.g == GroupLoopback {
			m.g = GroupHost
		} else if modelAlways(m.h, a) {
			return deny
		}
	}
	isICMP := m.f.Protocol == ICMPv4 || m.f.Protocol == ICMPv6
	switch {
	case !isICMP && m.port == 0, isICMP && m.f.Direction == Ingress,
		m.f.Protocol == ICMPv4 && !a.Is4(), m.f.Protocol == ICMPv6 && a.Is4():
		return deny
	}

	_, first := m.addressOnly()
	before := m.standing(first)
	stage := m.ev.Stage
	if stage == StageAddress && m.f.Protocol != TCP {
		stage = StageNoName
	}
	var v modelVerdict
	switch stage {
	case StageName:
		v.action, v.rule = m.named(m.ev.Name)
	case StageMalformed:
		v.action, v.rule = m.walk(func(Rule) bool { return true })
		if len(before) > 0 {
			v.action = Deny
		}
	default:
		v.action, v.rule = m.unnamed()
	}
	if stage == StageAddress && len(before) > 0 {
		switch {
		case v.action == Allow: // (b)
			v.needsName, v.dial = true, true
		default: // (c) or (d)
			for _, n := range m.ev.Names {
				if a, _ := m.named(n); a == Allow {
					v.needsName = true
				}
			}
		}
	}
	byDomain := v.rule >= 0 && modelIsDomain(m.c.Rules[v.rule])
	v.perRequest = byDomain
	for _, r := range before {
		v.perRequest = v.perRequest || r.Action == Deny
	}
	v.refuse = m.refuse(v, byDomain)
	return v
}

// refuse is the QUIC rule.
func (m *modelCase) refuse(v modelVerdict, byDomain bool) Refusal {
	lists := func(r Rule) bool {
		return len(r.Ports) > 0 && strings.Contains(r.Protocols.String(), "udp") && m.fits(r)
	}
	if v.action != Allow || m.f.Protocol != UDP || m.f.Direction != Egress || m.c.QUIC == QUICPass {
		return RefuseNone
	}
	for _, p := range m.c.InterceptedPorts {
		if p == m.port {
			return RefuseAll
		}
	}
	refused := m.c.QUIC == QUICRefuse
	involved := m.standing(v.rule)
	if byDomain {
		involved = append(involved, m.c.Rules[v.rule])
	}
	for _, r := range involved {
		refused = refused || !lists(r)
	}
	if byDomain && lists(m.c.Rules[v.rule]) && m.c.QUIC != QUICRefuse {
		refused = false
	}
	switch {
	case !refused:
		return RefuseNone
	case m.port == 443:
		return RefuseAll
	}
	return RefuseQUIC
}

// The small universe that cases are drawn from.
var (
	modelDestinations = strings.Fields(`* * public public private host metadata link-local loopback multicast
		10.0.0.0/8 10.0.0.5 1.1.1.0/24 1.1.1.1 0.0.0.0/0 ::/0 2606::/16 64:ff9b::/96 64:ff9b::1.1.1.1 64:ff9b::10.0.0.5 169.254.0.0/16
		192.0.2.0/24 172.16.0.0/12 127.0.0.1 fd00::/8
		a.test a.test b.test x.a.test .a.test .a.test .x.a.test .test c.test test.`)
	modelPeers = addrs(`1.1.1.1 1.1.1.1 1.1.1.1 1.1.1.2 8.8.8.8 2606::1 10.0.0.5 10.0.0.6 192.168.1.10 192.168.1.11 172.16.0.1 172.16.0.3 172.16.0.6
		169.254.169.254 169.254.7.7 192.0.2.1 198.18.0.1 127.0.0.1 ::1 0.0.0.0 :: 255.255.255.255 224.0.0.251 ff02::fb fe80::1 fe80::10
		::ffff:1.1.1.1 ::1.1.1.1 64:ff9b::1.1.1.1 64:ff9b::10.0.0.5 64:ff9b::169.254.169.254 64:ff9b::172.16.0.1 64:ff9b::192.0.2.1 64:ff9b::172.16.0.6
		2a00:64:101:101:: 2a00:64:a00:5:: 2001:db8:64::1.1.1.1 64:ff9b:1::1 2002::1 fd42:6d73:62::1 fd42:6d73:62:1::2 fd00:ec2::254 100.100.100.200
		2606::200:5efe:101:101 2a00:1::10 203.0.114.7`)
	modelNames = strings.Fields("a.test b.test x.a.test y.x.a.test c.test test evila.test a.test.evil")
	modelPorts = []uint16{1, 22, 53, 80, 443, 443, 444, 8443, 65535}
)

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func randomRule(r *rand.Rand) Rule {
	rule := Rule{Action: Action(r.IntN(2)), Direction: Egress}
	switch r.IntN(8) {
	case 0:
		rule.Direction = Ingress
	case 1:
		rule.Direction = Any
	}
	rule.Destination, _ = ParseDestination(pick(r, modelDestinations))
	switch r.IntN(6) {
	case 0:
		rule.Protocols = ProtocolsOf(TCP)
	case 1:
		rule.Protocols = ProtocolsOf(UDP)
	case 2:
		rule.Protocols = ProtocolsOf(TCP, UDP)
	case 3:
		rule.Protocols = ProtocolSet(r.IntN(16) << 1)
	}
	for r.IntN(3) == 0 {
		p := PortRange{First: pick(r, modelPorts)}
		p.Last = p.First
		if r.IntN(2) == 0 {
			p.Last = max(p.First, pick(r, modelPorts))
		}
		rule.Ports = append(rule.Ports, p)
	}
	return rule
}

func randomConfig(r *rand.Rand) Config {
	c := Config{
		DefaultEgress:           Action(r.IntN(2)),
		DefaultIngress:          Action(r.IntN(2)),
		DisableRebindProtection: r.IntN(8) == 0,
		QUIC:                    QUICMode(max(0, r.IntN(8)-5)),
	}
	if r.IntN(8) == 0 {
		c.InterceptedPorts = []uint16{443, 8443}
	}
	if r.IntN(8) == 0 {
		c.Preset = PresetAllowAll
	}
	for range r.IntN(7) {
		c.Rules = append(c.Rules, randomRule(r))
	}
	return c
}

func randomFlow(r *rand.Rand) Flow {
	f := Flow{Direction: Egress, Protocol: TCP}
	if r.IntN(8) == 0 {
		f.Direction = Ingress
	}
	switch r.IntN(4) {
	case 0:
		f.Protocol = UDP
	case 1:
		f.Protocol = Protocol(1 + r.IntN(4))
	}
	f.Peer = netip.AddrPortFrom(pick(r, modelPeers), pick(r, modelPorts))
	f.GuestPort = pick(r, modelPorts)
	return f
}

func randomEvidence(r *rand.Rand) Evidence {
	ev := Evidence{Stage: Stage(r.IntN(4))}
	if ev.Stage == StageName {
		ev.Name = pick(r, modelNames)
	}
	for r.IntN(5) < 3 {
		ev.Names = append(ev.Names, pick(r, modelNames))
	}
	if ev.Stage == StageName && r.IntN(3) == 0 {
		ev.Names = append(ev.Names, ev.Name)
	}
	return ev
}

// forCases calls check with many configurations, on all processors, until the
// test fails.
func forCases(t *testing.T, configs int, check func(r *rand.Rand, c Config) bool) {
	t.Helper()
	seed := *modelSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	var wg sync.WaitGroup
	for worker := range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := worker; i < configs && !t.Failed(); i += runtime.GOMAXPROCS(0) {
				r := rand.New(rand.NewPCG(seed, uint64(i)))
				if !check(r, randomConfig(r)) {
					t.Errorf("-seed=%d", seed)
				}
			}
		})
	}
	wg.Wait()
}

func ruleTexts(c Config) string {
	var b strings.Builder
	for _, r := range c.Rules {
		b.WriteString(r.String() + "; ")
	}
	return b.String() + "default " + c.DefaultEgress.String() + ", ingress " + c.DefaultIngress.String()
}

// The engine agrees with the model, and so does the explanation.
func TestDecideAgreesWithModel(t *testing.T) {
	t.Parallel()
	const perConfig = 128
	forCases(t, *modelCases/perConfig, func(r *rand.Rand, c Config) bool {
		p := compile(c)
		for i := range perConfig {
			f, ev := randomFlow(r), randomEvidence(r)
			want := (&modelCase{c: &c, h: testHost, f: f, ev: ev}).decide()
			v := p.Decide(testHost, f, ev)
			if got := (modelVerdict{v.Action, v.NeedsName, v.Dial, v.PerRequest, v.Refuse, v.Rule}); got != want {
				t.Errorf("%s\n%+v %+v\ngot  %+v\nwant %+v", ruleTexts(c), f, ev, got, want)
				return false
			}
			if named := v.Rule >= 0 && c.Rules[v.Rule].Destination.IsDomain(); v.Source != sourceAlways && v.ByAddress == named {
				t.Errorf("%s\n%+v %+v\ngot  %+v", ruleTexts(c), f, ev, v)
				return false
			}
			if i%16 == 0 && !checkExplanation(t, p, f, ev, v) {
				t.Errorf("%s\n%+v %+v", ruleTexts(c), f, ev)
				return false
			}
		}
		return true
	})
}

// checkExplanation reports whether Explain gives the verdict v, by the step that
// it marks, and whether the change that it names makes a difference.
func checkExplanation(t *testing.T, p *Policy, f Flow, ev Evidence, v Verdict) bool {
	e := p.Explain(testHost, f, ev)
	if e.Verdict != v {
		t.Errorf("Explain %+v, Decide %+v", e.Verdict, v)
		return false
	}
	if v.Source == sourceAlways {
		return len(e.Steps) == 0 && e.Change == nil
	}
	if len(e.Steps) != len(p.rules)+1 {
		t.Errorf("%d steps for %d rules", len(e.Steps), len(p.rules))
		return false
	}
	for i, s := range e.Steps {
		decides := s.Rule == v.Rule
		if s.Decides() != decides || s.Why == "" || i < len(p.rules) && s.Rule != i {
			t.Errorf("step %d %+v under %+v", i, s, v)
			return false
		}
	}
	if e.Change == nil {
		return true // TestExplainChange says when that may be
	}
	changed, _ := p.with(e.Change.Rule, v.Rule)
	if w := changed.Decide(testHost, f, ev); w.Action == v.Action {
		t.Errorf("%v before %d changes nothing: %+v", e.Change.Rule, e.Change.Before, w)
		return false
	}
	return true
}
