package integration

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/sluicenet/sluice/internal/netlab"
)

// An upstream is a name server of the test's, on a host of its own: guests of
// startGuest(t, "--dns", u.IP4.String()) are answered by it.
type upstream struct {
	*netlab.Host
	t      *testing.T
	answer mdns.HandlerFunc

	mu      sync.Mutex // guards the following fields
	asked   []string   // the names as they came, with their types and ways: "wWw.example. A udp"
	servers []*mdns.Server
	sockets []func() error
}

// startUpstream starts a name server over UDP and TCP, for the time of a test.
func startUpstream(t *testing.T, lab *netlab.Lab, name string, answer mdns.HandlerFunc) *upstream {
	t.Helper()
	u := &upstream{Host: lab.Host(t, name), t: t, answer: answer}
	u.start()
	t.Cleanup(u.stop)
	return u
}

// start lets the server answer, for the first time or again.
func (u *upstream) start() {
	u.t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	l := u.Listen("tcp", 53)
	u.servers = []*mdns.Server{{Listener: l}}
	u.sockets = []func() error{l.Close}
	for _, network := range []string{"udp4", "udp6"} {
		c := u.ListenPacket(network, 53)
		u.servers = append(u.servers, &mdns.Server{PacketConn: c, UDPSize: 4096})
		u.sockets = append(u.sockets, c.Close)
	}
	for _, s := range u.servers {
		s.Handler = mdns.HandlerFunc(u.serve)
		started := make(chan struct{}) // closed by the server
		s.NotifyStartedFunc = func() { close(started) }
		go s.ActivateAndServe() // ends by Shutdown
		<-started
	}
}

// stop closes the server's sockets: its port refuses.
func (u *upstream) stop() {
	u.mu.Lock()
	servers, sockets := u.servers, u.sockets
	u.servers, u.sockets = nil, nil
	u.mu.Unlock()
	for i, s := range servers {
		// A handler that is late must not hold up the end.
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		s.ShutdownContext(ctx)
		cancel()
		sockets[i]()
	}
}

// serve notes the question and answers it.
func (u *upstream) serve(w mdns.ResponseWriter, q *mdns.Msg) {
	if len(q.Question) == 1 {
		u.mu.Lock()
		x := q.Question[0]
		u.asked = append(u.asked, fmt.Sprintf("%s %s %s", x.Name, mdns.TypeToString[x.Qtype], w.RemoteAddr().Network()))
		u.mu.Unlock()
	}
	u.answer(w, q)
}

// questions returns what was asked so far for names that end in suffix, whatever
// their case.
func (u *upstream) questions(suffix string) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(u.asked), func(x string) bool {
		name, _, _ := strings.Cut(strings.ToLower(x), " ")
		return !strings.HasSuffix(name, mdns.Fqdn(suffix))
	})
}

// records reads records in the format of zone files.
func records(t *testing.T, lines ...string) []mdns.RR {
	t.Helper()
	var all []mdns.RR
	for _, l := range lines {
		rr, err := mdns.NewRR(l)
		if err != nil {
			t.Fatalf("record %q: %v", l, err)
		}
		all = append(all, rr)
	}
	return all
}

// zone answers from records as a resolver does: it follows aliases, sends
// signatures to who wants them, and cuts what is too long for a datagram.
func zone(all []mdns.RR) mdns.HandlerFunc {
	return func(w mdns.ResponseWriter, q *mdns.Msg) {
		reply := new(mdns.Msg).SetReply(q)
		reply.RecursionAvailable, reply.Compress = true, true
		size, opt := mdns.MinMsgSize, q.IsEdns0()
		if opt != nil {
			size = int(opt.UDPSize())
			reply.SetEdns0(1232, opt.Do())
		}
		name, known := strings.ToLower(q.Question[0].Name), false
		for next := name; next != ""; name = next {
			next = ""
			for _, rr := range all {
				if strings.ToLower(rr.Header().Name) != name {
					continue
				}
				known = true
				covered := rr.Header().Rrtype
				if sig, ok := rr.(*mdns.RRSIG); ok {
					if covered = sig.TypeCovered; opt == nil || !opt.Do() {
						continue
					}
				}
				if covered == q.Question[0].Qtype || covered == mdns.TypeCNAME {
					reply.Answer = append(reply.Answer, mdns.Copy(rr))
				}
				if alias, ok := rr.(*mdns.CNAME); ok {
					next = strings.ToLower(alias.Target)
				}
			}
			if next == "" {
				break
			}
		}
		if !known {
			reply.Rcode = mdns.RcodeNameError
		}
		if w.RemoteAddr().Network() == "udp" {
			reply.Truncate(size)
		}
		w.WriteMsg(reply)
	}
}

// anyName answers every query for an address with one.
func anyName(w mdns.ResponseWriter, q *mdns.Msg) {
	reply := new(mdns.Msg).SetReply(q)
	if x := q.Question[0]; x.Qtype == mdns.TypeA {
		h := mdns.RR_Header{Name: x.Name, Rrtype: x.Qtype, Class: x.Qclass, Ttl: 300}
		reply.Answer = []mdns.RR{&mdns.A{Hdr: h, A: net.IPv4(93, 184, 216, 250)}}
	}
	w.WriteMsg(reply)
}

// policyFile writes a policy for --policy.
func policyFile(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte("version: 1\n"+strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// A flood is what dnsperf says of its queries.
type flood struct {
	codes map[string]int // answers by their code
	lost  int
	took  time.Duration
}

var (
	floodCode = regexp.MustCompile(`([A-Z]+) (\d+) \(`)
	floodLost = regexp.MustCompile(`Queries lost:\s+(\d+)`)
	floodTime = regexp.MustCompile(`Run time \(s\):\s+([0-9.]+)`)
)

// flood runs dnsperf in the guest over what a program of awk prints, once.
func (g *guest) flood(flags, program string) flood {
	g.t.Helper()
	netlab.Tool(g.t, "dnsperf")
	out, code := g.run(fmt.Sprintf(`awk 'BEGIN { %s }' >/tmp/names && dnsperf -f inet -s "$(sed -n 's/^nameserver \([0-9.]*\)$/\1/p' /etc/resolv.conf | head -n 1)" -d /tmp/names -n 1 %s`, program, flags))
	f := flood{codes: make(map[string]int)}
	_, after, _ := strings.Cut(out, "Response codes:")
	line, _, _ := strings.Cut(after, "\n")
	for _, found := range floodCode.FindAllStringSubmatch(line, -1) {
		n, err := strconv.Atoi(found[2])
		if err != nil {
			g.t.Fatal(err)
		}
		f.codes[found[1]] = n
	}
	lost, took := floodLost.FindStringSubmatch(out), floodTime.FindStringSubmatch(out)
	if code != 0 || lost == nil || took == nil {
		g.t.Fatalf("dnsperf: exit code %d\n%s", code, out)
	}
	f.lost, _ = strconv.Atoi(lost[1])
	seconds, _ := strconv.ParseFloat(took[1], 64)
	f.took = time.Duration(seconds * float64(time.Second))
	g.t.Logf("dnsperf %s: %v in %v, %d lost", flags, f.codes, f.took.Round(time.Millisecond), f.lost)
	return f
}
