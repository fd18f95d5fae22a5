package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

func TestAppendQuestion(t *testing.T) {
	t.Parallel()
	guest := new(mdns.Msg).SetQuestion("WWW.exampleexampleexample.COM.", mdns.TypeA)
	guest.Id = 0x1234
	guest.SetEdns0(4096, true)
	cookie := &mdns.EDNS0_COOKIE{Code: mdns.EDNS0COOKIE, Cookie: "0102030405060708"}
	subnet := &mdns.EDNS0_SUBNET{Code: mdns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IP{10, 0, 0, 0}}
	guest.IsEdns0().Option = append(guest.IsEdns0().Option, cookie, subnet)
	wire, err := guest.Pack()
	if err != nil {
		t.Fatal(err)
	}
	q, _, _ := parseQuery(wire)
	spellings, ids := map[string]bool{}, map[uint16]bool{}
	for range 50 {
		var m mdns.Msg
		if err := m.Unpack(appendQuestion(nil, &q, upstreamState{})); err != nil {
			t.Fatal(err)
		}
		spellings[m.Question[0].Name], ids[m.Id] = true, true
		opt := m.IsEdns0()
		if !m.RecursionDesired || !m.AuthenticatedData || m.CheckingDisabled || opt == nil || !opt.Do() || len(opt.Option) != 0 || opt.UDPSize() != ownUDPSize {
			t.Fatalf("got %v, want RD, AD, DO, no options", m)
		}
		if !strings.EqualFold(m.Question[0].Name, guest.Question[0].Name) {
			t.Fatalf("got %s, want %s", m.Question[0].Name, guest.Question[0].Name)
		}
	}
	if len(spellings) < 45 || len(ids) < 45 {
		t.Errorf("in 50 queries: %d spellings, %d ids", len(spellings), len(ids))
	}
	q.cd, q.do = true, false
	var m mdns.Msg
	if err := m.Unpack(appendQuestion(nil, &q, upstreamState{foldsCase: true, noEDNS: true})); err != nil {
		t.Fatal(err)
	}
	if m.Question[0].Name != "www.exampleexampleexample.com." || m.IsEdns0() != nil || !m.CheckingDisabled {
		t.Errorf("got %v, want lower case, no OPT, CD", m)
	}
}

func TestCheckReply(t *testing.T) {
	t.Parallel()
	sent := unhex(t, "1234 0120 0001 0000 0000 0000 03775777 0161 00 0001 0001")
	const name = "03775777 0161 00"
	for _, tt := range []struct {
		name, msg string
		want      error
	}{
		{"fits", "1234 8180 0001 0000 0000 0000" + name + "0001 0001", nil},
		{"truncated", "1234 8380 0001 0000 0000 0000" + name + "0001 0001", errTruncated},
		{"other case", "1234 8180 0001 0000 0000 0000 03777777 0161 00 0001 0001", errCase},
		{"other id", "1235 8180 0001 0000 0000 0000" + name + "0001 0001", errWrongReply},
		{"a query", "1234 0180 0001 0000 0000 0000" + name + "0001 0001", errWrongReply},
		{"other opcode", "1234 a180 0001 0000 0000 0000" + name + "0001 0001", errWrongReply},
		{"other name", "1234 8180 0001 0000 0000 0000 03777778 0161 00 0001 0001", errWrongReply},
		{"longer name", "1234 8180 0001 0000 0000 0000 03775777 0161 0162 00 0001 0001", errWrongReply},
		{"other type", "1234 8180 0001 0000 0000 0000" + name + "001c 0001", errWrongReply},
		{"other class", "1234 8180 0001 0000 0000 0000" + name + "0001 0003", errWrongReply},
		{"two questions", "1234 8180 0002 0000 0000 0000" + name + "0001 0001" + name + "0001 0001", errWrongReply},
		{"no question", "1234 8180 0000 0000 0000 0000", errWrongReply},
		{"no question, NXDOMAIN", "1234 8183 0000 0000 0000 0000", errWrongReply},
		{"no question, REFUSED", "1234 8185 0000 0000 0000 0000", nil},
		{"cut question", "1234 8180 0001 0000 0000 0000 03775777", errWrongReply},
		{"cut header", "1234 8180 0001", errWrongReply},
		{"empty", "", errWrongReply},
	} {
		if got := checkReply(unhex(t, tt.msg), sent); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestWellFormed(t *testing.T) {
	t.Parallel()
	const rr = "c00c 0001 0001 00000001 0004 01020304"
	for _, tt := range []struct {
		name, msg string
		want      bool
	}{
		{"whole", "1234 8180 0001 0001 0000 0000" + wwwA + rr, true},
		{"bytes behind", "1234 8180 0001 0001 0000 0000" + wwwA + rr + "00", true},
		{"fewer records than counted", "1234 8180 0001 0002 0000 0000" + wwwA + rr, false},
		{"65535 records, none there", "1234 8180 0001 ffff ffff ffff" + wwwA, false},
		{"record cut in its data", "1234 8180 0001 0001 0000 0000" + wwwA + "c00c 0001 0001 00000001 0004 010203", false},
		{"record cut in its head", "1234 8180 0001 0001 0000 0000" + wwwA + "c00c 0001 0001 0000", false},
		{"name without end", "1234 8180 0001 0001 0000 0000" + wwwA + "0161", false},
		{"question missing", "1234 8180 0001 0000 0000 0000", false},
		{"half a header", "1234 8180", false},
	} {
		if got := wellFormed(unhex(t, tt.msg)); got != tt.want {
			t.Errorf("%s: got %t, want %t", tt.name, got, tt.want)
		}
	}
	// Pointers that loop, or point forward, and a name that they make too long.
	for name, msg := range map[string]string{
		"pointer to itself":  "1234 8180 0001 0001 0000 0000" + wwwA + "c017 0001 0001 00000001 0004 01020304",
		"pointer forward":    "1234 8180 0001 0001 0000 0000" + wwwA + "c0ff 0001 0001 00000001 0004 01020304",
		"two pointers, loop": "1234 8180 0001 0001 0000 0000" + wwwA + "0161 c017 0001 0001 00000001 0004 01020304",
	} {
		if m, err := unpackReply(unhex(t, msg)); err == nil {
			t.Errorf("%s: got %v, want an error", name, m)
		}
	}
}

// write sends a message that a handler made, whatever is in it.
func write(w mdns.ResponseWriter, m *mdns.Msg, change func(wire []byte)) {
	wire, err := m.Pack()
	if err != nil {
		panic(err)
	}
	if change != nil {
		change(wire)
	}
	w.Write(wire)
}

// isTCP reports whether a query came over TCP.
func isTCP(w mdns.ResponseWriter) bool { return w.RemoteAddr().Network() == "tcp" }

// good returns the right answer to q: 93.184.1.1.
func good(q *mdns.Msg) *mdns.Msg {
	m := new(mdns.Msg).SetReply(q)
	m.Answer = []mdns.RR{&mdns.A{Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 60}, A: net.IP{93, 184, 1, 1}}}
	return m
}

// forged returns a wrong answer to q: 6.6.6.6.
func forged(q *mdns.Msg) *mdns.Msg {
	m := good(q)
	m.Answer[0].(*mdns.A).A = net.IP{6, 6, 6, 6}
	return m
}

// TestExchangeHostile asks upstreams that answer wrong before, or instead of,
// answering right.
func TestExchangeHostile(t *testing.T) {
	t.Parallel()
	// Each wrong answer is sent first, then the right one.
	wrong := map[string]func(w mdns.ResponseWriter, q *mdns.Msg){
		"wrong id":     func(w mdns.ResponseWriter, q *mdns.Msg) { write(w, forged(q), func(b []byte) { b[0] ^= 1 }) },
		"wrong name":   func(w mdns.ResponseWriter, q *mdns.Msg) { write(w, forged(q), func(b []byte) { b[headerLen+1] ^= 1 }) },
		"wrong type":   func(w mdns.ResponseWriter, q *mdns.Msg) { m := forged(q); m.Question[0].Qtype++; write(w, m, nil) },
		"wrong class":  func(w mdns.ResponseWriter, q *mdns.Msg) { m := forged(q); m.Question[0].Qclass++; write(w, m, nil) },
		"no response":  func(w mdns.ResponseWriter, q *mdns.Msg) { m := forged(q); m.Response = false; write(w, m, nil) },
		"no question":  func(w mdns.ResponseWriter, q *mdns.Msg) { m := forged(q); m.Question = nil; write(w, m, nil) },
		"too short":    func(w mdns.ResponseWriter, q *mdns.Msg) { w.Write([]byte{1}) },
		"wrong source": func(w mdns.ResponseWriter, q *mdns.Msg) { fromElsewhere(t, w, forged(q)) },
		"15 wrong ids": func(w mdns.ResponseWriter, q *mdns.Msg) { floodWrong(w, q, maxWrongReplies-1) },
	}
	for name, first := range wrong {
		up := newAuthority(t, func(w mdns.ResponseWriter, q *mdns.Msg) {
			first(w, q)
			w.WriteMsg(good(q))
		})
		m, _, err := exchange(t.Context(), up.addr, parsed(t, "www.example.com A"), upstreamState{})
		if err != nil || show(m) != "NOERROR 93.184.1.1" {
			t.Errorf("%s: got %v, %v", name, m, err)
		}
		if n := up.tcp.Load(); n != 0 {
			t.Errorf("%s: asked over TCP %d times", name, n)
		}
	}
}

// floodWrong sends n answers with wrong ids.
func floodWrong(w mdns.ResponseWriter, q *mdns.Msg, n int) {
	for i := range n {
		write(w, forged(q), func(b []byte) { binary.BigEndian.PutUint16(b, q.Id+1+uint16(i)) })
	}
}

// fromElsewhere sends an answer that is right but for its source.
func fromElsewhere(t testing.TB, w mdns.ResponseWriter, m *mdns.Msg) {
	c, err := net.Dial("udp", w.RemoteAddr().String())
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	wire, err := m.Pack()
	if err != nil {
		t.Error(err)
		return
	}
	c.Write(wire)
}

// TestExchangeFallsBack asks upstreams that don't do over UDP.
func TestExchangeFallsBack(t *testing.T) {
	t.Parallel()
	truncated := func(w mdns.ResponseWriter, q *mdns.Msg) {
		m := new(mdns.Msg).SetReply(q)
		m.Truncated = true
		if isTCP(w) {
			m = good(q)
		}
		w.WriteMsg(m)
	}
	moreThanAnnounced := func(w mdns.ResponseWriter, q *mdns.Msg) {
		m := good(q)
		if !isTCP(w) {
			m.Ns = records(t, manyAddresses("more.example.com.", 400)...)
		}
		w.WriteMsg(m)
	}
	foldsCase := func(w mdns.ResponseWriter, q *mdns.Msg) {
		q.Question[0].Name = strings.ToLower(q.Question[0].Name)
		w.WriteMsg(good(q))
	}
	guesser := func(w mdns.ResponseWriter, q *mdns.Msg) { // knows all but the case
		if !isTCP(w) {
			m := forged(q)
			m.Question[0].Name = strings.ToLower(m.Question[0].Name)
			w.WriteMsg(m)
		}
		w.WriteMsg(good(q))
	}
	floods := func(w mdns.ResponseWriter, q *mdns.Msg) {
		if isTCP(w) {
			w.WriteMsg(good(q))
			return
		}
		floodWrong(w, q, maxWrongReplies)
		w.WriteMsg(forged(q))
	}
	noEDNS := func(rcode int, question bool) func(w mdns.ResponseWriter, q *mdns.Msg) {
		return func(w mdns.ResponseWriter, q *mdns.Msg) {
			m := good(q)
			if q.IsEdns0() != nil {
				m = new(mdns.Msg).SetRcode(q, rcode)
				if !question {
					m.Question = nil
				}
			}
			w.WriteMsg(m)
		}
	}
	for _, tt := range []struct {
		name     string
		handle   func(w mdns.ResponseWriter, q *mdns.Msg)
		want     string
		learnt   upstreamState
		udp, tcp int64
	}{
		{"TC", truncated, "NOERROR 93.184.1.1", upstreamState{}, 1, 1},
		{"more than announced", moreThanAnnounced, "NOERROR 93.184.1.1", upstreamState{}, 1, 1},
		{"folds case", foldsCase, "NOERROR 93.184.1.1", upstreamState{foldsCase: true}, 1, 1},
		{"somebody guesses", guesser, "NOERROR 93.184.1.1", upstreamState{}, 1, 1},
		{"somebody floods", floods, "NOERROR 93.184.1.1", upstreamState{}, 1, 1},
		{"FORMERR for EDNS", noEDNS(mdns.RcodeFormatError, true), "NOERROR 93.184.1.1", upstreamState{noEDNS: true}, 2, 0},
		{"FORMERR without the question", noEDNS(mdns.RcodeFormatError, false), "NOERROR 93.184.1.1", upstreamState{noEDNS: true}, 2, 0},
		{"NOTIMP for EDNS", noEDNS(mdns.RcodeNotImplemented, true), "NOERROR 93.184.1.1", upstreamState{noEDNS: true}, 2, 0},
		{"SERVFAIL for EDNS", noEDNS(mdns.RcodeServerFailure, true), "SERVFAIL", upstreamState{}, 1, 0},
		{"FORMERR for everything", func(w mdns.ResponseWriter, q *mdns.Msg) { w.WriteMsg(new(mdns.Msg).SetRcode(q, mdns.RcodeFormatError)) }, "FORMERR", upstreamState{}, 2, 0},
	} {
		up := newAuthority(t, tt.handle)
		q := parsed(t, "www.example.com A")
		m, learnt, err := exchange(t.Context(), up.addr, q, upstreamState{})
		if err != nil || show(m) != tt.want || learnt != tt.learnt || up.udp.Load() != tt.udp || up.tcp.Load() != tt.tcp {
			t.Errorf("%s: got %v, %v, learnt %+v, asked %d over UDP, %d over TCP; want %+v", tt.name, m, err, learnt, up.udp.Load(), up.tcp.Load(), tt)
		}
		if learnt == (upstreamState{}) {
			continue
		}
		if _, again, err := exchange(t.Context(), up.addr, q, learnt); err != nil || again != learnt || up.udp.Load() != tt.udp+1 || up.tcp.Load() != tt.tcp {
			t.Errorf("%s, next query: learnt %+v, %v, asked %d over UDP, %d over TCP", tt.name, again, err, up.udp.Load(), up.tcp.Load())
		}
	}
}

// TestExchangeFoldsCaseWithoutTCP asks a server that folds case and doesn't
// listen on TCP.
func TestExchangeFoldsCaseWithoutTCP(t *testing.T) {
	t.Parallel()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &mdns.Server{PacketConn: pc, Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		q.Question[0].Name = strings.ToLower(q.Question[0].Name)
		w.WriteMsg(good(q))
	})}
	var wg sync.WaitGroup
	wg.Go(func() { s.ActivateAndServe() })
	t.Cleanup(func() { pc.Close(); wg.Wait() })
	m, learnt, err := exchange(t.Context(), pc.LocalAddr().(*net.UDPAddr).AddrPort(), parsed(t, "www.example.com A"), upstreamState{})
	if err != nil || show(m) != "NOERROR 93.184.1.1" || !learnt.foldsCase {
		t.Errorf("got %v, learnt %+v, %v", m, learnt, err)
	}
}

// TestExchangeFails asks those that can't be asked, or talk nonsense.
func TestExchangeFails(t *testing.T) {
	t.Parallel()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc.Close() // nobody listens there now
	nobody := pc.LocalAddr().(*net.UDPAddr).AddrPort()
	overTCP := func(answer func(q *mdns.Msg) []byte) func(w mdns.ResponseWriter, q *mdns.Msg) {
		return func(w mdns.ResponseWriter, q *mdns.Msg) {
			if isTCP(w) {
				w.Write(answer(q))
				w.Close()
				return
			}
			m := new(mdns.Msg).SetReply(q)
			m.Truncated = true
			w.WriteMsg(m)
		}
	}
	pack := func(m *mdns.Msg) []byte { wire, _ := m.Pack(); return wire }
	for _, tt := range []struct {
		name   string
		handle func(w mdns.ResponseWriter, q *mdns.Msg)
		want   error
	}{
		{"nobody listens", nil, syscall.ECONNREFUSED},
		{"counts lie", func(w mdns.ResponseWriter, q *mdns.Msg) { write(w, good(q), func(b []byte) { b[7] = 9 }) }, errMalformed},
		{"records are garbage", func(w mdns.ResponseWriter, q *mdns.Msg) { write(w, good(q), func(b []byte) { b[len(b)-5] = 200 }) }, errMalformed},
		{"TC over TCP too", overTCP(func(q *mdns.Msg) []byte { m := good(q); m.Truncated = true; return pack(m) }), errTruncated},
		{"wrong id over TCP", overTCP(func(q *mdns.Msg) []byte { q.Id++; return pack(good(q)) }), errWrongReply},
		{"length 0 over TCP", overTCP(func(q *mdns.Msg) []byte { return nil }), errWrongReply},
		{"closed at once over TCP", func(w mdns.ResponseWriter, q *mdns.Msg) {
			if isTCP(w) {
				w.Close()
				return
			}
			m := new(mdns.Msg).SetReply(q)
			m.Truncated = true
			w.WriteMsg(m)
		}, io.EOF},
	} {
		addr := nobody
		if tt.handle != nil {
			addr = newAuthority(t, tt.handle).addr
		}
		if m, _, err := exchange(t.Context(), addr, parsed(t, "www.example.com A"), upstreamState{}); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, %v, want %v", tt.name, m, err, tt.want)
		}
	}
}

// TestExchangeRepeats asks a silent server, which is asked again, and gives up
// when the context does.
func TestExchangeRepeats(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, func(mdns.ResponseWriter, *mdns.Msg) {})
	ctx, cancel := context.WithTimeout(t.Context(), overlap+overlap/2)
	defer cancel()
	began := time.Now()
	_, _, err := exchange(ctx, up.addr, parsed(t, "www.example.com A"), upstreamState{})
	if took := time.Since(began); !isTimeout(err) || took < overlap || took > 10*overlap {
		t.Errorf("got %v after %v", err, took)
	}
	if n := up.udp.Load(); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	began = time.Now()
	if _, _, err := exchange(ctx, up.addr, parsed(t, "www.example.com A"), upstreamState{}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("cancelled: got %v", err)
	}
	if took := time.Since(began); took > overlap/2 {
		t.Errorf("cancelled: took %v", took)
	}
}

// TestExchangeLate lets the answer to the first datagram come when the second is
// already out.
func TestExchangeLate(t *testing.T) {
	t.Parallel()
	var first sync.Once
	up := newAuthority(t, func(w mdns.ResponseWriter, q *mdns.Msg) {
		first.Do(func() {
			time.Sleep(overlap + 200*time.Millisecond)
			w.WriteMsg(good(q))
		})
	})
	m, _, err := exchange(t.Context(), up.addr, parsed(t, "www.example.com A"), upstreamState{})
	if err != nil || show(m) != "NOERROR 93.184.1.1" {
		t.Errorf("got %v, %v", m, err)
	}
}

// TestExchangePorts shows that each query has a port of its own.
func TestExchangePorts(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	ports := map[uint16]bool{}
	up := newAuthority(t, func(w mdns.ResponseWriter, q *mdns.Msg) {
		mu.Lock()
		ports[netip.MustParseAddrPort(w.RemoteAddr().String()).Port()] = true
		mu.Unlock()
		w.WriteMsg(good(q))
	})
	for range 50 {
		if _, _, err := exchange(t.Context(), up.addr, parsed(t, "www.example.com A"), upstreamState{}); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ports) < 45 {
		t.Errorf("50 queries from %d ports", len(ports))
	}
}
