package dns

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/sluicenet/sluice/policy"
)

// instant returns a Server whose upstreams answer at once, without a network.
func instant(t testing.TB, cfg Config) *Server {
	cfg.Nameservers = []Nameserver{{Addr: loopback, Port: 53}}
	if cfg.Limits == (Limits{}) {
		cfg.Limits.QueriesPerSecond = -1
	}
	s := newServer(t, cfg)
	reply := new(mdns.Msg)
	s.exchange = func(_ context.Context, _ netip.AddrPort, q *query, u upstreamState) (*mdns.Msg, upstreamState, error) {
		name, _, _ := mdns.UnpackDomainName(q.wire(), 0)
		return good(reply.Copy().SetQuestion(name, q.qtype)), u, nil
	}
	return s
}

// manyRules returns a policy of n domain rules, and one that allows the rest.
func manyRules(t testing.TB, n int) *policy.Policy {
	rules := make([]string, n, n+1)
	for i := range rules {
		rules[i] = fmt.Sprintf("deny .blocked%d.example", i)
	}
	return rulesOf(t, policy.Deny, append(rules, "allow public")...)
}

func BenchmarkHit(b *testing.B) {
	for _, rules := range []int{0, 1000} {
		b.Run(fmt.Sprintf("rules=%d", rules), func(b *testing.B) {
			s := instant(b, Config{Policy: manyRules(b, rules)})
			benchmarkQuery(b, s, "www.example.com A")
		})
	}
}

func BenchmarkDenied(b *testing.B) {
	s := instant(b, Config{Policy: rulesOf(b, policy.Deny, "allow example.org")})
	benchmarkQuery(b, s, "www.example.com A")
}

func BenchmarkAlias(b *testing.B) {
	benchmarkQuery(b, instant(b, Config{}), "host.docker.internal A")
}

// benchmarkQuery asks the same thing again and again.
func benchmarkQuery(b *testing.B, s *Server, text string) {
	wire, err := question(text).Pack()
	if err != nil {
		b.Fatal(err)
	}
	exchangeRaw(b, s, wire) // fills the cache
	b.ReportAllocs()
	for b.Loop() {
		s.ServeDatagram(wire, func([]byte) {})
	}
}

// BenchmarkMiss asks for ever new names, without a network.
func BenchmarkMiss(b *testing.B) {
	benchmarkNames(b, instant(b, Config{}))
}

// BenchmarkForward does so with an upstream on loopback, which takes part of the
// time.
func BenchmarkForward(b *testing.B) {
	up := newAuthority(b, func(w mdns.ResponseWriter, q *mdns.Msg) { w.WriteMsg(good(q)) })
	benchmarkNames(b, newServer(b, Config{Nameservers: []Nameserver{up.nameserver()}, Limits: Limits{QueriesPerSecond: -1}}))
}

// benchmarkNames asks for new names, 64 at a time.
func benchmarkNames(b *testing.B, s *Server) {
	wire, err := question("n00000000.example.com A").Pack()
	if err != nil {
		b.Fatal(err)
	}
	answers := make(chan struct{}, 64)
	for range cap(answers) {
		answers <- struct{}{}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		copy(wire[headerLen+2:], fmt.Sprintf("%08d", i))
		<-answers
		s.ServeDatagram(wire, func([]byte) { answers <- struct{}{} })
	}
	for range cap(answers) {
		<-answers
	}
}

func BenchmarkAppendNames(b *testing.B) {
	s := newServer(b, Config{})
	addr, now := netip.MustParseAddr("93.184.1.1"), time.Now()
	s.names.add("www.example.com", []netip.Addr{addr}, now.Add(time.Hour), now)
	dst := make([]string, 0, 4)
	b.ReportAllocs()
	for b.Loop() {
		dst = s.AppendNames(dst[:0], addr, now)
	}
}

// TestHitAllocs pins what an answer from the cache costs: the reply itself,
// which the callee owns.
func TestHitAllocs(t *testing.T) {
	s := instant(t, Config{})
	wire, err := question("www.example.com A").Pack()
	if err != nil {
		t.Fatal(err)
	}
	exchangeRaw(t, s, wire)
	if n := testing.AllocsPerRun(1000, func() { s.ServeDatagram(wire, func([]byte) {}) }); n > 1 {
		t.Errorf("got %v allocations, want 1", n)
	}
}

// TestMemory asks for many distinct names, and looks at what stays.
func TestMemory(t *testing.T) {
	s := instant(t, Config{})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	wire, err := question("n00000000.example.com A").Pack()
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan struct{})
	for i := range 50_000 {
		copy(wire[headerLen+2:], fmt.Sprintf("%08d", i))
		s.ServeDatagram(wire, func([]byte) { answered <- struct{}{} })
		<-answered
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("got %d KiB more than before, want at most 16 MiB", grown>>10)
	}
	if got := s.Stats(); got.Answered != 50_000 {
		t.Errorf("counters: %+v", got)
	}
}
