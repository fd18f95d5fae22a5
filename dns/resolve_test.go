package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/sluicenet/sluice/policy"
)

// A script is what upstreams do, in words: "ok 10ms", "SERVFAIL 5ms",
// "error 0s", "silent". The nth is that of 10.0.0.n.
type script struct {
	mu    sync.Mutex // guards the following
	acts  []string
	asked []string // "seconds:n", in the order of asking
	began time.Time
}

// exchange plays the script in place of the network.
func (s *script) exchange(ctx context.Context, server netip.AddrPort, q *query, u upstreamState) (*mdns.Msg, upstreamState, error) {
	n := int(server.Addr().As4()[3])
	s.mu.Lock()
	act, after, _ := strings.Cut(s.acts[n-1], " ")
	s.asked = append(s.asked, fmt.Sprintf("%.3f:%d", time.Since(s.began).Seconds(), n))
	s.mu.Unlock()
	delay, err := time.ParseDuration(after)
	if act == "silent" || err != nil {
		<-ctx.Done()
		return nil, u, ctx.Err()
	}
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, u, ctx.Err()
	}
	name, _, err := mdns.UnpackDomainName(q.wire(), 0)
	if err != nil {
		return nil, u, err
	}
	m := new(mdns.Msg).SetQuestion(name, q.qtype)
	switch act {
	case "ok":
		return good(m), u, nil
	case "error":
		return nil, u, errors.New("no route")
	}
	m.Response, m.Rcode = true, mdns.StringToRcode[act]
	return m, u, nil
}

// order returns when who was asked since the last call of restart.
func (s *script) order() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.asked, " ")
}

func (s *script) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// restart forgets who was asked, and what upstreams do if acts aren't none.
func (s *script) restart(acts ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked, s.began = nil, time.Now()
	if len(acts) > 0 {
		s.acts = acts
	}
}

// scripted returns a Server whose upstreams play a script.
func scripted(t testing.TB, cfg Config, acts ...string) (*Server, *script) {
	t.Helper()
	p := &script{acts: acts, began: time.Now()}
	for i := range acts {
		cfg.Nameservers = append(cfg.Nameservers, Nameserver{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), Port: 53})
	}
	s := newServer(t, cfg)
	s.exchange = p.exchange
	return s, p
}

// timed asks, and returns the answer and how long it took.
func timed(t testing.TB, s *Server, text string) string {
	t.Helper()
	began := time.Now()
	m := ask(t, s, question(text))
	return fmt.Sprintf("%s after %v", show(m), time.Since(began))
}

// TestFailover shows what the guest sees, and in what time, when upstreams are
// slow, silent, broken, or not there.
func TestFailover(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		acts  []string
		want  string
		asked string
	}{
		{[]string{"ok 10ms"}, "NOERROR 93.184.1.1 after 10ms", "0.000:1"},
		{[]string{"ok 10ms", "ok 5ms"}, "NOERROR 93.184.1.1 after 10ms", "0.000:1"},
		{[]string{"silent", "ok 10ms"}, "NOERROR 93.184.1.1 after 1.01s", "0.000:1 1.000:2"},
		{[]string{"ok 1.5s", "ok 1s"}, "NOERROR 93.184.1.1 after 1.5s", "0.000:1 1.000:2"},
		{[]string{"ok 3s", "ok 500ms"}, "NOERROR 93.184.1.1 after 1.5s", "0.000:1 1.000:2"},
		{[]string{"ok 3s"}, "NOERROR 93.184.1.1 after 3s", "0.000:1"},
		{[]string{"SERVFAIL 5ms", "ok 5ms"}, "NOERROR 93.184.1.1 after 10ms", "0.000:1 0.005:2"},
		{[]string{"REFUSED 5ms", "ok 5ms"}, "NOERROR 93.184.1.1 after 10ms", "0.000:1 0.005:2"},
		{[]string{"NOTIMP 5ms", "ok 5ms"}, "NOERROR 93.184.1.1 after 10ms", "0.000:1 0.005:2"},
		{[]string{"NXDOMAIN 5ms", "ok 5ms"}, "NXDOMAIN after 5ms", "0.000:1"},
		{[]string{"error 0s", "ok 5ms"}, "NOERROR 93.184.1.1 after 5ms", "0.000:1 0.000:2"},
		{[]string{"SERVFAIL 5ms", "REFUSED 5ms"}, "REFUSED after 10ms", "0.000:1 0.005:2"},
		{[]string{"SERVFAIL 5ms", "error 5ms"}, "SERVFAIL after 10ms", "0.000:1 0.005:2"},
		{[]string{"error 0s", "error 0s"}, "SERVFAIL ede=23 after 0s", "0.000:1 0.000:2"},
		{[]string{"silent"}, "SERVFAIL ede=22 after 4s", "0.000:1"},
		{[]string{"silent", "silent"}, "SERVFAIL ede=22 after 4s", "0.000:1 1.000:2"},
		{[]string{"SERVFAIL 5ms", "silent"}, "SERVFAIL after 4s", "0.000:1 0.005:2"},
		{[]string{"error 5ms", "silent"}, "SERVFAIL ede=23 after 4s", "0.000:1 0.005:2"},
		{[]string{"silent", "silent", "ok 5ms"}, "NOERROR 93.184.1.1 after 2.005s", "0.000:1 1.000:2 2.000:3"},
		{[]string{"silent", "SERVFAIL 5ms", "ok 5ms"}, "NOERROR 93.184.1.1 after 1.01s", "0.000:1 1.000:2 1.005:3"},
		{[]string{"SERVFAIL 2s", "ok 2s"}, "NOERROR 93.184.1.1 after 3s", "0.000:1 1.000:2"},
		{[]string{"BADCOOKIE 5ms"}, "SERVFAIL after 5ms", "0.000:1"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, p := scripted(t, Config{}, tt.acts...)
			if got := timed(t, s, "www.example.com A"); got != tt.want {
				t.Errorf("%q: got %s, want %s", tt.acts, got, tt.want)
			}
			if got := p.order(); got != tt.asked {
				t.Errorf("%q: asked %s, want %s", tt.acts, got, tt.asked)
			}
		})
	}
}

// TestPenalty shows that an upstream that timed out goes last for 30 s, and that
// its answer ends that.
func TestPenalty(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, p := scripted(t, Config{Limits: Limits{CacheEntries: -1}}, "silent", "ok 10ms", "ok 10ms")
		for i, tt := range []struct {
			pause time.Duration
			acts  []string
			want  string
		}{
			{0, nil, "NOERROR 93.184.1.1 after 1.01s"},
			{0, nil, "NOERROR 93.184.1.1 after 10ms"},
			{0, []string{"ok 20ms", "SERVFAIL 1ms", "SERVFAIL 1ms"}, "NOERROR 93.184.1.1 after 22ms"}, // last, not never
			{0, []string{"ok 20ms", "ok 10ms", "ok 10ms"}, "NOERROR 93.184.1.1 after 20ms"},           // first again
			{0, []string{"silent", "ok 10ms", "ok 10ms"}, "NOERROR 93.184.1.1 after 1.01s"},
			{penalty - time.Second, nil, "NOERROR 93.184.1.1 after 10ms"},
			{time.Second, nil, "NOERROR 93.184.1.1 after 1.01s"},
		} {
			time.Sleep(tt.pause)
			p.restart(tt.acts...)
			if got := timed(t, s, "www.example.com A"); got != tt.want {
				t.Errorf("row %d: got %s, want %s", i, got, tt.want)
			}
		}
	})
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := scripted(t, Config{Timeout: 300 * time.Millisecond}, "silent", "ok 0s")
		if got, want := timed(t, s, "www.example.com A"), "SERVFAIL ede=22 after 300ms"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
	if _, err := New(Config{Timeout: -1}); err == nil {
		t.Error("negative timeout: got no error")
	}
	if _, err := New(Config{Limits: Limits{Waiting: -1}}); err == nil {
		t.Error("negative limit: got no error")
	}
}

// TestCoalesce asks the same question many times while the answer is on its way.
func TestCoalesce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, p := scripted(t, Config{}, "ok 100ms")
		answers := make(chan string, 100)
		for i := range 100 {
			q := question("www.example.com A")
			q.Id = uint16(i)
			if i%2 == 0 {
				q.Question[0].Name = "WWW.example.com."
			}
			wire, err := q.Pack()
			if err != nil {
				t.Fatal(err)
			}
			s.ServeDatagram(wire, func(answer []byte) {
				var m mdns.Msg
				if err := m.Unpack(answer); err != nil || m.Id != uint16(i) || m.Question[0].Name != q.Question[0].Name {
					t.Errorf("query %d: got %v, %v", i, m, err)
				}
				answers <- show(&m)
			})
			clear(wire) // it is ours again
		}
		for range 100 {
			if got, want := <-answers, "NOERROR 93.184.1.1"; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		if p.count() != 1 {
			t.Errorf("asked %d times, want once", p.count())
		}
	})
}

// TestRateLimit asks for many names: a burst goes upstream, then the rate. Kept
// answers and local ones are free.
func TestRateLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		events := newRecorder()
		s, p := scripted(t, Config{Events: events.add}, "ok 0s")
		count := func(n int, text string) (ok int) {
			for i := range n {
				if show(ask(t, s, question(fmt.Sprintf(text, i)))) == "NOERROR 93.184.1.1" {
					ok++
				}
			}
			return ok
		}
		if got := count(1500, "a%d.example.com A"); got != 1000 {
			t.Errorf("burst: got %d answers, want 1000", got)
		}
		if got := show(ask(t, s, question("new.example.com A"))); got != "SERVFAIL ede=0" {
			t.Errorf("over the limit: got %s", got)
		}
		if got := count(1000, "a%d.example.com A"); got != 1000 {
			t.Errorf("kept answers over the limit: got %d, want 1000", got)
		}
		if got := show(ask(t, s, question("host.docker.internal A"))); got != "NOERROR 172.16.0.1" {
			t.Errorf("alias over the limit: got %s", got)
		}
		time.Sleep(time.Second)
		if got := count(1000, "b%d.example.com A"); got != 200 {
			t.Errorf("a second later: got %d answers, want 200", got)
		}
		if p.count() != 1200 {
			t.Errorf("asked %d times, want 1200", p.count())
		}
		if n, hits := events.hits(limitRate); n < 1 || n > 3 || hits == 0 || hits > 1301 {
			t.Errorf("limit.hit: %d events with %d hits, want one a second", n, hits)
		}
		if got := s.Stats(); got.Limited != 501+800 || got.Cached != 1000 || got.Answered != 1200 || got.Upstream != 1200 {
			t.Errorf("counters: %+v", got)
		}
	})
}

func TestRateLimitOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := scripted(t, Config{Limits: Limits{QueriesPerSecond: -1}}, "ok 0s")
		for i := range 3000 {
			if got := show(ask(t, s, question(fmt.Sprintf("a%d.example.com A", i)))); got != "NOERROR 93.184.1.1" {
				t.Fatalf("query %d: got %s", i, got)
			}
		}
	})
}

// TestWaitingBound fills what may wait, with an upstream that is a black hole.
func TestWaitingBound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		events := newRecorder()
		s, p := scripted(t, Config{Events: events.add, Limits: Limits{QueriesPerSecond: -1, Waiting: 100, Sockets: 10}}, "silent")
		answers := make(chan string, 1000)
		for i := range 150 {
			wire, err := question(fmt.Sprintf("a%d.example.com A", i)).Pack()
			if err != nil {
				t.Fatal(err)
			}
			s.ServeDatagram(wire, func(answer []byte) {
				var m mdns.Msg
				if err := m.Unpack(answer); err != nil {
					t.Error(err)
				}
				answers <- show(&m)
			})
		}
		synctest.Wait()
		if len(answers) != 50 {
			t.Errorf("at once: got %d answers, want 50", len(answers))
		}
		if p.count() != 10 {
			t.Errorf("asked %d at once, want 10", p.count())
		}
		time.Sleep(defaultTimeout)
		synctest.Wait()
		if len(answers) != 150 {
			t.Errorf("after the time-out: got %d answers, want 150", len(answers))
		}
		if n, _ := events.hits(limitWaiting); n == 0 {
			t.Error("no limit.hit")
		}
		p.restart("ok 0s")
		if got := show(ask(t, s, question("www.example.com A"))); got != "NOERROR 93.184.1.1" {
			t.Errorf("afterwards: got %s", got)
		}
	})
}

// TestUpstreamsChange replaces the host's resolvers while the sandbox runs.
func TestUpstreamsChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		host, fail := serving("10.0.0.1:53"), error(nil)
		set := func(u upstreams, err error) {
			mu.Lock()
			defer mu.Unlock()
			host, fail = u, err
		}
		events := newRecorder()
		s, p := scripted(t, Config{Events: events.add}, "ok 0s", "ok 0s")
		s.upstream = &follower{every: time.Second, load: func(context.Context) (upstreams, error) {
			mu.Lock()
			defer mu.Unlock()
			return host, fail
		}}
		step := func(what, question, want string) {
			t.Helper()
			p.restart()
			timed(t, s, question)
			if got := p.order(); got != want {
				t.Errorf("%s: asked %q, want %q", what, got, want)
			}
		}
		step("first", "www.example.com A", "0.000:1")
		step("kept", "www.example.com A", "")
		set(serving("10.0.0.2:53"), nil)
		step("changed just now", "www.example.com A", "")
		time.Sleep(time.Second)
		step("noticed, nothing kept", "www.example.com A", "0.000:2")
		time.Sleep(time.Second)
		step("unchanged, still kept", "www.example.com A", "")
		set(upstreams{}, errors.New("file is gone"))
		time.Sleep(time.Second)
		step("gone: the last known is asked", "other.example.com A", "0.000:2")
		if n := events.count(EventWarning); n != 1 {
			t.Errorf("got %d warnings, want 1", n)
		}
		set(upstreams{servers: serving("10.0.0.1:53").servers, domains: []domainServers{{"corp.example", serving("10.0.0.2:53").servers}}}, nil)
		time.Sleep(time.Second)
		step("domain of its own", "git.corp.example A", "0.000:2")
		step("all others", "www.example.com A", "0.000:1")
		s.Flush()
		step("flushed", "www.example.com A", "0.000:1")
	})
}

func TestNoUpstream(t *testing.T) {
	t.Parallel()
	for name, load := range map[string]loader{
		"fails": func(context.Context) (upstreams, error) { return upstreams{}, errNoResolver },
		"none":  func(context.Context) (upstreams, error) { return upstreams{}, nil },
	} {
		s := newServer(t, Config{})
		s.upstream = &follower{every: time.Second, load: load}
		if got := show(ask(t, s, question("www.example.com A"))); got != "SERVFAIL ede=23" {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

// TestFailureKept shows that a failure is kept for a second and no longer.
func TestFailureKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, p := scripted(t, Config{}, "SERVFAIL 0s")
		for range 5 {
			ask(t, s, question("www.example.com A"))
		}
		time.Sleep(failureTTL * time.Second)
		ask(t, s, question("www.example.com A"))
		if got := p.order(); got != "0.000:1 1.000:1" {
			t.Errorf("asked %s", got)
		}
	})
}

// TestPolicyChangesUnderWay replaces the policy while the answer is on its way:
// the new one decides.
func TestPolicyChangesUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := scripted(t, Config{}, "ok 100ms")
		time.AfterFunc(50*time.Millisecond, func() {
			s.SetPolicy(rulesOf(t, policy.Deny, "allow other.example"))
		})
		if got, want := timed(t, s, "www.example.com A"), "NXDOMAIN ede=15 after 100ms"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if names := s.AppendNames(nil, netip.MustParseAddr("93.184.1.1"), time.Now()); len(names) != 0 {
			t.Errorf("denied, but entered as %q", names)
		}
	})
}

// TestClose ends queries under way without an answer, and those that come later.
func TestClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := scripted(t, Config{}, "silent", "silent")
		wire, err := question("www.example.com A").Pack()
		if err != nil {
			t.Fatal(err)
		}
		s.ServeDatagram(wire, func([]byte) { t.Error("answered after Close") })
		time.Sleep(1500 * time.Millisecond)
		s.Close()
		s.Close()
		s.ServeDatagram(wire, func([]byte) { t.Error("answered after Close") })
		if _, err := s.Lookup(t.Context(), "www.example.com"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Lookup: got %v, want net.ErrClosed", err)
		}
		if _, err := s.Discover(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Discover: got %v, want net.ErrClosed", err)
		}
	})
}

// A recorder keeps events.
type recorder struct {
	mu     sync.Mutex // guards the following
	events []Event
}

func newRecorder() *recorder { return &recorder{} }

func (r *recorder) add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Addrs = slices.Clone(e.Addrs)
	r.events = append(r.events, e)
}

// all returns the events of a type.
func (r *recorder) all(kind string) []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []Event
	for _, e := range r.events {
		if e.Type == kind {
			list = append(list, e)
		}
	}
	return list
}

func (r *recorder) count(kind string) int { return len(r.all(kind)) }

// hits returns how many events name a bound, and how many hits they tell of.
func (r *recorder) hits(limit string) (events int, hits uint64) {
	for _, e := range r.all(EventLimit) {
		if e.Limit == limit {
			events++
			hits += e.Count
		}
	}
	return events, hits
}
