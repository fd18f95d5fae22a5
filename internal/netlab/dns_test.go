package netlab

import (
	"net"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func TestDNS(t *testing.T) {
	t.Parallel()
	lab := New(t)
	web := lab.Host(t, "Web.zone.example")
	lab.DNS.A(t, "many.zone.example", "192.0.2.1")
	lab.DNS.A(t, "many.zone.example", "192.0.2.2")
	lab.DNS.CNAME(t, "alias.zone.example", "web.zone.example")
	lab.DNS.CNAME(t, "loop.zone.example", "loop.zone.example")
	lab.DNS.Add(t, "txt.zone.example", 60, &dnsmessage.TXTResource{TXT: []string{"hello"}})
	lab.DNS.Add(t, "mx.zone.example", 60, &dnsmessage.MXResource{Pref: 10, MX: dnsmessage.MustNewName("web.zone.example.")})
	lab.DNS.Add(t, "big.zone.example", 60, &dnsmessage.TXTResource{TXT: []string{strings.Repeat("x", 250), strings.Repeat("y", 250), strings.Repeat("z", 250), strings.Repeat("w", 250), strings.Repeat("v", 250), strings.Repeat("u", 250)}})
	lab.DNS.Add(t, "odd.zone.example", 60, &dnsmessage.UnknownResource{Type: 65, Data: []byte{0, 1, 0}})
	four, six := web.IP4.String(), web.IP6.String()
	for _, row := range []struct{ args, want string }{
		{"web.zone.example A", four},
		{"web.zone.example AAAA", six},
		{"WEB.ZONE.example A", four},
		{"+tcp web.zone.example A", four},
		{"@" + DNS4.String() + " web.zone.example A", four},
		{"@" + DNS6.String() + " web.zone.example A", four},
		{"+noedns web.zone.example A", four},
		{"many.zone.example A", "192.0.2.1\n192.0.2.2"},
		{"alias.zone.example A", "web.zone.example.\n" + four},
		{"alias.zone.example CNAME", "web.zone.example."},
		{"txt.zone.example TXT", `"hello"`},
		{"mx.zone.example MX", "10 web.zone.example."},
		{"odd.zone.example TYPE65", "1 ."},
		{"web.zone.example TXT", ""},
		{"nobody.zone.example A", ""},
	} {
		out, err := run(t, "dig +short +time=5 +tries=1 "+row.args)
		if err != nil || out != row.want {
			t.Errorf("dig %s: %q, %v, want %q", row.args, out, err, row.want)
		}
	}
	for _, row := range []struct{ args, want string }{
		{"nobody.zone.example A", "status: NXDOMAIN"},
		{"web.zone.example TXT", "status: NOERROR"},
		{"loop.zone.example A", "loop.zone.example."},
		{"+ignore big.zone.example TXT", " tc "},
		{"+ignore +bufsize=4096 big.zone.example TXT", "ANSWER: 1"},
		{"big.zone.example TXT", "(TCP)"},
	} {
		out, err := run(t, "dig +time=5 +tries=1 "+row.args)
		if err != nil || !strings.Contains(out, row.want) {
			t.Errorf("dig %s: %v, want %q in\n%s", row.args, err, row.want, out)
		}
	}
}

func TestDNSQueries(t *testing.T) {
	t.Parallel()
	lab := New(t)
	lab.DNS.A(t, "asked.example", "192.0.2.1")
	if _, err := net.DefaultResolver.LookupNetIP(t.Context(), "ip4", "asked.example"); err != nil {
		t.Fatal(err)
	}
	queries := lab.DNS.Queries("Asked.Example.")
	if len(queries) == 0 || queries[0].Type != dnsmessage.TypeA || queries[0].Network != "udp" || queries[0].From.Addr() != Here4 {
		t.Errorf("queries %v, want one for A by UDP from %v", queries, Here4)
	}
	if got := lab.DNS.Queries("sked.example"); len(got) != 0 {
		t.Errorf("queries for a name that wasn't asked: %v", got)
	}
}

// TestDNSForgets shows that a test's records end with it.
func TestDNSForgets(t *testing.T) {
	t.Parallel()
	lab := New(t)
	t.Run("inner", func(t *testing.T) { lab.DNS.A(t, "short.example", "192.0.2.1") })
	if got, err := net.DefaultResolver.LookupNetIP(t.Context(), "ip4", "short.example"); err == nil {
		t.Errorf("still resolves to %v", got)
	}
}

func FuzzDNSAnswer(f *testing.F) {
	d := &DNS{names: map[string][]record{
		"web.example":   {{dnsmessage.TypeA, 60, &dnsmessage.AResource{}}},
		"alias.example": {{dnsmessage.TypeCNAME, 60, &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName("web.example.")}}},
	}}
	for _, name := range []string{"web.example.", "alias.example.", "nobody.example."} {
		m := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
		packed, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	f.Fuzz(func(t *testing.T, query []byte) {
		reply := d.answer(query, "udp", &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1})
		if reply == nil {
			return
		}
		var got, asked dnsmessage.Message
		var p dnsmessage.Parser
		header, err := p.Start(query)
		if err != nil {
			t.Fatalf("answered what can't be parsed: %x", query)
		}
		if err := got.Unpack(reply); err != nil {
			t.Fatalf("reply to %x can't be parsed: %v", query, err)
		}
		if got.ID != header.ID || !got.Response || len(got.Questions) != 1 {
			t.Errorf("reply %v to %v", got.Header, asked.Header)
		}
	})
}
