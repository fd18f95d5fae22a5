package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/sluicenet/sluice/internal/netlab"
)

// reply answers a question for an address with the given one.
func reply(q *mdns.Msg, addr string) *mdns.Msg {
	r := new(mdns.Msg).SetReply(q)
	if x := q.Question[0]; x.Qtype == mdns.TypeA {
		r.Answer = []mdns.RR{&mdns.A{
			Hdr: mdns.RR_Header{Name: x.Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 60},
			A:   net.ParseIP(addr),
		}}
	}
	return r
}

// Addresses that tell who answered.
const (
	rightAddr = "93.184.216.240"
	otherAddr = "93.184.216.241"
	wrongAddr = "93.184.216.249"
)

// answers is an upstream that answers everything with one address.
func answers(addr string) mdns.HandlerFunc {
	return func(w mdns.ResponseWriter, q *mdns.Msg) { w.WriteMsg(reply(q, addr)) }
}

// late is answers, after a while.
func late(d time.Duration) mdns.HandlerFunc {
	return func(w mdns.ResponseWriter, q *mdns.Msg) {
		time.Sleep(d)
		w.WriteMsg(reply(q, rightAddr))
	}
}

// silent never answers.
func silent(mdns.ResponseWriter, *mdns.Msg) {}

// forging sends what change makes of an answer, and the right one behind it if
// there is to be one. Over TCP, where nobody can forge, only the right one.
func forging(change func(*mdns.Msg), right bool) mdns.HandlerFunc {
	return func(w mdns.ResponseWriter, q *mdns.Msg) {
		forged := reply(q, wrongAddr)
		if w.RemoteAddr().Network() == "udp" && len(forged.Answer) > 0 {
			change(forged)
			w.WriteMsg(forged)
		}
		if right {
			w.WriteMsg(reply(q, rightAddr))
		}
	}
}

// TestDNSFailover shows what a guest sees of upstreams that fail, and in what time.
func TestDNSFailover(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	netlab.Tool(t, "dig")
	const soon = time.Second // what an upstream that is silent costs, and others mustn't
	wrongID := func(m *mdns.Msg) { m.Id ^= 1 }
	wrongName := func(m *mdns.Msg) { m.Question[0].Name, m.Answer[0].Header().Name = "evil.example.", "evil.example." }
	wrongType := func(m *mdns.Msg) { m.Question[0].Qtype = mdns.TypeAAAA }
	wrongCase := func(m *mdns.Msg) { m.Question[0].Name = strings.ToLower(m.Question[0].Name) }
	none := func(m *mdns.Msg) { m.Question = nil }
	code := func(rcode int) mdns.HandlerFunc {
		return func(w mdns.ResponseWriter, q *mdns.Msg) { w.WriteMsg(new(mdns.Msg).SetRcode(q, rcode)) }
	}
	for i, row := range []struct {
		name        string
		first       mdns.HandlerFunc // nil: its port refuses
		lost        bool             // its packets are
		second      mdns.HandlerFunc // nil: there is none
		want        string
		least, most time.Duration
		again       time.Duration // the most that the next query takes; 0: there is none
	}{
		{"refused", nil, false, nil, "SERVFAIL EDE: 23", 0, soon, 0},
		{"refused, then another", nil, false, answers(otherAddr), otherAddr, 0, soon, soon},
		{"black hole", nil, true, nil, "SERVFAIL EDE: 22", 1900 * time.Millisecond, 3500 * time.Millisecond, 0},
		{"black hole, then another", nil, true, answers(otherAddr), otherAddr, 900 * time.Millisecond, 1900 * time.Millisecond, soon},
		{"silent, then another", silent, false, answers(otherAddr), otherAddr, 900 * time.Millisecond, 1900 * time.Millisecond, soon},
		{"late", late(1500 * time.Millisecond), false, nil, rightAddr, 1400 * time.Millisecond, 2400 * time.Millisecond, 0},
		{"late, another in time", late(1900 * time.Millisecond), false, answers(otherAddr), otherAddr, 900 * time.Millisecond, 1800 * time.Millisecond, soon},
		{"too late", late(2500 * time.Millisecond), false, nil, "SERVFAIL EDE: 22", 1900 * time.Millisecond, 3500 * time.Millisecond, 0},
		{"wrong id, then right", forging(wrongID, true), false, nil, rightAddr, 0, soon, soon},
		{"wrong name, then right", forging(wrongName, true), false, nil, rightAddr, 0, soon, soon},
		{"wrong type, then right", forging(wrongType, true), false, nil, rightAddr, 0, soon, soon},
		{"wrong case, right by TCP", forging(wrongCase, true), false, nil, rightAddr, 0, soon, soon},
		{"no question, then right", forging(none, true), false, nil, rightAddr, 0, soon, soon},
		{"wrong id only", forging(wrongID, false), false, nil, "SERVFAIL", 1900 * time.Millisecond, 3500 * time.Millisecond, 0},
		{"wrong name only, then another", forging(wrongName, false), false, answers(otherAddr), otherAddr, 900 * time.Millisecond, 1900 * time.Millisecond, soon},
		{"SERVFAIL, then another", code(mdns.RcodeServerFailure), false, answers(otherAddr), otherAddr, 0, soon, soon},
		{"REFUSED, then another", code(mdns.RcodeRefused), false, answers(otherAddr), otherAddr, 0, soon, soon},
		{"NXDOMAIN is final", code(mdns.RcodeNameError), false, answers(otherAddr), "NXDOMAIN", 0, soon, soon},
		{"SERVFAIL of all", code(mdns.RcodeServerFailure), false, code(mdns.RcodeRefused), "REFUSED", 0, soon, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			nameservers := []string{}
			for j, answer := range []mdns.HandlerFunc{row.first, row.second} {
				name := fmt.Sprintf("ns%d-%d.failover.example", i, j)
				switch {
				case answer != nil:
					nameservers = append(nameservers, startUpstream(t, lab, name, answer).IP4.String())
				case j == 0:
					h := lab.Host(t, name)
					if row.lost {
						h.Drop(53)
					}
					nameservers = append(nameservers, h.IP4.String())
				}
			}
			g := startGuest(t, "--quiet", "--policy", policyFile(t, "dns:", "  query_timeout_ms: 2000", "  nameservers: ["+strings.Join(nameservers, ", ")+"]"))
			g.wantIn("one.example", row.want, row.least, row.most)
			if row.again > 0 {
				g.wantIn("two.example", row.want, 0, row.again)
			}
		})
	}
}

// queryTime is how long dig says that it waited.
var queryTime = regexp.MustCompile(`;; Query time: (\d+) msec`)

// wantIn asks for an address, and checks the answer and how long the guest waited, by
// dig's own clock. A busy machine may be late for most, so another name gets another
// chance; least holds always, but for an upstream that failed and isn't asked first
// again.
func (g *guest) wantIn(name, want string, least, most time.Duration) {
	g.t.Helper()
	for try := range 10 {
		out, _ := g.run(fmt.Sprintf("dig +tries=1 +time=60 %s", name))
		for _, words := range strings.SplitAfter(want, "SERVFAIL ") {
			if !strings.Contains(out, strings.TrimSpace(words)) {
				g.t.Errorf("%s: want %s in\n%s", name, want, out)
			}
		}
		if strings.Contains(out, wrongAddr) {
			g.t.Errorf("%s: the guest got the forged answer:\n%s", name, out)
		}
		found := queryTime.FindStringSubmatch(out)
		if found == nil {
			g.t.Fatalf("%s: no query time in\n%s", name, out)
		}
		took, _ := time.ParseDuration(found[1] + "ms")
		g.t.Logf("%s: %s after %v", name, want, took)
		if try == 0 && took < least {
			g.t.Errorf("%s: %s after %v, want it not before %v", name, want, took, least)
		}
		if took <= most {
			return
		}
		name = "again-" + name
	}
	g.t.Errorf("%s: %s never within %v", name, want, most)
}

// TestDNSOtherSource shows that an answer from elsewhere than was asked counts for
// nothing.
func TestDNSOtherSource(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	other := lab.Host(t, "other-source.example").ListenPacket("udp4", 53)
	var samePort net.PacketConn // of the upstream's host, another port
	forge := func(w mdns.ResponseWriter, q *mdns.Msg) {
		if w.RemoteAddr().Network() == "udp" {
			forged, err := reply(q, wrongAddr).Pack()
			if err != nil {
				return
			}
			other.WriteTo(forged, w.RemoteAddr())
			samePort.WriteTo(forged, w.RemoteAddr())
			time.Sleep(100 * time.Millisecond) // the forgeries are first
		}
		w.WriteMsg(reply(q, rightAddr))
	}
	h := lab.Host(t, "other-port.example")
	samePort = h.ListenPacket("udp4", 5353)
	up := &upstream{Host: h, t: t, answer: forge}
	up.start()
	t.Cleanup(up.stop)
	g := startGuest(t, "--quiet", "--dns", up.IP4.String())
	g.wantIn("source.example", rightAddr, 0, time.Second)
}

// TestDNSKilledAndBack stops an upstream and starts it again.
func TestDNSKilledAndBack(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	up := startUpstream(t, lab, "killed-ns.example", answers(rightAddr))
	g := startGuest(t, "--quiet", "--dns", up.IP4.String())
	g.wantIn("before.example", rightAddr, 0, time.Second)
	up.stop()
	g.wantIn("killed.example", "SERVFAIL EDE: 23", 0, time.Second)
	g.want("dig +short before.example", rightAddr) // kept
	up.start()
	g.wantIn("back.example", rightAddr, 0, time.Second)
	eventually(t, "a failure isn't kept for long", func() bool {
		out, _ := g.run("dig +short killed.example")
		return strings.Contains(out, rightAddr)
	})
}

// TestDNSDefaultTimeout shows that a guest whose only upstream is a black hole
// learns it before its own resolver asks again, after 5 s.
func TestDNSDefaultTimeout(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	h := lab.Host(t, "hole-ns.example")
	h.Drop(53)
	g := startGuest(t, "--quiet", "--dns", h.IP4.String())
	g.wantIn("hole.example", "SERVFAIL EDE: 22", 3900*time.Millisecond, 5*time.Second)
	g.fails("getent ahosts other.hole.example", 2)
}

// TestDNSFollowsTheHost replaces the host's resolv.conf by renaming another over
// it, as resolvconf and NetworkManager do.
func TestDNSFollowsTheHost(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	before := startUpstream(t, lab, "before-ns.example", answers(rightAddr))
	after := startUpstream(t, lab, "after-ns.example", answers(otherAddr))
	// The file that netlab mounts can't be renamed over, so this sandbox's host gets
	// a directory of its own.
	etc, err := os.MkdirTemp("/run", "etc-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(etc) })
	conf := filepath.Join(etc, "resolv.conf")
	g := startGuestBehind(t, fmt.Sprintf("cp -a /etc/. %[1]s && echo nameserver %[2]v >%[3]s && mount --bind %[1]s /etc", etc, before.IP4, conf), "--quiet")
	g.wantIn("www.follow.example", rightAddr, 0, time.Second)
	if err := os.WriteFile(conf+".new", fmt.Appendf(nil, "# by a test\nnameserver %v\n", after.IP4), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(conf+".new", conf); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the kept answer of the old upstream is gone, and the new one is asked", func() bool {
		out, _ := g.run("dig +short www.follow.example")
		return out == otherAddr
	})
	old := len(before.questions("follow.example"))
	g.wantIn("two.follow.example", otherAddr, 0, time.Second)
	if asked := before.questions("follow.example"); len(asked) > old {
		t.Errorf("the old upstream is still asked: %v", asked)
	}
	// In the moment in which there is no file the resolvers of before are asked.
	if err := os.Remove(conf); err != nil {
		t.Fatal(err)
	}
	g.wantIn("three.follow.example", otherAddr, 0, time.Second)
}
