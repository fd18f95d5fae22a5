package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	mdns "github.com/miekg/dns"
	"golang.org/x/net/dns/dnsmessage"
)

// epoch is when tests with their own time begin.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// records parses records in zone-file form.
func records(t testing.TB, lines ...string) []mdns.RR {
	t.Helper()
	var rrs []mdns.RR
	for _, line := range lines {
		rr, err := mdns.NewRR(line)
		if err != nil {
			t.Fatalf("record %q: %v", line, err)
		}
		rrs = append(rrs, rr)
	}
	return rrs
}

// parsed returns the query for "name TYPE" as parseQuery gives it.
func parsed(t testing.TB, text string) *query {
	t.Helper()
	wire, err := question(text).Pack()
	if err != nil {
		t.Fatal(err)
	}
	q, rcode, ok := parseQuery(wire)
	if !ok || rcode != mdns.RcodeSuccess {
		t.Fatalf("question %q: %d, %t", text, rcode, ok)
	}
	return &q
}

// said returns what an upstream's answer to a question becomes. Lines that begin
// with "authority " or "additional " belong to those sections.
func said(t testing.TB, text string, rcode int, lines ...string) (*answer, error) {
	t.Helper()
	m := new(mdns.Msg).SetReply(question(text))
	m.Rcode = rcode
	for _, line := range lines {
		if l, ok := strings.CutPrefix(line, "authority "); ok {
			m.Ns = append(m.Ns, records(t, l)...)
		} else if l, ok := strings.CutPrefix(line, "additional "); ok {
			m.Extra = append(m.Extra, records(t, l)...)
		} else {
			m.Answer = append(m.Answer, records(t, line)...)
		}
	}
	q := parsed(t, text)
	a, err := readAnswer(m, q, epoch)
	if err == nil {
		a.name, _ = textName(m.Question[0].Name)
	}
	return a, err
}

// shown returns the answer's records as "TTL TYPE data", those of the authority
// section behind "|".
func shown(t testing.TB, a *answer, q *query) string {
	t.Helper()
	m := new(mdns.Msg)
	if err := m.Unpack(a.render(q, a.addrs, mdns.MaxMsgSize, a.stored)); err != nil {
		t.Fatal(err)
	}
	var words []string
	for i, section := range [][]mdns.RR{m.Answer, m.Ns} {
		for _, rr := range section {
			h := rr.Header()
			words = append(words, fmt.Sprintf("%d %s %s", h.Ttl, mdns.TypeToString[h.Rrtype], data(rr)))
		}
		if i == 0 && len(m.Ns) > 0 {
			words = append(words, "|")
		}
	}
	return strings.Join(words, " ")
}

func TestReadAnswer(t *testing.T) {
	t.Parallel()
	const soa = "authority a. 900 IN SOA ns.a. root.a. 1 2 3 4 120"
	for _, tt := range []struct {
		name, question string
		rcode          int
		lines          []string
		want           string // records, as shown
		addrs          string
		ttl            uint32
	}{
		{"address", "www.a A", 0, []string{"www.a. 60 IN A 93.184.1.1"}, "60 A 93.184.1.1", "93.184.1.1", 60},
		{"two addresses, one twice", "www.a A", 0, []string{"www.a. 60 IN A 93.184.1.1", "www.a. 60 IN A 93.184.1.2", "www.a. 60 IN A 93.184.1.1"}, "60 A 93.184.1.1 60 A 93.184.1.2 60 A 93.184.1.1", "93.184.1.1 93.184.1.2", 60},
		{"TTL over an hour", "www.a A", 0, []string{"www.a. 86400 IN A 93.184.1.1"}, "3600 A 93.184.1.1", "93.184.1.1", 3600},
		{"TTL with the top bit", "www.a A", 0, []string{"www.a. 2147483648 IN A 93.184.1.1"}, "3600 A 93.184.1.1", "93.184.1.1", 3600},
		{"TTL 0", "www.a A", 0, []string{"www.a. 0 IN A 93.184.1.1"}, "0 A 93.184.1.1", "93.184.1.1", 0},
		{"unrelated address", "www.a A", 0, []string{"www.a. 60 IN A 93.184.1.1", "evil.b. 60 IN A 6.6.6.6"}, "60 A 93.184.1.1", "93.184.1.1", 60},
		{"only an unrelated address", "www.a A", 0, []string{"evil.b. 60 IN A 6.6.6.6"}, "", "", 0},
		{"another type", "www.a A", 0, []string{"www.a. 60 IN AAAA 2606::1", "www.a. 60 IN TXT \"x\""}, "", "", 0},
		{"another class", "www.a TXT", 0, []string{"www.a. 60 CH TXT \"x\""}, "", "", 0},
		{"additional addresses", "a MX", 0, []string{"a. 60 IN MX 10 mx.a.", "additional mx.a. 60 IN A 93.184.1.9"}, "60 MX 10 mx.a.", "", 60},
		{"name servers", "www.a A", 0, []string{"www.a. 60 IN A 93.184.1.1", "authority a. 60 IN NS ns.a.", "additional ns.a. 60 IN A 93.184.1.9"}, "60 A 93.184.1.1", "93.184.1.1", 60},
		{"alias", "w.a A", 0, []string{"w.a. 30 IN CNAME www.a.", "www.a. 60 IN A 93.184.1.1"}, "30 CNAME www.a. 60 A 93.184.1.1", "93.184.1.1", 30},
		{"alias, wrong order", "w.a A", 0, []string{"www.a. 60 IN A 93.184.1.1", "w.a. 30 IN CNAME www.a."}, "30 CNAME www.a. 60 A 93.184.1.1", "93.184.1.1", 30},
		{"alias and an address at the same name", "w.a A", 0, []string{"w.a. 60 IN A 6.6.6.6", "w.a. 30 IN CNAME www.a.", "www.a. 60 IN A 93.184.1.1"}, "30 CNAME www.a. 60 A 93.184.1.1", "93.184.1.1", 30},
		{"two aliases of one name", "w.a A", 0, []string{"w.a. 30 IN CNAME x.a.", "w.a. 30 IN CNAME y.a.", "x.a. 60 IN A 93.184.1.1", "y.a. 60 IN A 93.184.1.2"}, "30 CNAME x.a. 60 A 93.184.1.1", "93.184.1.1", 30},
		{"alias to nothing here", "w.a A", 0, []string{"w.a. 30 IN CNAME www.b."}, "30 CNAME www.b.", "", 0},
		{"alias to no such name", "w.a A", 3, []string{"w.a. 30 IN CNAME www.a.", soa}, "30 CNAME www.a. | 900 SOA ns.a. root.a. 1 2 3 4 120", "", 30},
		{"address of no such name", "www.a A", 3, []string{"www.a. 30 IN A 6.6.6.6", soa}, "| 900 SOA ns.a. root.a. 1 2 3 4 120", "", 120},
		{"the alias itself", "w.a CNAME", 0, []string{"w.a. 30 IN CNAME www.a.", "www.a. 60 IN A 93.184.1.1"}, "30 CNAME www.a.", "", 30},
		{"any type", "www.a ANY", 0, []string{"www.a. 60 IN A 93.184.1.1", "www.a. 60 IN TXT \"x\"", "b. 60 IN A 6.6.6.6"}, "60 A 93.184.1.1 60 TXT \"x\"", "93.184.1.1", 60},
		{"DNAME", "w.x.a A", 0, []string{"x.a. 99 IN DNAME y.a.", "w.x.a. 99 IN CNAME w.y.a.", "w.y.a. 60 IN A 93.184.1.1", "z.a. 99 IN DNAME q.a.", "a. 99 IN DNAME b."}, "99 DNAME y.a. 99 CNAME w.y.a. 60 A 93.184.1.1", "93.184.1.1", 60},
		{"no data", "www.a A", 0, []string{soa}, "| 900 SOA ns.a. root.a. 1 2 3 4 120", "", 120},
		{"no data, SOA of elsewhere", "www.a A", 0, []string{"authority b. 900 IN SOA ns.b. root.b. 1 2 3 4 120"}, "", "", 0},
		{"proof of absence", "www.a A", 3, []string{soa, "authority a. 60 IN NSEC b.a. A NS SOA"}, "| 900 SOA ns.a. root.a. 1 2 3 4 120 60 NSEC b.a. A NS SOA", "", 60},
		{"mapped address", "www.a AAAA", 0, []string{"www.a. 60 IN AAAA ::ffff:10.0.0.1"}, "60 AAAA ::ffff:10.0.0.1", "10.0.0.1", 60},
		{"service", "_x._tcp.a SRV", 0, []string{"_x._tcp.a. 60 IN SRV 0 0 5060 sip.a."}, "60 SRV 0 0 5060 sip.a.", "", 60},
		{"hints", "a HTTPS", 0, []string{"a. 60 IN HTTPS 1 . alpn=h2 ipv4hint=93.184.1.1,93.184.1.2 ipv6hint=2606::1"}, `60 HTTPS 1 . alpn="h2" ipv4hint="93.184.1.1,93.184.1.2" ipv6hint="2606::1"`, "93.184.1.1 93.184.1.2 2606::1", 60},
		{"ech", "a HTTPS", 0, []string{"a. 60 IN HTTPS 1 . alpn=h2 ech=AEX+DQ=="}, `60 HTTPS 1 . alpn="h2"`, "", 60},
		{"ech that is mandatory", "a HTTPS", 0, []string{"a. 60 IN HTTPS 1 . mandatory=ech ech=AEX+DQ==", "a. 60 IN HTTPS 2 b."}, "60 HTTPS 2 b.", "", 60},
		{"ech in SVCB", "_dns.a SVCB", 0, []string{"_dns.a. 60 IN SVCB 1 b. ech=AEX+DQ=="}, "60 SVCB 1 b.", "", 60},
	} {
		a, err := said(t, tt.question, tt.rcode, tt.lines...)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := shown(t, a, parsed(t, tt.question)); got != tt.want {
			t.Errorf("%s: got  %s\nwant %s", tt.name, got, tt.want)
		}
		if got := strings.Trim(fmt.Sprint(a.addrs), "[]"); got != tt.addrs {
			t.Errorf("%s: addresses: got %s, want %s", tt.name, got, tt.addrs)
		}
		if a.ttl != tt.ttl {
			t.Errorf("%s: kept for %d s, want %d", tt.name, a.ttl, tt.ttl)
		}
	}
}

// chainOf returns n CNAME records from c0.a. to cn.a. and an address there.
func chainOf(n int) []string {
	var lines []string
	for i := range n {
		lines = append(lines, fmt.Sprintf("c%d.a. 60 IN CNAME c%d.a.", i, i+1))
	}
	return append(lines, fmt.Sprintf("c%d.a. 60 IN A 93.184.1.1", n))
}

func TestChainLength(t *testing.T) {
	t.Parallel()
	a, err := said(t, "c0.a A", 0, chainOf(maxChain)...)
	if err != nil || len(a.hops) != maxChain || len(a.addrs) != 1 {
		t.Errorf("%d hops: got %d with %d addresses, %v", maxChain, len(a.hops), len(a.addrs), err)
	}
	for name, lines := range map[string][]string{
		"too long":         chainOf(maxChain + 1),
		"20 hops":          chainOf(20),
		"loop":             {"c0.a. 60 IN CNAME c1.a.", "c1.a. 60 IN CNAME c0.a."},
		"loop of one":      {"c0.a. 60 IN CNAME c0.a."},
		"loop in a circle": {"c0.a. 60 IN CNAME c1.a.", "c1.a. 60 IN CNAME c2.a.", "c2.a. 60 IN CNAME c1.a."},
	} {
		if _, err := said(t, "c0.a A", 0, lines...); !errors.Is(err, errChain) {
			t.Errorf("%s: got %v, want %v", name, err, errChain)
		}
	}
	if _, err := said(t, "c0.a A", 0, `c0.a. 60 IN CNAME evil\.example.com.`); !errors.Is(err, errChainName) {
		t.Errorf("dot in a label of a hop: got %v, want %v", err, errChainName)
	}
}

func TestTargets(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		question string
		lines    []string
		want     []string
	}{
		{"_x._tcp.a SRV", []string{"_x._tcp.a. 60 IN SRV 0 0 1 Sip.A."}, []string{"sip.a"}},
		{"_x._tcp.a SRV", []string{"_x._tcp.a. 60 IN SRV 0 0 1 ."}, nil},
		{"a MX", []string{"a. 60 IN MX 1 mx1.a.", "a. 60 IN MX 2 mx2.b."}, []string{"mx1.a", "mx2.b"}},
		{"a MX", []string{"a. 60 IN MX 0 ."}, nil},
		{"a HTTPS", []string{"a. 60 IN HTTPS 0 svc.b."}, []string{"svc.b"}},
		{"a HTTPS", []string{"a. 60 IN HTTPS 1 . alpn=h2"}, nil},
		{"_dns.a SVCB", []string{"_dns.a. 60 IN SVCB 1 dot.b."}, []string{"dot.b"}},
		{"a MX", []string{`a. 60 IN MX 1 bad\.label.a.`}, nil},
		{"a A", []string{"b. 60 IN MX 1 mx.b.", "a. 60 IN A 93.184.1.1"}, nil},
		{"a NS", []string{"a. 60 IN NS ns.a."}, nil},
	} {
		a, err := said(t, tt.question, 0, tt.lines...)
		if err != nil {
			t.Errorf("%s %q: %v", tt.question, tt.lines, err)
			continue
		}
		if diff := cmp.Diff(tt.want, a.targets); diff != "" {
			t.Errorf("%s %q: %s", tt.question, tt.lines, diff)
		}
	}
}

// TestSignatures shows which signatures stay: those over sets that we pass on
// as they are.
func TestSignatures(t *testing.T) {
	t.Parallel()
	const sig = " 5 2 60 20300101000000 20200101000000 1 a. AAAA"
	a, err := said(t, "w.a A", 0, "w.a. 60 IN CNAME www.a.", "w.a. 60 IN RRSIG CNAME"+sig, "w.a. 60 IN RRSIG TXT"+sig,
		"www.a. 60 IN A 93.184.1.1", "www.a. 60 IN RRSIG A"+sig, "b. 60 IN RRSIG A"+sig)
	if err != nil {
		t.Fatal(err)
	}
	q := parsed(t, "w.a A")
	got := strings.Count(shown(t, a, q), "RRSIG")
	if got != 2 {
		t.Errorf("signatures of alias and address: got %d, want 2: %s", got, shown(t, a, q))
	}
	a, err = said(t, "a HTTPS", 0, "a. 60 IN HTTPS 1 . ech=AEX+DQ==", "a. 60 IN RRSIG HTTPS"+sig)
	if err != nil {
		t.Fatal(err)
	}
	if got := shown(t, a, parsed(t, "a HTTPS")); got != "60 HTTPS 1 ." {
		t.Errorf("signature over what lost its ech: got %s", got)
	}
}

func TestAnswerAges(t *testing.T) {
	t.Parallel()
	a, err := said(t, "w.a A", 0, "w.a. 90 IN CNAME www.a.", "www.a. 60 IN A 93.184.1.1")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		after time.Duration
		want  []uint32
		names time.Duration // how long the entry in the table of names then lives
	}{
		{0, []uint32{90, 60}, 60*time.Second + nameGrace},
		{999 * time.Millisecond, []uint32{90, 60}, 60*time.Second + nameGrace},
		{20 * time.Second, []uint32{70, 40}, 40*time.Second + nameGrace},
		{59 * time.Second, []uint32{31, 1}, 5*time.Second + nameGrace},
		{100 * time.Second, []uint32{0, 0}, 5*time.Second + nameGrace},
		{-time.Second, []uint32{90, 60}, 60*time.Second + nameGrace},
	} {
		now := epoch.Add(tt.after)
		m := new(mdns.Msg)
		if err := m.Unpack(a.render(parsed(t, "w.a A"), a.addrs, 512, now)); err != nil {
			t.Fatal(err)
		}
		var got []uint32
		for _, rr := range m.Answer {
			got = append(got, rr.Header().Ttl)
		}
		if !slices.Equal(got, tt.want) || a.namesExpire(now).Sub(now) != tt.names {
			t.Errorf("after %v: TTLs %d, names for %v; want %d, %v", tt.after, got, a.namesExpire(now).Sub(now), tt.want, tt.names)
		}
	}
}

// FuzzAnswer lets an upstream say anything, and checks what of it reaches the
// guest.
func FuzzAnswer(f *testing.F) {
	for _, lines := range [][]string{
		{"w.a. 60 IN A 93.184.1.1", "b. 60 IN A 6.6.6.6"},
		chainOf(3),
		{"w.a. 60 IN HTTPS 1 . alpn=h2 ipv4hint=93.184.1.1 ech=AEX+DQ=="},
		{"w.a. 60 IN CNAME www.a.", "www.a. 60 IN AAAA 2606::1"},
	} {
		m := new(mdns.Msg).SetReply(question("w.a HTTPS"))
		m.Answer = records(f, lines...)
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire, uint16(mdns.TypeHTTPS))
		f.Add(wire, uint16(mdns.TypeA))
	}
	f.Fuzz(func(t *testing.T, wire []byte, qtype uint16) {
		m, err := unpackReply(wire)
		if err != nil || !final(m.Rcode) {
			return
		}
		q := parsed(t, "w.a A")
		q.qtype = qtype
		a, err := readAnswer(m, q, epoch)
		if err != nil {
			return
		}
		a.name = "w.a"
		for _, size := range []int{plainUDPSize, mdns.MaxMsgSize} {
			checkReplyToGuest(t, a, q, a.addrs, size)
			checkReplyToGuest(t, a, q, a.addrs[:len(a.addrs)/2], size)
		}
	})
}

// checkReplyToGuest fails if a reply doesn't parse, is too long, or holds what
// no guest may see: addresses that aren't given, names that the chain doesn't
// reach, ech, or TTLs over an hour.
func checkReplyToGuest(t *testing.T, a *answer, q *query, given []netip.Addr, size int) {
	reply := a.render(q, given, size, epoch)
	if len(reply) > size {
		t.Fatalf("reply of %d bytes, want at most %d", len(reply), size)
	}
	var m mdns.Msg
	if err := m.Unpack(reply); err != nil {
		t.Fatalf("our reply %x: %v", reply, err)
	}
	var p dnsmessage.Parser
	if h, err := p.Start(reply); err != nil || h.ID != q.id || !h.Response {
		t.Fatalf("our reply %x: header %+v, %v", reply, h, err)
	}
	if err := p.SkipAllQuestions(); err != nil {
		t.Fatal(err)
	}
	answers := 0
	for ; ; answers++ {
		h, err := p.AnswerHeader()
		if err == dnsmessage.ErrSectionDone {
			break
		}
		if err != nil {
			t.Fatalf("our reply %x: record %d: %v", reply, answers, err)
		}
		if h.TTL > maxTTL {
			t.Fatalf("our reply %x: TTL %d", reply, h.TTL)
		}
		if err := p.SkipAnswer(); err != nil {
			t.Fatal(err)
		}
	}
	if answers != len(m.Answer) {
		t.Fatalf("our reply %x: dnsmessage reads %d records, miekg %d", reply, answers, len(m.Answer))
	}
	reached := []string{"w.a."}
	for _, rr := range m.Answer {
		owner := mdns.CanonicalName(rr.Header().Name)
		if !slices.Contains(reached, owner) && coveredType(rr) != mdns.TypeDNAME && rr.Header().Rrtype != mdns.TypeRRSIG {
			t.Fatalf("our reply holds %v, which %v doesn't reach", rr, reached)
		}
		switch rr := rr.(type) {
		case *mdns.CNAME:
			reached = append(reached, mdns.CanonicalName(rr.Target))
		case *mdns.HTTPS:
			checkBinding(t, &rr.SVCB, given)
		case *mdns.SVCB:
			checkBinding(t, rr, given)
		}
	}
	for _, addr := range addrsIn(m.Answer) {
		if !slices.Contains(given, addr) {
			t.Fatalf("our reply holds address %v, given are %v", addr, given)
		}
	}
}

func checkBinding(t *testing.T, b *mdns.SVCB, given []netip.Addr) {
	for _, v := range b.Value {
		if v.Key() == mdns.SVCB_ECHCONFIG {
			t.Fatalf("our reply holds ech: %v", b)
		}
	}
	hints := collector{a: &answer{}, seen: make(map[netip.Addr]bool)}
	hints.addBinding(b)
	for _, addr := range hints.a.addrs {
		if !slices.Contains(given, addr) {
			t.Fatalf("our reply hints at %v, given are %v", addr, given)
		}
	}
}
