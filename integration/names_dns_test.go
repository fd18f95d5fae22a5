package integration

import (
	"encoding/base32"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/sluicenet/sluice/internal/netlab"
)

// TestDNSTunnel asks for a thousand names that an allow list doesn't permit, as a
// tunnel through DNS does (D-12): none leaves.
func TestDNSTunnel(t *testing.T) {
	// Not parallel: every packet to port 53 is counted.
	lab := netlab.New(t)
	h := lab.Host(t, "tunnel.ok.example")
	const nat64 = "ipv4only.arpa"
	before := len(lab.DNS.Queries(nat64))
	g := startGuest(t, "--allow", "tunnel.ok.example")
	eventually(t, "the sandbox has looked for NAT64", func() bool { return len(lab.DNS.Queries(nat64)) >= before+2 })
	const queries = 1000
	types := []string{"A", "AAAA", "TXT", "NULL", "CNAME", "MX", "SRV", "HTTPS"}
	random := rand.NewChaCha8([32]byte{1})
	var batch strings.Builder
	for i := range queries {
		label := make([]byte, 39) // 63 letters
		random.Read(label)
		name := strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(label))
		zone := "tunnel.example"
		if i%4 == 3 {
			zone = "tunnel.ok.example" // below the allowed name, but not it
		}
		fmt.Fprintf(&batch, "%s.%s %s\n", name, zone, types[i%len(types)])
	}
	file := shared(t, "batch", batch.String())
	wire := lab.Watch(t)
	g.want("dig +tries=1 +time=5 +noall +comments -f "+file+" | grep -c NXDOMAIN", fmt.Sprint(queries))
	g.want("dig +tcp +tries=1 +time=5 0123456789abcdef.tunnel.example TXT", "NXDOMAIN")
	wire.None(t, netlab.ToPort(53))
	for _, zone := range []string{"tunnel.example", "tunnel.ok.example"} {
		if asked := lab.DNS.Queries(zone); len(asked) > 0 {
			t.Errorf("the server was asked for %s", asked[0].Name)
		}
	}
	g.want("dig +short tunnel.ok.example", h.IP4.String())
}

// TestDNSLiar asks a server of the guest's choice (D-09), which would lie: the
// configured one answers instead, and nothing that the liar says admits an address.
func TestDNSLiar(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	liar := lab.Host(t, "liar.example", "8.8.8.8", "2001:4860:4860::8888")
	crowd := newCrowd(t, lab, 113, 2)
	crowd.serve(evidencePort, welcome)
	honest, attacker := crowd.pair(), crowd.pair()
	crowd.named("lied.ok.example", honest[:]...)
	lie := func(query []byte, _ net.Addr) []byte {
		var q dnsmessage.Message
		if q.Unpack(query) != nil || len(q.Questions) != 1 {
			return nil
		}
		q.Response = true
		q.Additionals = nil
		h := dnsmessage.ResourceHeader{Name: q.Questions[0].Name, Type: q.Questions[0].Type, Class: dnsmessage.ClassINET, TTL: 60}
		if h.Type == dnsmessage.TypeA {
			q.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AResource{A: attacker[0].As4()}}}
		} else {
			q.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AAAAResource{AAAA: attacker[1].As16()}}}
		}
		reply, err := q.Pack()
		if err != nil {
			return nil
		}
		return reply
	}
	liar.UDP(53, lie)
	liar.UDP(5300, lie)
	g := startGuest(t, "--rule", "allow .ok.example tcp", "--rule", "allow public udp")
	wire := lab.Watch(t)
	for f, server := range []string{"8.8.8.8", "2001:4860:4860::8888"} {
		record := []string{"A", "AAAA"}[f]
		g.want("dig +short +tries=1 @"+server+" lied.ok.example "+record, honest[f].String())
		g.want("dig +short +tries=1 +tcp @"+server+" lied.ok.example "+record, honest[f].String())
	}
	wire.None(t, liar.To())
	// On another port it is a datagram like any other; its answers count for nothing.
	hello := shared(t, "flight", flight(t, "sni", "lied.ok.example"))
	for f, server := range []string{"8.8.8.8", "2001:4860:4860::8888"} {
		record := []string{"A", "AAAA"}[f]
		g.want("dig +short +tries=1 -p 5300 @"+server+" lied.ok.example "+record, attacker[f].String())
		g.fails(fmt.Sprintf("nc -v -n -w 2 %v %d <%s", attacker[f], evidencePort, hello), 1)
		wire.None(t, netlab.To(attacker[f].String()))
		g.want(fmt.Sprintf("nc -v -n -w 5 %v %d <%s", honest[f], evidencePort, hello), "welcome")
	}
}

// TestDNSAnswers shows which answers are passed on.
func TestDNSAnswers(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	h := lab.Host(t, "answers.ok.example")
	for name, addrs := range map[string]string{
		"private":  "10.81.0.1 fd00:81::1",
		"mixed":    h.IP4.String() + " " + h.IP6.String() + " 10.81.0.1 fd00:81::1",
		"metadata": "169.254.169.254 fd00:ec2::254",
		"loopback": "127.0.0.1 ::1",
		"nat64":    "64:ff9b::a51:1",
	} {
		for addr := range strings.FieldsSeq(addrs) {
			lab.DNS.A(t, name+".answers.ok.example", addr)
			lab.DNS.A(t, name+".answers.no.example", addr)
		}
	}
	lab.DNS.A(t, "answers.no.example", h.IP4.String())
	lab.DNS.CNAME(t, "alias.answers.ok.example", "answers.no.example")
	path := policyFile(t, "deny_domain_suffixes: [answers.no.example]\ndeny_domains: [one.answers.ok.example]\n")
	const asked = "for n in %s; do dig +noall +comments +answer $n %s; done"
	for _, row := range []struct {
		what   string
		flags  string
		names  string
		gets   string // in the answer; "" for NXDOMAIN for every one
		leaves bool   // whether a query leaves
	}{
		{"rebind", "--network public-only", "private.answers.ok.example mixed.answers.ok.example metadata.answers.ok.example loopback.answers.ok.example", "", true},
		{"admitted", "--network non-local", "private.answers.ok.example", "10.81.0.1", true},
		{"metadata is never admitted by private", "--network non-local", "metadata.answers.ok.example loopback.answers.ok.example", "", true},
		{"suffixes, apex and below", "--policy " + path, "answers.no.example private.answers.no.example a.b.answers.no.example ANSWERS.no.example.", "", false},
		{"exact", "--policy " + path, "one.answers.ok.example", "", false},
		{"exact, its neighbour", "--policy " + path, "answers.ok.example", h.IP4.String(), true},
		{"an alias of a denied name", "--policy " + path, "alias.answers.ok.example", "", true},
		{"allow list", "--allow answers.ok.example", "answers.ok.example", h.IP4.String(), true},
		{"allow list, others", "--allow answers.ok.example", "answers.no.example private.answers.ok.example xanswers.ok.example answers.ok.example.evil.example", "", false},
	} {
		g := startGuest(t, strings.Fields(row.flags)...)
		before := len(lab.DNS.Queries("example"))
		out, _ := g.run(fmt.Sprintf(asked, row.names, "A"))
		n := len(strings.Fields(row.names))
		if row.gets == "" && (strings.Count(out, "NXDOMAIN") != n || strings.Contains(out, "\tIN\t")) {
			t.Errorf("%s: want NXDOMAIN for each of %s\n%s", row.what, row.names, out)
		}
		if !strings.Contains(out, row.gets) {
			t.Errorf("%s: want %s\n%s", row.what, row.gets, out)
		}
		left := 0
		for _, q := range lab.DNS.Queries("example")[before:] {
			if strings.Contains(row.names, q.Name) {
				left++
			}
		}
		if (left > 0) != row.leaves {
			t.Errorf("%s: %d queries left, want some: %t", row.what, left, row.leaves)
		}
	}
	// A denied name is denied by its first bytes too, whatever address it is said to.
	g := startGuest(t, "--policy", path)
	h.TCP(evidencePort, welcome)
	for _, f := range families {
		host, _, _ := strings.Cut(h.Endpoint(f, evidencePort), "]")
		host = strings.TrimPrefix(strings.TrimSuffix(host, fmt.Sprintf(":%d", evidencePort)), "[")
		for name, passes := range map[string]bool{"answers.no.example": false, "x.answers.no.example": false, "one.answers.ok.example": false, "xanswers.no.example": true, "two.answers.ok.example": true} {
			out, _ := g.run(fmt.Sprintf("nc -v -n -w 5 %s %d <%s", host, evidencePort, shared(t, "flight", flight(t, "sni", name))))
			if strings.Contains(out, "welcome") != passes {
				t.Errorf("SNI %s to %s: %q, want passed: %t", name, host, out, passes)
			}
		}
	}
}
