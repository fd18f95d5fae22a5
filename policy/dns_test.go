package policy

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

func TestPermitDNS(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ rules, query, want string }{
		// Deny D: with a filter it is about flows only.
		{"deny a.test; default allow", "udp a.test", "deny 0"},
		{"deny a.test; default allow", "udp b.test", "allow default"},
		{"deny .a.test; default allow", "udp x.a.test", "deny 0"},
		{"deny .a.test; default allow", "udp a.test", "allow default"},
		{"deny a.test tcp; default allow", "udp a.test", "allow default"},
		{"deny a.test 443; default allow", "udp a.test", "allow default"},
		{"deny any a.test; default allow", "udp a.test", "deny 0"},
		// Allow D, any filter.
		{"allow a.test", "udp a.test", "allow 0"},
		{"allow a.test tcp 443", "udp a.test", "allow 0"},
		{"allow a.test", "udp b.test", "deny default"},
		{"allow .a.test", "udp x.a.test", "allow 0"},
		{"allow .a.test", "udp a.test", "deny default"},
		{"deny x.a.test; allow .a.test", "udp x.a.test", "deny 0"},
		{"allow .a.test; deny x.a.test", "udp x.a.test", "allow 0"},
		// host or *, with a port filter that holds 53 and a protocol that fits.
		{"allow host udp,tcp 53", "udp a.test", "allow 0"},
		{"allow host udp,tcp 53", "tcp a.test", "allow 0"},
		{"allow host udp 53", "tcp a.test", "deny default"},
		{"allow host 1-100", "tcp a.test", "allow 0"},
		{"allow host", "udp a.test", "deny default"},
		{"allow host tcp,udp 54-100", "udp a.test", "deny default"},
		{"deny host udp,tcp 53; allow public", "udp a.test", "deny 0"},
		{"deny host udp 53; allow public", "tcp a.test", "allow 1"},
		{"deny host; default allow", "udp a.test", "allow default"},
		{"deny * 53; default allow", "udp a.test", "deny 0"},
		{"deny * tcp 53; default allow", "udp a.test", "allow default"},
		{"allow * 53", "udp a.test", "allow 0"},
		{"allow ingress host udp,tcp 53", "udp a.test", "deny default"},
		// deny * without filter.
		{"deny *; default allow", "udp a.test", "deny 0"},
		{"deny * udp; default allow", "udp a.test", "allow default"},
		{"deny * 443; default allow", "udp a.test", "allow default"},
		{"deny ingress *; default allow", "udp a.test", "allow default"},
		// allow *, allow public, any filter.
		{"allow *", "udp a.test", "allow 0"},
		{"allow * tcp 443", "udp a.test", "allow 0"},
		{"allow * udp 53", "tcp a.test", "allow 0"},
		{"allow public", "udp a.test", "allow 0"},
		{"allow public icmpv4", "udp a.test", "allow 0"},
		{"deny public; default allow", "udp a.test", "allow default"},
		{"deny public 53; default allow", "udp a.test", "allow default"},
		// Everything else says nothing.
		{"allow private; allow 0.0.0.0/0; allow ::/0; allow metadata", "udp a.test", "deny default"},
		{"deny 0.0.0.0/0; deny 8.8.8.8 53; default allow", "udp a.test", "allow default"},
		// The order decides.
		{"deny a.test; allow host udp,tcp 53", "udp a.test", "deny 0"},
		{"allow host udp,tcp 53; deny a.test", "udp a.test", "allow 0"},
		{"allow host udp,tcp 53; deny *", "udp a.test", "allow 0"},
		{"deny host udp,tcp 53; allow a.test", "udp a.test", "deny 0"},
		// The root.
		{"allow host udp,tcp 53", "udp .", "allow 0"},
		{"allow a.test", "udp .", "deny default"},

		// _a._b.D where D is permitted, for the types of services.
		{"allow a.test", "service _sip._tcp.a.test", "allow 0"},
		{"allow a.test", "udp _sip._tcp.a.test", "deny default"},
		{"allow a.test", "service _tcp.a.test", "deny default"},
		{"allow a.test", "service sip._tcp.a.test", "deny default"},
		{"allow a.test", "service _x._sip._tcp.a.test", "deny default"},
		{"allow a.test", "service a.test", "allow 0"},
		{"allow a.test", "service _sip._tcp.b.test", "deny default"},
		{"deny .a.test; allow a.test", "service _sip._tcp.a.test", "allow 1"},
		{"deny a.test; default allow", "service _sip._tcp.a.test", "allow default"},
		{"deny _sip._tcp.a.test; allow a.test", "service _sip._tcp.a.test", "deny 0"},
		{"deny .a.test; default allow", "service _sip._tcp.x.a.test", "deny 0"},
		{"deny .a.test; default allow", "service x.a.test", "deny 0"},
	} {
		q := parseQuery(row.query)
		if got := short(parsePolicy(t, row.rules).PermitDNS(q)); got != row.want {
			t.Errorf("%s: %s: %s, want %s", row.rules, row.query, got, row.want)
		}
	}
}

// parseQuery reads "udp a.test", "tcp a.test" or "service _a._b.a.test".
func parseQuery(text string) Query {
	how, name, _ := strings.Cut(text, " ")
	q := Query{Name: strings.TrimSuffix(name, "."), Transport: UDP, Service: how == "service"}
	if how == "tcp" {
		q.Transport = TCP
	}
	return q
}

func TestPermitHop(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ rules, query, hop, want string }{
		{"deny b.test; allow a.test", "a.test", "b.test", "deny 0"},
		{"allow a.test; deny b.test", "a.test", "b.test", "allow 0"},
		{"deny .b.test; allow a.test", "a.test", "x.b.test", "deny 0"},
		{"deny b.test tcp; allow a.test", "a.test", "b.test", "allow 1"},
		{"deny b.test; deny .b.test; allow a.test; deny c.test", "a.test", "c.test", "allow 2"},
		{"allow a.test", "a.test", "anything.test", "allow 0"},
		{"deny b.test; default allow", "a.test", "b.test", "deny 0"},
		{"deny b.test; default allow", "a.test", "c.test", "allow default"},
		{"deny b.test; deny .test tcp; default allow", "a.test", "b.test", "deny 0"},
	} {
		p := parsePolicy(t, row.rules)
		permit := p.PermitDNS(Query{Name: row.query, Transport: UDP})
		v := p.PermitHop(permit, row.hop)
		if got := short(v); got != row.want || v.Action == Deny && v.Reason != reasonHop || v.Action == Allow && v != permit {
			t.Errorf("%s: %s to %s: %s (%s), want %s", row.rules, row.query, row.hop, got, v.Reason, row.want)
		}
	}
}

func TestAdmitAnswer(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ rules, addr, want string }{
		// Public addresses need no rule.
		{"", "1.1.1.1", "allow"}, {"deny *", "2606::1", "allow"}, {"", "64:ff9b::1.1.1.1", "allow"},
		// Private and link-local ones need any allow, the default included.
		{"", "10.0.0.5", "deny"}, {"default allow", "10.0.0.5", "allow"}, {"default allow", "169.254.7.7", "allow"}, {"default allow", "fd00::1", "allow"},
		{"allow private", "10.0.0.5", "allow"}, {"allow 10.0.0.5 tcp 443", "10.0.0.5", "allow"}, {"allow 10.0.0.5 tcp 443", "10.0.0.6", "deny"},
		{"allow * udp 9", "10.0.0.5", "allow"}, {"deny private; default allow", "10.0.0.5", "deny"}, {"deny private tcp; default allow", "10.0.0.5", "allow"},
		{"allow private icmpv4", "10.0.0.5", "allow"}, {"allow private icmpv6", "10.0.0.5", "deny"}, {"allow private icmpv6", "64:ff9b::10.0.0.5", "allow"},
		{"allow a.test", "10.0.0.5", "deny"}, {"allow ingress private", "10.0.0.5", "deny"},
		// A rule whose ports are only 53 never admits.
		{"allow private 53", "10.0.0.5", "deny"}, {"allow private 53,54", "10.0.0.5", "allow"}, {"allow private 52-53", "10.0.0.5", "allow"}, {"allow private 53-54", "10.0.0.5", "allow"},
		{"deny private 1-52; deny private 54-65535; allow private tcp", "10.0.0.5", "deny"},
		{"deny private 1-52; deny private 54-65534; allow private tcp", "10.0.0.5", "allow"},
		{"deny private 2-65535; allow private tcp", "10.0.0.5", "allow"},
		// Metadata, host and reserved only by name.
		{"default allow", "169.254.169.254", "deny"}, {"allow *", "169.254.169.254", "deny"}, {"allow metadata", "169.254.169.254", "allow"},
		{"allow 169.254.0.0/16", "169.254.169.254", "allow"}, {"allow 169.254.169.254 tcp 80", "169.254.169.254", "allow"},
		{"allow * 80; allow metadata 81", "169.254.169.254", "allow"}, {"allow *; allow metadata", "169.254.169.254", "deny"},
		{"default allow", "172.16.0.1", "deny"}, {"allow host 8080", "172.16.0.1", "allow"}, {"allow host udp,tcp 53", "172.16.0.1", "deny"},
		{"preset allow-all", "172.16.0.1", "allow"}, {"preset allow-all", "192.168.1.10", "allow"}, {"preset allow-all; deny host", "192.168.1.10", "deny"},
		{"preset allow-all", "169.254.169.254", "deny"}, {"preset allow-all", "198.18.0.1", "deny"},
		{"default allow", "198.18.0.1", "deny"}, {"allow 198.18.0.0/15", "198.18.0.1", "allow"},
		// Never, whatever the rules.
		{"preset allow-all", "0.0.0.0", "deny"}, {"preset allow-all", "::", "deny"}, {"allow 127.0.0.1", "127.0.0.1", "deny"}, {"allow loopback", "::1", "deny"},
		{"allow multicast", "224.0.0.1", "deny"}, {"allow fe80::/10", "fe80::1", "deny"}, {"allow private", "172.16.0.5", "deny"},
		{"preset allow-all", "::ffff:10.0.0.5", "deny"}, {"preset allow-all", "::ffff:1.1.1.1", "deny"}, {"allow host", "64:ff9b::172.16.0.1", "deny"},
		// In NAT64 form the address inside counts.
		{"", "64:ff9b::10.0.0.5", "deny"}, {"allow 10.0.0.5", "64:ff9b::10.0.0.5", "allow"}, {"deny 64:ff9b::/96; allow private", "64:ff9b::10.0.0.5", "deny"},
		// Without protection all pass.
		{"rebind off", "10.0.0.5", "allow"}, {"rebind off", "127.0.0.1", "allow"}, {"rebind off; deny *", "169.254.169.254", "allow"},
	} {
		v := parsePolicy(t, row.rules).AdmitAnswer(testHost, netip.MustParseAddr(row.addr))
		if got := v.Action.String(); got != row.want {
			t.Errorf("%s: %s: %s (%s), want %s", row.rules, row.addr, got, v.Reason, row.want)
		}
		if v.Reason == "" || v.Source == "" || v.Group != testHost.Classify(netip.MustParseAddr(row.addr)) {
			t.Errorf("%s: %s: %+v", row.rules, row.addr, v)
		}
	}
}

// modelPermit repeats the sentences of the contract, one walk over the egress
// rules.
func modelPermit(c Config, name string, transport Protocol) (Action, int) {
	for i, r := range c.Rules {
		if r.Direction == Ingress {
			continue
		}
		filtered := r.Protocols != 0 || len(r.Ports) > 0
		holds53 := false
		for _, p := range r.Ports {
			holds53 = holds53 || p.First <= 53 && 53 <= p.Last
		}
		admits := r.Protocols == 0 || strings.Contains(","+r.Protocols.String()+",", ","+transport.String()+",")
		d := r.Destination.String()
		domain := modelIsDomain(r) && modelMatches(d, name)
		switch {
		case domain && r.Action == Deny && !filtered:
			return Deny, i
		case domain && r.Action == Allow:
			return Allow, i
		case (d == "host" || d == "*") && holds53 && admits:
			return r.Action, i
		case d == "*" && r.Action == Deny && !filtered:
			return Deny, i
		case (d == "*" || d == "public") && r.Action == Allow:
			return Allow, i
		}
	}
	return c.DefaultEgress, -1
}

// modelAdmit asks the walk for every protocol and every port that a rule may
// name, which is slow and obvious.
func modelAdmit(c Config, a netip.Addr) Action {
	if c.DisableRebindProtection {
		return Allow
	}
	if a.Is4In6() || modelAlways(testHost, a) {
		return Deny
	}
	m := &modelCase{c: &c, h: testHost}
	m.in, _ = modelInner(testHost, a)
	m.g = modelClass(testHost, m.in)
	if m.g == GroupPublic {
		return Allow
	}
	for _, protocol := range []Protocol{TCP, UDP, ICMPv4, ICMPv6} {
		if protocol == ICMPv4 && !a.Is4() || protocol == ICMPv6 && a.Is4() {
			continue
		}
		for _, port := range []uint16{1, 2, 22, 52, 54, 79, 80, 81, 443, 444, 445, 8443, 8444, 65534, 65535} {
			m.f, m.port = Flow{Egress, protocol, netip.AddrPortFrom(a, port), 0}, port
			action, i := m.addressOnly()
			named := i >= 0 && c.Rules[i].Destination.String() != "*" || m.g == GroupHost && c.Preset == PresetAllowAll
			if action == Allow && (named || m.g == GroupPrivate || m.g == GroupLinkLocal) {
				return Allow
			}
		}
	}
	return Deny
}

// Queries, hops and answers agree with the model, and so does the explanation.
func TestDNSAgreesWithModel(t *testing.T) {
	t.Parallel()
	forCases(t, *modelCases/128, func(r *rand.Rand, c Config) bool {
		p := compile(c)
		for range 8 {
			q := Query{Name: pick(r, modelNames), Transport: pick(r, []Protocol{TCP, UDP})}
			action, rule := modelPermit(c, q.Name, q.Transport)
			v := p.PermitDNS(q)
			if v.Action != action || v.Rule != rule {
				t.Errorf("%s: %+v: %+v, want %v %d", ruleTexts(c), q, v, action, rule)
				return false
			}
			if e := p.ExplainDNS(q); e.Verdict != v || len(e.Steps) != len(c.Rules)+1 || !e.Steps[(rule+len(e.Steps))%len(e.Steps)].Decides() {
				t.Errorf("%s: %+v: %+v, want %+v", ruleTexts(c), q, e, v)
				return false
			}
			hop := pick(r, modelNames)
			want := action
			for i, o := range c.Rules {
				unfiltered := o.Protocols == 0 && len(o.Ports) == 0 && o.Direction != Ingress
				if (rule < 0 || i < rule) && o.Action == Deny && unfiltered && modelIsDomain(o) && modelMatches(o.Destination.String(), hop) {
					want = Deny
				}
			}
			if got := p.PermitHop(v, hop).Action; got != want {
				t.Errorf("%s: %+v leads to %s: %v, want %v", ruleTexts(c), q, hop, got, want)
				return false
			}
			a := pick(r, modelPeers)
			if got := p.AdmitAnswer(testHost, a); got.Action != modelAdmit(c, a) {
				t.Errorf("%s, %v: %v in an answer: %+v", ruleTexts(c), c.DisableRebindProtection, a, got)
				return false
			}
		}
		return true
	})
}
