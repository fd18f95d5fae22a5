package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/sluicenet/sluice/policy"
)

// TestAliasDenied walks chains through names that are denied.
func TestAliasDenied(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone("www.example.com. 60 IN CNAME cdn.example.net.", "cdn.example.net. 60 IN CNAME edge.tracker.io.", "edge.tracker.io. 60 IN A 93.184.1.1"))
	for _, tt := range []struct {
		egress policy.Action
		rules  []string
		want   string
	}{
		{policy.Deny, []string{"allow www.example.com"}, "NOERROR cdn.example.net. edge.tracker.io. 93.184.1.1"},
		{policy.Deny, []string{"deny .tracker.io", "allow www.example.com"}, "NXDOMAIN ede=15"},
		{policy.Deny, []string{"deny cdn.example.net", "allow public"}, "NXDOMAIN ede=15"},
		{policy.Deny, []string{"allow www.example.com", "deny .tracker.io", "allow public"}, "NOERROR cdn.example.net. edge.tracker.io. 93.184.1.1"},
		{policy.Allow, []string{"deny edge.tracker.io"}, "NXDOMAIN ede=15"},
		{policy.Allow, []string{"deny edge.tracker.io tcp 443"}, "NOERROR cdn.example.net. edge.tracker.io. 93.184.1.1"},
	} {
		s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}, Policy: rulesOf(t, tt.egress, tt.rules...)})
		if got := show(ask(t, s, question("www.example.com A"))); got != tt.want {
			t.Errorf("default %v, %q: got %q, want %q", tt.egress, tt.rules, got, tt.want)
		}
		names := s.AppendNames(nil, netip.MustParseAddr("93.184.1.1"), time.Now())
		if want := strings.HasPrefix(tt.want, "NOERROR"); want != slices.Equal(names, []string{"www.example.com"}) {
			t.Errorf("default %v, %q: names %q", tt.egress, tt.rules, names)
		}
	}
}

// TestChainTooLong answers a chain of 20 aliases.
func TestChainTooLong(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone(chainOf(20)...))
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}})
	for _, tt := range []struct{ question, want string }{
		{"c0.a A", "SERVFAIL ede=23"},
		{"c4.a A", "NOERROR " + strings.Join(func() (hops []string) {
			for i := 5; i <= 20; i++ {
				hops = append(hops, fmt.Sprintf("c%d.a.", i))
			}
			return hops
		}(), " ") + " 93.184.1.1"},
	} {
		if got := show(ask(t, s, question(tt.question))); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.question, got, tt.want)
		}
	}
}

// TestRebind answers with addresses that aren't public.
func TestRebind(t *testing.T) {
	t.Parallel()
	host := &policy.Host{Gateways: gateways, Addrs: addrs("93.184.9.9"), NAT64: []netip.Prefix{netip.MustParsePrefix("2001:67c:27e4::/96")}}
	const blocked = "NXDOMAIN ede=15"
	for _, tt := range []struct {
		rules  string
		record string // of x.example
		want   string
	}{
		{"", "A 93.184.1.1", "NOERROR 93.184.1.1"},
		{"", "A 192.168.1.10", blocked},
		{"", "A 127.0.0.1", blocked},
		{"", "A 0.0.0.0", blocked},
		{"", "A 169.254.169.254", blocked},
		{"", "A 169.254.7.7", blocked},
		{"", "A 224.0.0.251", blocked},
		{"", "A 198.18.0.7", blocked},
		{"", "A 172.16.0.1", blocked}, // the gateway
		{"", "A 93.184.9.9", blocked}, // the host's own
		{"", "AAAA fd00::1", blocked},
		{"", "AAAA fe80::1", blocked},
		{"", "AAAA ::1", blocked},
		{"", "AAAA ::ffff:10.0.0.1", blocked},
		{"", "AAAA ::10.0.0.1", blocked},
		{"", "AAAA 64:ff9b::a00:1", blocked},
		{"", "AAAA 64:ff9b::5db8:101", "NOERROR 64:ff9b::5db8:101"},
		{"", "AAAA 2001:67c:27e4::a00:1", blocked},
		{"", "AAAA 2002:a00:1::1", blocked},
		{"", "AAAA 2606:2800::1", "NOERROR 2606:2800::1"},
		{"", "HTTPS 1 . ipv4hint=10.0.0.1", blocked},
		{"", "HTTPS 1 . ipv4hint=93.184.1.1 ipv6hint=fd00::1", blocked},
		{"", "SVCB 1 . ipv4hint=10.0.0.1", blocked},
		{"", "HTTPS 1 . ipv4hint=93.184.1.1", `NOERROR 1 . ipv4hint="93.184.1.1"`},
		{"", "TXT 192.168.1.10", `NOERROR "192.168.1.10"`},
		{"allow private tcp 443", "A 192.168.1.10", "NOERROR 192.168.1.10"},
		{"allow private tcp 53", "A 192.168.1.10", blocked},
		{"allow 192.168.1.10", "A 192.168.1.10", "NOERROR 192.168.1.10"},
		{"allow 192.168.1.0/24 udp 5060", "A 192.168.1.10", "NOERROR 192.168.1.10"},
		{"allow 192.168.2.0/24", "A 192.168.1.10", blocked},
		{"allow metadata", "A 169.254.169.254", "NOERROR 169.254.169.254"},
		{"allow private", "A 169.254.169.254", blocked},
		{"allow host", "A 172.16.0.1", "NOERROR 172.16.0.1"},
		{"allow 198.18.0.0/15", "A 198.18.0.7", "NOERROR 198.18.0.7"},
		{"deny 192.168.1.10;allow private", "A 192.168.1.10", blocked},
	} {
		kind, _, _ := strings.Cut(tt.record, " ")
		up := newAuthority(t, zone("x.example. 60 IN "+tt.record, "mixed.example. 60 IN "+tt.record, "mixed.example. 60 IN A 93.184.1.1"))
		rules := append(slices.DeleteFunc(strings.Split(tt.rules, ";"), func(r string) bool { return r == "" }), "allow public")
		s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}, Host: host, Policy: rulesOf(t, policy.Deny, rules...)})
		m := ask(t, s, question("x.example "+kind))
		if got := show(m); got != tt.want {
			t.Errorf("%q, %s: got %q, want %q", tt.rules, tt.record, got, tt.want)
		}
		if tt.want == blocked && m.IsEdns0().Option[0].(*mdns.EDNS0_EDE).ExtraText != "rebind protection" {
			t.Errorf("%q, %s: the guest is told more than it may know: %v", tt.rules, tt.record, m)
		}
		if got := show(ask(t, s, question("mixed.example "+kind))); (got == blocked) != (tt.want == blocked) {
			t.Errorf("%q, %s beside a public address: got %q, blocked is %t alone", tt.rules, tt.record, got, tt.want == blocked)
		}
		if tt.want != blocked {
			continue
		}
		s.mu.Lock()
		if n := len(s.names.byName); n != 0 {
			t.Errorf("%q, %s: blocked, but %d names are in the table", tt.rules, tt.record, n)
		}
		s.mu.Unlock()
	}
}

func TestRebindOff(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone("x.example. 60 IN A 192.168.1.10"))
	rule, err := policy.ParseRule("allow public")
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.New(policy.Config{Rules: []policy.Rule{rule}, DisableRebindProtection: true})
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}, Policy: p})
	if got := show(ask(t, s, question("x.example A"))); got != "NOERROR 192.168.1.10" {
		t.Errorf("got %q", got)
	}
}

// TestServiceTargets follows services to their hosts, under rules that allow the
// service's name only.
func TestServiceTargets(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone(
		"_sip._tcp.shop.example. 60 IN SRV 0 0 5060 sip.hoster.example.", "sip.hoster.example. 60 IN A 93.184.1.1",
		"shop.example. 60 IN MX 10 mx.hoster.example.", "mx.hoster.example. 60 IN CNAME mx1.hoster.example.", "mx1.hoster.example. 60 IN A 93.184.1.2",
		"shop.example. 60 IN HTTPS 0 edge.hoster.example.", "edge.hoster.example. 60 IN HTTPS 1 svc.hoster.example. ipv4hint=93.184.1.4", "svc.hoster.example. 60 IN A 93.184.1.3",
		"_8443._https.shop.example. 60 IN HTTPS 1 . ipv4hint=93.184.1.5",
		"shop.example. 60 IN NS ns.hoster.example.", "ns.hoster.example. 60 IN A 93.184.1.9",
		"shop.example. 60 IN SVCB 1 bad.tracker.example.", "bad.tracker.example. 60 IN A 93.184.1.8",
	))
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}, Policy: rulesOf(t, policy.Deny, "deny .tracker.example", "allow shop.example")})
	for _, tt := range []struct{ question, want, addr, names string }{
		{"sip.hoster.example A", "NXDOMAIN ede=15", "93.184.1.1", ""}, // nobody has led there yet
		{"_sip._tcp.shop.example SRV", "NOERROR 0 0 5060 sip.hoster.example.", "93.184.1.1", ""},
		{"sip.hoster.example A", "NOERROR 93.184.1.1", "93.184.1.1", "shop.example sip.hoster.example"},
		{"sip.hoster.example AAAA", "NOERROR", "", ""},
		{"shop.example MX", "NOERROR 10 mx.hoster.example.", "", ""},
		{"mx.hoster.example A", "NOERROR mx1.hoster.example. 93.184.1.2", "93.184.1.2", "mx.hoster.example shop.example"},
		{"mx1.hoster.example A", "NXDOMAIN ede=15", "", ""}, // a hop isn't a target
		{"svc.hoster.example A", "NXDOMAIN ede=15", "", ""},
		{"shop.example HTTPS", "NOERROR 0 edge.hoster.example.", "", ""},
		{"edge.hoster.example HTTPS", `NOERROR 1 svc.hoster.example. ipv4hint="93.184.1.4"`, "93.184.1.4", "edge.hoster.example shop.example"},
		{"svc.hoster.example A", "NOERROR 93.184.1.3", "93.184.1.3", "edge.hoster.example shop.example svc.hoster.example"},
		{"_8443._https.shop.example HTTPS", `NOERROR 1 . ipv4hint="93.184.1.5"`, "93.184.1.5", "_8443._https.shop.example shop.example"},
		{"shop.example NS", "NOERROR ns.hoster.example.", "", ""},
		{"ns.hoster.example A", "NXDOMAIN ede=15", "", ""},
		{"shop.example SVCB", "NOERROR 1 bad.tracker.example.", "", ""},
		{"bad.tracker.example A", "NXDOMAIN ede=15", "93.184.1.8", ""},
	} {
		if got := show(ask(t, s, question(tt.question))); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.question, got, tt.want)
		}
		if tt.addr == "" {
			continue
		}
		names := s.AppendNames(nil, netip.MustParseAddr(tt.addr), time.Now())
		slices.Sort(names)
		if got := strings.Join(names, " "); got != tt.names {
			t.Errorf("%s: names of %s: got %q, want %q", tt.question, tt.addr, got, tt.names)
		}
	}
	// The rule that permitted the question goes, and its targets with it.
	s.SetPolicy(rulesOf(t, policy.Deny, "allow other.example"))
	if got := show(ask(t, s, question("sip.hoster.example A"))); got != "NXDOMAIN ede=15" {
		t.Errorf("after the rule went: got %q", got)
	}
}

// TestUnderscores shows that a name with an underscore is a service of the host behind
// it only to who asks for one.
func TestUnderscores(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone(
		"_x.shop.example. 60 IN A 93.184.1.1", "_x.shop.example. 60 IN HTTPS 1 . ipv4hint=93.184.1.2",
		"_x.shop.example. 60 IN MX 10 mx.shop.example.", "mx.shop.example. 60 IN A 93.184.1.3",
		"_x.shop.example. 60 IN SRV 0 0 1 srv.shop.example.", "srv.shop.example. 60 IN A 93.184.1.4",
	))
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}, Policy: rulesOf(t, policy.Deny, "allow shop.example", "allow .shop.example")})
	for _, tt := range []struct{ question, addr, names string }{
		{"_x.shop.example A", "93.184.1.1", "_x.shop.example"},
		{"_x.shop.example HTTPS", "93.184.1.2", "_x.shop.example shop.example"},
		{"_x.shop.example MX", "", ""},
		{"mx.shop.example A", "93.184.1.3", "_x.shop.example mx.shop.example"},
		{"_x.shop.example SRV", "", ""},
		{"srv.shop.example A", "93.184.1.4", "shop.example srv.shop.example"},
	} {
		if got := show(ask(t, s, question(tt.question))); !strings.HasPrefix(got, "NOERROR ") {
			t.Errorf("%s: got %q", tt.question, got)
		}
		if tt.addr == "" {
			continue
		}
		names := s.AppendNames(nil, netip.MustParseAddr(tt.addr), time.Now())
		slices.Sort(names)
		if got := strings.Join(names, " "); got != tt.names {
			t.Errorf("%s: names of %s: got %q, want %q", tt.question, tt.addr, got, tt.names)
		}
	}
}

// TestUsable leaves out what the host has no way to.
func TestUsable(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone("x.example. 60 IN A 93.184.1.1", "x.example. 60 IN A 93.184.2.1", "x.example. 60 IN AAAA 2606:2800::1",
		"w.example. 60 IN CNAME x.example.", "m.example. 60 IN HTTPS 1 . mandatory=ipv6hint ipv6hint=2606:2800::1", "m.example. 60 IN HTTPS 2 . alpn=h2",
		"x.example. 60 IN HTTPS 1 . alpn=h2 ipv4hint=93.184.1.1,93.184.2.1 ipv6hint=2606:2800::1"))
	no6 := func(a netip.Addr) bool { return a.Is4() }
	no2 := func(a netip.Addr) bool { return !netip.MustParsePrefix("93.184.2.0/24").Contains(a) }
	none := func(netip.Addr) bool { return false }
	for _, tt := range []struct {
		name     string
		usable   func(netip.Addr) bool
		question string
		want     string
	}{
		{"no IPv6", no6, "x.example A", "NOERROR 93.184.1.1 93.184.2.1"},
		{"no IPv6", no6, "x.example AAAA", "NOERROR"},
		{"no IPv6", no6, "w.example AAAA", "NOERROR x.example."},
		{"no IPv6", no6, "x.example HTTPS", `NOERROR 1 . alpn="h2" ipv4hint="93.184.1.1,93.184.2.1"`},
		{"no IPv6", no6, "m.example HTTPS", `NOERROR 2 . alpn="h2"`},
		{"no route to one", no2, "x.example A", "NOERROR 93.184.1.1"},
		{"no route to one", no2, "x.example HTTPS", `NOERROR 1 . alpn="h2" ipv4hint="93.184.1.1" ipv6hint="2606:2800::1"`},
		{"offline", none, "x.example A", "NOERROR"},
		{"offline", none, "x.example HTTPS", `NOERROR 1 . alpn="h2"`},
		{"offline", none, "host.docker.internal A", "NOERROR 172.16.0.1"},
	} {
		s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}, Usable: tt.usable})
		for _, cached := range []bool{false, true} {
			if got := show(ask(t, s, question(tt.question))); got != tt.want {
				t.Errorf("%s, %s, cached %t: got %q, want %q", tt.name, tt.question, cached, got, tt.want)
			}
		}
		if names := s.AppendNames(nil, netip.MustParseAddr("93.184.2.1"), time.Now()); (len(names) == 0) != !strings.Contains(tt.want, "93.184.2.1") {
			t.Errorf("%s, %s: names of 93.184.2.1: %q", tt.name, tt.question, names)
		}
	}
}

// TestCacheIsJudged replaces policy and host, and gets kept answers anew.
func TestCacheIsJudged(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone("x.example. 60 IN A 93.184.1.1", "y.example. 60 IN CNAME x.example."))
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}})
	public := rulesOf(t, policy.Deny, "allow public")
	for i, step := range []struct {
		change   func()
		question string
		want     string
	}{
		{func() {}, "x.example A", "NOERROR 93.184.1.1"},
		{func() {}, "y.example A", "NOERROR x.example. 93.184.1.1"},
		{func() { s.SetPolicy(rulesOf(t, policy.Deny, "deny x.example", "allow public")) }, "x.example A", "NXDOMAIN ede=15"},
		{func() {}, "y.example A", "NXDOMAIN ede=15"},
		{func() { s.SetPolicy(public) }, "y.example A", "NOERROR x.example. 93.184.1.1"},
		{func() { s.SetHost(&policy.Host{Gateways: gateways, Addrs: addrs("93.184.1.1")}) }, "x.example A", "NXDOMAIN ede=15"},
		{func() { s.SetHost(&policy.Host{Gateways: gateways}) }, "x.example A", "NOERROR 93.184.1.1"},
		{func() { s.SetPolicy(nil) }, "x.example A", "NXDOMAIN ede=15"},
	} {
		step.change()
		if got := show(ask(t, s, question(step.question))); got != step.want {
			t.Errorf("step %d: %s: got %q, want %q", i, step.question, got, step.want)
		}
	}
	if n := up.queries(); n != 2 {
		t.Errorf("the upstream was asked %d times, want 2", n)
	}
}

// TestAddressCap asks for a name with more addresses than the table takes.
func TestAddressCap(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone(manyAddresses("many.example.", 300)...))
	events := newRecorder()
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}, Events: events.add})
	for range 2 {
		c := dialTCP(t, s)
		writeTCP(t, c, question("many.example A"))
		m := readTCP(t, c)
		if len(m.Answer) != 64 {
			t.Errorf("got %d records, want 64", len(m.Answer))
		}
		for _, addr := range addrsIn(m.Answer) {
			if names := s.AppendNames(nil, addr, time.Now()); !slices.Equal(names, []string{"many.example"}) {
				t.Errorf("%v given, names %q", addr, names)
			}
		}
	}
	if n, hits := events.hits(limitAddrs); n != 1 || hits != 236 {
		t.Errorf("limit.hit: got %d events with %d hits, want one with 236", n, hits)
	}
}

// TestTableFull fills the table with names in use: new ones must not reach the
// guest without an entry.
func TestTableFull(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone("a.example. 60 IN A 93.184.1.1", "b.example. 60 IN A 93.184.1.2", "c.example. 60 IN MX 1 d.example."))
	events := newRecorder()
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}, Events: events.add, Limits: Limits{Names: 1}})
	if got := show(ask(t, s, question("a.example A"))); got != "NOERROR 93.184.1.1" {
		t.Fatalf("got %q", got)
	}
	addr := netip.MustParseAddr("93.184.1.1")
	release := s.Hold(addr, s.AppendNames(nil, addr, time.Now()), time.Now())
	for _, tt := range []struct{ question, want string }{
		{"b.example A", "SERVFAIL ede=0"},
		{"a.example A", "NOERROR 93.184.1.1"},
		{"c.example MX", "NOERROR 1 d.example."}, // needs no entry
	} {
		if got := show(ask(t, s, question(tt.question))); got != tt.want {
			t.Errorf("%s while a.example is held: got %q, want %q", tt.question, got, tt.want)
		}
	}
	release(time.Now())
	if got := show(ask(t, s, question("b.example A"))); got != "NOERROR 93.184.1.2" {
		t.Errorf("released: got %q", got)
	}
	if names := s.AppendNames(nil, addr, time.Now()); len(names) != 0 {
		t.Errorf("a.example should have left: got %q", names)
	}
	if n, _ := events.hits(limitNames); n != 1 || s.Stats().Evicted != 1 {
		t.Errorf("limit.hit: got %d events, %d evicted, want 1", n, s.Stats().Evicted)
	}
	s.Hold(addr, []string{"a.example"}, time.Now())(time.Now()) // of what isn't there: nothing happens
}
