package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
)

// thousandAddresses returns 1000 rules by address, with and without ports, of
// which the last decides most flows.
func thousandAddresses(tb testing.TB) *Policy {
	c := Config{}
	for i := range 999 {
		text := fmt.Sprintf("deny 10.%d.%d.0/24 tcp %d", i/256, i%256, 1+i*60)
		if i%2 == 0 {
			text = fmt.Sprintf("deny 10.%d.%d.%d", i/256, i%256, i%7)
		}
		r, err := ParseRule(text)
		if err != nil {
			tb.Fatal(err)
		}
		c.Rules = append(c.Rules, r)
	}
	c.Rules = append(c.Rules, Rule{Action: Allow, Destination: GroupDestination(GroupPublic)})
	return compile(c)
}

// thousandNames returns 1000 rules by domain, half of them denying, before one
// by address.
func thousandNames() *Policy {
	c := Config{}
	for i := range 500 {
		c.Rules = append(c.Rules,
			Rule{Destination: SuffixDestination(fmt.Sprintf("ads%d.test", i))},
			Rule{Action: Allow, Destination: DomainDestination(fmt.Sprintf("api%d.test", i)), Protocols: ProtocolsOf(TCP), Ports: []PortRange{{443, 443}}})
	}
	c.Rules = append(c.Rules, Rule{Action: Allow, Destination: GroupDestination(GroupPrivate)})
	return compile(c)
}

// hotPaths are the calls made for every flow and query.
func hotPaths(tb testing.TB) map[string]func() Verdict {
	byAddress, byName := thousandAddresses(tb), thousandNames()
	decide := func(p *Policy, flow, evidence string) func() Verdict {
		f, ev := parseFlow(tb, flow), parseEvidence(tb, evidence)
		return func() Verdict { return p.Decide(testHost, f, ev) }
	}
	query, a := Query{Name: "_dns._tcp.api7.test", Transport: UDP, Service: true}, netip.MustParseAddr("10.0.0.5")
	return map[string]func() Verdict{
		"address/v4":        decide(byAddress, "tcp 93.184.216.34:443", "syn |"),
		"address/v4 denied": decide(byAddress, "tcp 10.3.230.2:443", "syn |"),
		"address/v6":        decide(byAddress, "tcp [2606:2800:220:1::1]:443", "syn |"),
		"address/nat64":     decide(byAddress, "udp [64:ff9b::8.8.8.8]:443", "syn |"),
		"address/ingress":   decide(byAddress, "in tcp 127.0.0.1 80", "syn |"),
		"name/syn":          decide(byName, "tcp 93.184.216.34:443", "syn | api7.test"),
		"name/shown":        decide(byName, "tcp 93.184.216.34:443", "name api7.test | api7.test api8.test"),
		"name/denied":       decide(byName, "tcp 93.184.216.34:443", "name x.ads7.test | api7.test"),
		"name/opaque":       decide(byName, "tcp 93.184.216.34:443", "opaque | api7.test api8.test api9.test"),
		"name/malformed":    decide(byName, "tcp 93.184.216.34:443", "malformed |"),
		"query":             func() Verdict { return byName.PermitDNS(query) },
		"hop":               func() Verdict { return byName.PermitHop(Verdict{Action: Allow, Rule: 900}, "x.ads7.test") },
		"answer":            func() Verdict { return byName.AdmitAnswer(testHost, a) },
	}
}

func TestNoAllocs(t *testing.T) {
	for name, call := range hotPaths(t) {
		if n := testing.AllocsPerRun(100, func() { call() }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	var name string
	if n := testing.AllocsPerRun(100, func() { name, _ = CanonicalName("api.example.com.") }); n != 0 || name == "" {
		t.Errorf("a canonical name: %v allocations", n)
	}
}

func BenchmarkHotPaths(b *testing.B) {
	paths := hotPaths(b)
	for _, name := range slices.Sorted(maps.Keys(paths)) {
		call := paths[name]
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				call()
			}
		})
	}
}

// BenchmarkNew is what a live replacement costs.
func BenchmarkNew(b *testing.B) {
	preset, _ := Preset(PresetPublicOnly)
	var ads Config
	for i := range 100_000 {
		ads.Rules = append(ads.Rules, Rule{Destination: DomainDestination(fmt.Sprintf("ads%d.test", i))})
	}
	ads.Rules = append(ads.Rules, preset.Rules...)
	for _, row := range []struct {
		name   string
		config Config
	}{
		{"preset", preset}, {"1000 addresses", thousandAddresses(b).config}, {"1000 names", thousandNames().config}, {"100000 names", ads},
	} {
		b.Run(row.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := New(row.config); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
