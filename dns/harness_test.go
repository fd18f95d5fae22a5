package dns

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/sluicenet/sluice/policy"
)

// An authority is an upstream that says what a test tells it to, over UDP and
// TCP on loopback.
type authority struct {
	addr     netip.AddrPort
	udp, tcp atomic.Int64 // queries

	mu     sync.Mutex // guards the following
	handle func(w mdns.ResponseWriter, q *mdns.Msg)
	asked  []string // names as they came, with their case
}

// newAuthority starts an authority that answers with handle until the test ends.
func newAuthority(t testing.TB, handle func(w mdns.ResponseWriter, q *mdns.Msg)) *authority {
	t.Helper()
	a := &authority{handle: handle}
	var pc net.PacketConn
	var l net.Listener
	for { // the port must be free for both
		var err error
		if pc, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		a.addr = pc.LocalAddr().(*net.UDPAddr).AddrPort()
		if l, err = net.Listen("tcp", a.addr.String()); err == nil {
			break
		}
		pc.Close()
	}
	serve := func(count *atomic.Int64) mdns.HandlerFunc {
		return func(w mdns.ResponseWriter, q *mdns.Msg) {
			count.Add(1)
			a.mu.Lock()
			a.asked = append(a.asked, q.Question[0].Name)
			handle := a.handle
			a.mu.Unlock()
			handle(w, q)
		}
	}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	for _, s := range []*mdns.Server{
		{PacketConn: pc, Handler: serve(&a.udp)},
		{Listener: l, Handler: serve(&a.tcp)},
	} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		wg.Go(func() { s.ActivateAndServe() })
		<-started
		t.Cleanup(func() { s.Shutdown() })
	}
	return a
}

// nameserver returns the authority as an upstream of a Config.
func (a *authority) nameserver() Nameserver {
	return Nameserver{Addr: a.addr.Addr(), Port: a.addr.Port()}
}

// queries returns how many queries came in.
func (a *authority) queries() int { return int(a.udp.Load() + a.tcp.Load()) }

// zone returns a handler that answers with the records in zone-file form that
// have the question's name and type, with a chain of CNAME records in front.
func zone(records ...string) func(w mdns.ResponseWriter, q *mdns.Msg) {
	rrs := make([]mdns.RR, len(records))
	for i, r := range records {
		rr, err := mdns.NewRR(r)
		if err != nil {
			panic(fmt.Sprintf("record %q: %v", r, err))
		}
		rrs[i] = rr
	}
	return func(w mdns.ResponseWriter, q *mdns.Msg) {
		m := zoneReply(q, rrs)
		if opt := q.IsEdns0(); opt != nil && !isTCP(w) {
			m.Truncate(int(opt.UDPSize()))
		}
		w.WriteMsg(m)
	}
}

func zoneReply(q *mdns.Msg, rrs []mdns.RR) *mdns.Msg {
	m := new(mdns.Msg).SetReply(q)
	m.Compress = true
	name, known := mdns.CanonicalName(q.Question[0].Name), false
	for range 64 {
		next := ""
		for _, rr := range rrs {
			h := rr.Header()
			if mdns.CanonicalName(h.Name) != name {
				continue
			}
			known = true
			c, isCNAME := rr.(*mdns.CNAME)
			if h.Rrtype == q.Question[0].Qtype || isCNAME {
				m.Answer = append(m.Answer, mdns.Copy(rr))
			}
			if isCNAME && q.Question[0].Qtype != mdns.TypeCNAME {
				next = mdns.CanonicalName(c.Target)
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	if !known {
		m.Rcode = mdns.RcodeNameError
	}
	if len(m.Answer) == 0 {
		soa, _ := mdns.NewRR(". 300 IN SOA ns.test. admin.test. 1 2 3 4 60")
		m.Ns = []mdns.RR{soa}
	}
	return m
}

// rulesOf returns the policy of rules in text form over a default.
func rulesOf(t testing.TB, egress policy.Action, rules ...string) *policy.Policy {
	t.Helper()
	c := policy.Config{DefaultEgress: egress, DefaultIngress: policy.Allow}
	for i, text := range rules {
		r, err := policy.ParseRule(text)
		if err != nil {
			t.Fatalf("rule %q: %v", text, err)
		}
		r.Source = fmt.Sprintf("Rules[%d]", i)
		c.Rules = append(c.Rules, r)
	}
	p, err := policy.New(c)
	if err != nil {
		t.Fatalf("rules %q: %v", rules, err)
	}
	return p
}

// gateways are those of a sandbox in tests.
var gateways = []netip.Addr{netip.MustParseAddr("172.16.0.1"), netip.MustParseAddr("fd42:6d73:62::1")}

// newServer returns a Server for cfg, closed when the test ends. Without a
// policy of its own it allows everything public.
func newServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	if cfg.Policy == nil {
		cfg.Policy = rulesOf(t, policy.Deny, "allow public")
	}
	if cfg.Gateways == nil {
		cfg.Gateways = gateways
	}
	if cfg.Host == nil {
		cfg.Host = &policy.Host{Gateways: cfg.Gateways}
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// question returns a query for "name TYPE", as a stub with EDNS asks it.
func question(text string) *mdns.Msg {
	name, qtype, _ := strings.Cut(text, " ")
	m := new(mdns.Msg).SetQuestion(mdns.Fqdn(name), mdns.StringToType[qtype])
	m.SetEdns0(1232, false)
	return m
}

// patience bounds what a test waits for; no test should come near it.
const patience = 20 * time.Second

// ask sends a query over UDP and returns the answer.
func ask(t testing.TB, s *Server, q *mdns.Msg) *mdns.Msg {
	t.Helper()
	wire, err := q.Pack()
	if err != nil {
		t.Fatalf("pack query %v: %v", q.Question, err)
	}
	m := new(mdns.Msg)
	if err := m.Unpack(exchangeRaw(t, s, wire)); err != nil {
		t.Fatalf("answer to %v: %v", q.Question, err)
	}
	return m
}

// exchangeRaw sends a message over UDP and returns the answer.
func exchangeRaw(t testing.TB, s *Server, wire []byte) []byte {
	t.Helper()
	answers := make(chan []byte, 1)
	s.ServeDatagram(wire, func(answer []byte) { answers <- answer })
	select {
	case answer := <-answers:
		return answer
	case <-time.After(patience):
		t.Fatalf("no answer to %x", wire)
		return nil
	}
}

// dialTCP returns a guest's TCP connection to s.
func dialTCP(t testing.TB, s *Server) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	guest, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.ServeConn(c) })
	t.Cleanup(func() { guest.Close(); wg.Wait() })
	guest.SetDeadline(time.Now().Add(patience))
	return guest
}

// writeTCP writes queries with their lengths in front, in one write.
func writeTCP(t testing.TB, c net.Conn, queries ...*mdns.Msg) {
	t.Helper()
	var all []byte
	for _, q := range queries {
		wire, err := q.Pack()
		if err != nil {
			t.Fatalf("pack query %v: %v", q.Question, err)
		}
		all = append(binary.BigEndian.AppendUint16(all, uint16(len(wire))), wire...)
	}
	if _, err := c.Write(all); err != nil {
		t.Fatal(err)
	}
}

// readTCP reads one answer.
func readTCP(t testing.TB, c net.Conn) *mdns.Msg {
	t.Helper()
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		t.Fatalf("read answer's length: %v", err)
	}
	wire := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, wire); err != nil {
		t.Fatalf("read answer: %v", err)
	}
	m := new(mdns.Msg)
	if err := m.Unpack(wire); err != nil {
		t.Fatalf("parse answer: %v", err)
	}
	return m
}

// show returns what matters of an answer in one line: "NOERROR 93.184.1.1",
// "NXDOMAIN ede=15".
func show(m *mdns.Msg) string {
	words := []string{mdns.RcodeToString[m.Rcode]}
	if m.Truncated {
		words = append(words, "tc")
	}
	for _, rr := range m.Answer {
		words = append(words, data(rr))
	}
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*mdns.EDNS0_EDE); ok {
				words = append(words, fmt.Sprintf("ede=%d", e.InfoCode))
			}
		}
	}
	return strings.Join(words, " ")
}

// data returns a record's data in zone-file form.
func data(rr mdns.RR) string {
	return strings.TrimPrefix(rr.String(), rr.Header().String())
}
