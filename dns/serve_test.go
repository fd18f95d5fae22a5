package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/sluicenet/sluice/policy"
)

func TestForward(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone("www.example.com. 300 IN A 93.184.1.1", "www.example.com. 300 IN AAAA 2606:2800::1", "alias.example.com. 60 IN CNAME www.example.com.",
		"www.example.com. 60 IN TYPE65280 \\# 3 010203", ". 60 IN NS a.root-servers.net."))
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}})
	for _, tt := range []struct{ question, want string }{
		{"www.example.com A", "NOERROR 93.184.1.1"},
		{"www.example.com AAAA", "NOERROR 2606:2800::1"},
		{"alias.example.com A", "NOERROR www.example.com. 93.184.1.1"},
		{"nothing.example.com A", "NXDOMAIN"},
		{"www.example.com MX", "NOERROR"},
		{". NS", "NOERROR a.root-servers.net."},
		{"host.docker.internal A", "NOERROR 172.16.0.1"},
	} {
		if got := show(ask(t, s, question(tt.question))); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.question, got, tt.want)
		}
		c := dialTCP(t, s)
		writeTCP(t, c, question(tt.question))
		if got := show(readTCP(t, c)); got != tt.want {
			t.Errorf("%s over TCP: got %q, want %q", tt.question, got, tt.want)
		}
	}
	unknown := question("www.example.com A")
	unknown.Question[0].Qtype = 65280
	if got := show(ask(t, s, unknown)); !strings.HasSuffix(got, `\# 3 010203`) {
		t.Errorf("unknown type: got %q", got)
	}
}

// TestLocalAnswers asks what nobody else is asked for.
func TestLocalAnswers(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone())
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}})
	change := func(text string, f func(*mdns.Msg)) *mdns.Msg { q := question(text); f(q); return q }
	for _, tt := range []struct {
		name string
		q    *mdns.Msg
		want string
	}{
		{"alias, IPv4", question("host.microsandbox.internal A"), "NOERROR 172.16.0.1"},
		{"alias, IPv6", question("host.containers.internal AAAA"), "NOERROR fd42:6d73:62::1"},
		{"alias, other case", question("Host.LIMA.internal A"), "NOERROR 172.16.0.1"},
		{"alias, any type", question("host.docker.internal ANY"), "NOERROR 172.16.0.1 fd42:6d73:62::1"},
		{"alias, another type", question("host.docker.internal MX"), "NOERROR"},
		{"alias, service binding", question("host.docker.internal HTTPS"), "NOERROR"},
		{"zone transfer", question("example.com AXFR"), "REFUSED ede=21"},
		{"incremental zone transfer", question("example.com IXFR"), "REFUSED ede=21"},
		{"class CH", change("version.bind TXT", func(q *mdns.Msg) { q.Question[0].Qclass = mdns.ClassCHAOS }), "REFUSED ede=21"},
		{"class ANY", change("example.com A", func(q *mdns.Msg) { q.Question[0].Qclass = mdns.ClassANY }), "REFUSED ede=21"},
		{"TKEY", question("example.com TKEY"), "REFUSED ede=21"},
		{"OPT as a question", question("example.com OPT"), "REFUSED ede=21"},
		{"type 0", question("example.com None"), "REFUSED ede=21"},
		{"opcode NOTIFY", change("example.com A", func(q *mdns.Msg) { q.Opcode = mdns.OpcodeNotify }), "NOTIMP"},
		{"EDNS version 1", change("example.com A", func(q *mdns.Msg) { q.IsEdns0().SetVersion(1) }), "BADSIG ede=21"},
		{"dot in a label", question(`a\.example.com A`), "NXDOMAIN ede=15"},
		{"NUL in a label", question(`example.com\000.evil.com A`), "NXDOMAIN ede=15"},
		{"space in a label", question(`a\032b.example.com A`), "NXDOMAIN ede=15"},
		{"byte over 0x7f", question(`m\195\188nchen.de A`), "NXDOMAIN ede=15"},
		{"inet_aton", question("127.1 A"), "NXDOMAIN ede=15"},
		{"hexadecimal address", question("0x7f000001 A"), "NXDOMAIN ede=15"},
	} {
		got := ask(t, s, tt.q)
		if show(got) != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, show(got), tt.want)
		}
		if strings.HasPrefix(tt.name, "alias") {
			if !got.Authoritative || len(got.Answer) > 0 && got.Answer[0].Header().Ttl != aliasTTL || got.Question[0].Name != tt.q.Question[0].Name {
				t.Errorf("%s: got %v, want AA, TTL 60, the question's case", tt.name, got)
			}
		}
	}
	if n := up.queries(); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
	if got := s.Stats(); got.Local+got.Denied != got.Queries || got.Queries != 21 {
		t.Errorf("counters: %+v", got)
	}
}

// TestPermission asks under rules, and sees whether the upstream was asked.
func TestPermission(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		egress   policy.Action
		rules    string // separated by ;
		question string
		udp, tcp bool // permitted
	}{
		{policy.Deny, "allow example.com", "example.com A", true, true},
		{policy.Deny, "allow example.com", "www.example.com A", false, false},
		{policy.Deny, "allow .example.com", "www.example.com A", true, true},
		{policy.Deny, "allow .example.com", "example.com A", false, false},
		{policy.Deny, "allow .example.com", "evilexample.com A", false, false},
		{policy.Deny, "allow .example.com", "example.com.evil.io A", false, false},
		{policy.Deny, "allow example.com tcp 443", "example.com A", true, true},
		{policy.Deny, "allow 93.184.0.0/16", "example.com A", false, false},
		{policy.Deny, "allow public", "example.com A", true, true},
		{policy.Deny, "allow host udp 53", "example.com A", true, false},
		{policy.Deny, "allow host udp,tcp 53", "example.com A", true, true},
		{policy.Deny, "deny .example.com;allow public", "www.example.com A", false, false},
		{policy.Deny, "deny .example.com tcp 443;allow public", "www.example.com A", true, true},
		{policy.Allow, "", "example.com A", true, true},
		{policy.Allow, "deny example.com", "example.com A", false, false},
		{policy.Allow, "deny *", "example.com A", false, false},
		{policy.Deny, "", "example.com A", false, false},
		{policy.Deny, "allow example.com", "_443._https.example.com HTTPS", true, true},
		{policy.Deny, "allow example.com", "_sip._tcp.example.com SRV", true, true},
		{policy.Deny, "allow example.com", "_sip._tcp.example.com A", false, false},
		{policy.Deny, "allow example.com", "_sip._tcp.evil.io SRV", false, false},
		{policy.Deny, "allow example.com", "_a._b._c.example.com SRV", false, false},
		{policy.Deny, "allow public", ". NS", true, true},
		{policy.Deny, "allow example.com", ". NS", false, false},
	} {
		up := newAuthority(t, zone())
		rules := slices.DeleteFunc(strings.Split(tt.rules, ";"), func(r string) bool { return r == "" })
		s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}, Policy: rulesOf(t, tt.egress, rules...), Limits: Limits{CacheEntries: -1}})
		for _, transport := range []string{"UDP", "TCP"} {
			before, want := up.queries(), tt.udp
			var m *mdns.Msg
			if transport == "UDP" {
				m = ask(t, s, question(tt.question))
			} else {
				c := dialTCP(t, s)
				writeTCP(t, c, question(tt.question))
				m, want = readTCP(t, c), tt.tcp
			}
			asked := up.queries() > before
			if asked != want || show(m) == "NXDOMAIN ede=15" == want {
				t.Errorf("default %v, %q: %s over %s: got %q, asked %t, want permitted %t", tt.egress, tt.rules, tt.question, transport, show(m), asked, want)
			}
		}
	}
}

// TestDeniedFlood asks for thirty thousand names that aren't allowed, as a
// tunnel does: nothing leaves, and what is allowed still works.
func TestDeniedFlood(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone("www.example.com. 60 IN A 93.184.1.1"))
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}, Policy: rulesOf(t, policy.Deny, "allow www.example.com")})
	q := question("x.t.evil.io NULL")
	wire, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 30_000 {
		name := fmt.Sprintf("\x3f%063d\x3f%063d\x01t\x04evil\x02io\x00", i, i)
		msg := append(append(slices.Clone(wire[:headerLen]), name...), wire[headerLen+len("\x01x\x01t\x04evil\x02io\x00"):]...)
		var answer []byte
		s.ServeDatagram(msg, func(a []byte) { answer = a })
		if len(answer) < headerLen || answer[3]&0xf != mdns.RcodeNameError {
			t.Fatalf("query %d: got %x", i, answer)
		}
	}
	if n := up.queries(); n != 0 {
		t.Errorf("%d queries left the host", n)
	}
	if got := show(ask(t, s, question("www.example.com A"))); got != "NOERROR 93.184.1.1" {
		t.Errorf("afterwards: got %q", got)
	}
	if got := s.Stats(); got.Denied != 30_000 || got.Upstream != 1 {
		t.Errorf("counters: %+v", got)
	}
}

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

// TestUsable leaves out what the host has no way to.
func TestUsable(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone("x.example. 60 IN A 93.184.1.1", "x.example. 60 IN A 93.184.2.1", "x.example. 60 IN AAAA 2606:2800::1",
		"w.example. 60 IN CNAME x.example.", "x.example. 60 IN HTTPS 1 . alpn=h2 ipv4hint=93.184.1.1,93.184.2.1 ipv6hint=2606:2800::1"))
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

// TestSizes asks for answers that fit, don't fit, and fit no UDP.
func TestSizes(t *testing.T) {
	t.Parallel()
	lines := manyAddresses("forty.example.", 40)
	lines = append(lines, manyAddresses("sixty.example.", 60)...)
	for i := range 40 {
		lines = append(lines, fmt.Sprintf("text.example. 60 IN TXT \"%02d%s\"", i, strings.Repeat("x", 98)))
	}
	up := newAuthority(t, zone(lines...))
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}})
	for _, tt := range []struct {
		question string
		size     uint16 // 0 is without EDNS
		max      int    // bytes
		whole    bool
		records  int
	}{
		{"forty.example A", 0, 512, false, 40},
		{"forty.example A", 512, 512, false, 40},
		{"forty.example A", 1232, 1232, true, 40},
		{"sixty.example A", 0, 512, false, 60},
		{"sixty.example A", 100, 512, false, 60},
		{"text.example TXT", 1232, 1232, false, 40},
		{"text.example TXT", 4096, 4096, false, 40},
		{"text.example TXT", 65535, 4096, false, 40},
	} {
		q := new(mdns.Msg).SetQuestion(mdns.Fqdn(strings.Fields(tt.question)[0]), mdns.StringToType[strings.Fields(tt.question)[1]])
		if tt.size > 0 {
			q.SetEdns0(tt.size, false)
		}
		wire, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		for _, cached := range []bool{false, true} {
			answer := exchangeRaw(t, s, wire)
			var m mdns.Msg
			if err := m.Unpack(answer); err != nil {
				t.Fatal(err)
			}
			if len(answer) > tt.max || m.Truncated == tt.whole || tt.whole != (len(m.Answer) == tt.records) || len(m.Answer) == 0 || (m.IsEdns0() != nil) != (tt.size > 0) {
				t.Errorf("%s, size %d, cached %t: got %d bytes, TC %t, %d records, OPT %t; want at most %d, whole %t", tt.question, tt.size, cached, len(answer), m.Truncated, len(m.Answer), m.IsEdns0() != nil, tt.max, tt.whole)
			}
		}
		c := dialTCP(t, s)
		writeTCP(t, c, q)
		if m := readTCP(t, c); m.Truncated || len(m.Answer) != tt.records {
			t.Errorf("%s over TCP: got TC %t, %d records, want %d", tt.question, m.Truncated, len(m.Answer), tt.records)
		}
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

// TestCase asks in mixed case. What the guest wrote comes back; what we wrote to
// the upstream doesn't show.
func TestCase(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone("www.example.com. 60 IN CNAME E1.CDN.net.", "E1.CDN.net. 60 IN A 93.184.1.1", "www.example.org. 60 IN MX 1 Mail.example.org."))
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}})
	for range 10 {
		s.Flush()
		for _, name := range []string{"www.example.com.", "WWW.EXAMPLE.COM.", "wWw.ExAmPlE.cOm."} {
			m := ask(t, s, question(name+" A"))
			if m.Question[0].Name != name || len(m.Answer) != 2 || m.Answer[0].Header().Name != name || data(m.Answer[0]) != "E1.CDN.net." {
				t.Errorf("asked %s: got %v", name, m)
			}
		}
		for _, name := range []string{"www.example.org.", "WWW.EXAMPLE.ORG."} {
			m := ask(t, s, question(name+" MX"))
			if len(m.Answer) != 1 || m.Answer[0].Header().Name != name || !strings.HasPrefix(data(m.Answer[0]), "1 Mail.") {
				t.Errorf("asked %s: got %v", name, m)
			}
		}
	}
	up.mu.Lock()
	defer up.mu.Unlock()
	if len(slices.Compact(slices.Sorted(slices.Values(up.asked)))) < 5 {
		t.Errorf("the upstream saw few spellings: %q", up.asked)
	}
}

// TestFlags passes the header's bits and the OPT record's as each RFC says.
func TestFlags(t *testing.T) {
	t.Parallel()
	const sig = " 5 2 60 20300101000000 20200101000000 1 example. AAAA"
	signed := records(t, "x.example. 60 IN A 93.184.1.1", "x.example. 60 IN RRSIG A"+sig)
	up := newAuthority(t, func(w mdns.ResponseWriter, q *mdns.Msg) {
		m := new(mdns.Msg).SetReply(q)
		m.Answer = signed[:1]
		if opt := q.IsEdns0(); opt != nil && opt.Do() {
			m.Answer = signed
			m.SetEdns0(1232, true)
		}
		m.AuthenticatedData = !q.CheckingDisabled
		m.Authoritative = true
		w.WriteMsg(m)
	})
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}})
	for _, tt := range []struct {
		name                   string
		edns, do, ad, cd, noRD bool
		wantAD                 bool
		wantRecords            int
	}{
		{name: "plain", wantRecords: 1},
		{name: "EDNS", edns: true, wantRecords: 1},
		{name: "DO", edns: true, do: true, wantAD: true, wantRecords: 2},
		{name: "AD", ad: true, wantAD: true, wantRecords: 1},
		{name: "CD and AD", ad: true, cd: true, wantRecords: 1},
		{name: "no RD", noRD: true, wantRecords: 1},
	} {
		q := new(mdns.Msg).SetQuestion("x.example.", mdns.TypeA)
		q.AuthenticatedData, q.CheckingDisabled, q.RecursionDesired = tt.ad, tt.cd, !tt.noRD
		if tt.edns {
			q.SetEdns0(1232, tt.do)
		}
		for _, cached := range []bool{false, true} {
			m := ask(t, s, q)
			opt := m.IsEdns0()
			if m.AuthenticatedData != tt.wantAD || m.CheckingDisabled != tt.cd || m.RecursionDesired == tt.noRD || !m.RecursionAvailable || m.Authoritative ||
				len(m.Answer) != tt.wantRecords || (opt != nil) != tt.edns || opt != nil && opt.Do() != tt.do {
				t.Errorf("%s, cached %t: got %v", tt.name, cached, m)
			}
		}
	}
}

// TestUpstreamError passes on the code of an upstream's Extended DNS Error.
func TestUpstreamError(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, func(w mdns.ResponseWriter, q *mdns.Msg) {
		m := new(mdns.Msg).SetRcode(q, mdns.RcodeServerFailure)
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = []mdns.EDNS0{&mdns.EDNS0_EDE{InfoCode: mdns.ExtendedErrorCodeDNSBogus, ExtraText: "signature of <b>x</b>"}}
		w.WriteMsg(m)
	})
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}})
	m := ask(t, s, question("x.example A"))
	if show(m) != "SERVFAIL ede=6" || m.IsEdns0().Option[0].(*mdns.EDNS0_EDE).ExtraText != "" {
		t.Errorf("got %v", m)
	}
	plain := new(mdns.Msg).SetQuestion("x.example.", mdns.TypeA)
	if got := ask(t, s, plain); got.IsEdns0() != nil || show(got) != "SERVFAIL" {
		t.Errorf("without EDNS: got %v", got)
	}
}

// TestEvents looks at what the record is told.
func TestEvents(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone("x.example. 60 IN A 93.184.1.1", "lan.example. 60 IN A 10.0.0.1"))
	events := newRecorder()
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}, Events: events.add, Policy: rulesOf(t, policy.Deny, "deny .evil.io", "allow public")})
	for _, text := range []string{"X.example A", "x.example A", "a.evil.io TXT", "lan.example A", "none.example A", "host.docker.internal A", `a\.b.example A`, "example AXFR"} {
		ask(t, s, question(text))
	}
	s.SetPolicy(rulesOf(t, policy.Deny, "allow public"))
	ask(t, s, question("x.example A"))
	var got []string
	for _, e := range events.all(EventQuery) {
		if e.Time.IsZero() || e.Protocol != policy.UDP || e.Duration < 0 || e.Upstream.IsValid() != (e.Reason == "" || e.Name == "lan.example") {
			t.Errorf("event: %+v", e)
		}
		got = append(got, fmt.Sprintf("%s %s %s %v cached=%t gen=%d rule=%d %s", e.Name, e.QType, e.RCode, e.Addrs, e.Cached, e.Generation, e.Verdict.Rule, e.Reason))
	}
	want := []string{
		"x.example A NOERROR [93.184.1.1] cached=false gen=1 rule=1 ",
		"x.example A NOERROR [93.184.1.1] cached=true gen=1 rule=1 ",
		"a.evil.io TXT NXDOMAIN [] cached=false gen=1 rule=0 denied by Rules[0]: deny egress .evil.io",
		"lan.example A NXDOMAIN [] cached=false gen=1 rule=-1 rebind protection: 10.0.0.1 is private",
		"none.example A NXDOMAIN [] cached=false gen=1 rule=1 ",
		"host.docker.internal A NOERROR [172.16.0.1] cached=false gen=1 rule=-1 a host alias is always answered",
		" A NXDOMAIN [] cached=false gen=1 rule=-1 malformed name: no rule can be about it",
		"example AXFR REFUSED [] cached=false gen=1 rule=-1 no zone transfer through a forwarder",
		"x.example A NOERROR [93.184.1.1] cached=true gen=2 rule=0 ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone("x.example. 60 IN A 93.184.1.1", "x.example. 60 IN AAAA 2606:2800::1", "four.example. 60 IN A 93.184.1.4", "text.example. 60 IN TXT x"))
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}, Policy: rulesOf(t, policy.Deny, "deny evil.example", "allow public")})
	for _, tt := range []struct{ name, want, err string }{
		{"x.example", "[93.184.1.1 2606:2800::1]", ""},
		{"X.Example.", "[93.184.1.1 2606:2800::1]", ""},
		{"four.example", "[93.184.1.4]", ""},
		{"host.docker.internal", "[172.16.0.1 fd42:6d73:62::1]", ""},
		{"text.example", "[]", `look up "text.example": no address`},
		{"none.example", "[]", `look up "none.example": answer is NXDOMAIN`},
		{"evil.example", "[]", `look up "evil.example": answer is NXDOMAIN`},
		{"a..b", "[]", `look up "a..b": dns: bad rdata`},
	} {
		got, err := s.Lookup(t.Context(), tt.name)
		if fmt.Sprint(got) != tt.want || (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
			t.Errorf("%s: got %v, %v, want %s, %s", tt.name, got, err, tt.want, tt.err)
		}
	}
	if names := s.AppendNames(nil, netip.MustParseAddr("93.184.1.4"), time.Now()); !slices.Equal(names, []string{"four.example"}) {
		t.Errorf("names: got %q", names)
	}
}

// TestConcurrently uses one Server from many goroutines while its rules change.
func TestConcurrently(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone("x.example. 1 IN A 93.184.1.1"))
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}, Events: newRecorder().add, Limits: Limits{QueriesPerSecond: -1, Names: 16}})
	allow, deny := rulesOf(t, policy.Deny, "allow public"), rulesOf(t, policy.Deny, "deny x.example", "allow public")
	done := make(chan error)
	for i := range 8 {
		go func() { done <- askMany(t, s, i) }()
	}
	for ended := 0; ended < 8; {
		select {
		case err := <-done:
			if ended++; err != nil {
				t.Error(err)
			}
		default:
			s.SetPolicy(deny)
			s.SetHost(&policy.Host{Gateways: gateways})
			s.SetPolicy(allow)
			s.Flush()
			s.Stats()
		}
	}
}

// askMany asks, looks at names, and holds them, a hundred times.
func askMany(t *testing.T, s *Server, seed int) error {
	addr := netip.MustParseAddr("93.184.1.1")
	var names []string
	for i := range 100 {
		text := "x.example A"
		if i%3 == 0 {
			text = fmt.Sprintf("n%d-%d.example A", seed, i)
		}
		if got := show(ask(t, s, question(text))); got != "NOERROR 93.184.1.1" && got != "NXDOMAIN" && got != "NXDOMAIN ede=15" {
			return errors.New(got)
		}
		now := time.Now()
		names = s.AppendNames(names[:0], addr, now)
		s.Hold(addr, names, now)(now)
	}
	return nil
}
