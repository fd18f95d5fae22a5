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
