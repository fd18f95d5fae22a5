package dns

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
)

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
