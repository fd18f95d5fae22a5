package integration

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// tunnelled is a program of awk that prints n queries as iodine, dnscat and their
// like make them: labels of 63 bytes, base 32 and base 64, every type that carries
// data.
func tunnelled(n int) string {
	return fmt.Sprintf(`
		split("A AAAA TXT CNAME MX SRV NULL PTR HTTPS TYPE65399", types, " ")
		label = "0abbgm82s1ad3f6kqz4u5y7x9wvecthjnp0abbgm82s1ad3f6kqz4u5y7x9w"
		for (i = 0; i < %d; i++) {
			name = sprintf("%%s%%03d.%%s%%03d.t%%d.tunnel.example", label, i %% 1000, label, i / 1000, i)
			if (i %% 5 == 1) name = sprintf("aGVsbG8_w-%%d.ok.example.evil.example", i)
			if (i %% 5 == 2) name = sprintf("n%%dok.example", i)
			if (i %% 5 == 3) name = sprintf("dnscat.%%08x%%08x.example", i, i * 7)
			print name, types[i %% 10 + 1]
		}`, n)
}

// TestDNSNothingLeaks shows that with domain allows only, other names put nothing on
// the wire.
func TestDNSNothingLeaks(t *testing.T) {
	lab := netlab.New(t)
	up := startUpstream(t, lab, "leak-ns.example", anyName)
	names := 10_000
	if large() {
		names = 100_000
	}
	g := startGuest(t, "--quiet", "--dns", up.IP4.String(), "--allow", "ok.example")
	// The sandbox itself asks which prefixes carry IPv4, once at its start.
	eventually(t, "the sandbox looks for NAT64", func() bool { return len(up.questions("ipv4only.arpa")) >= 2 })
	w := lab.Watch(t)
	for _, row := range []struct {
		flags string
		names int
	}{
		{"-m udp -q 100", names},
		{"-m udp -q 100 -e -D", names / 10},
		{"-m tcp -q 20 -c 4", names / 10},
	} {
		f := g.flood(row.flags, tunnelled(row.names))
		if got := f.codes["NXDOMAIN"]; got < row.names*99/100 || len(f.codes) != 1 {
			t.Errorf("dnsperf %s: %v, want %d NXDOMAIN", row.flags, f.codes, row.names)
		}
	}
	w.None(t, up.To())
	w.None(t, netlab.ToPort(53))
	g.want("dig +short ok.example", "93.184.216.250")
	if w.Count(t, up.To()) == 0 {
		t.Error("the allowed name put nothing on the wire either: the rows above show nothing")
	}
	for _, asked := range up.questions("") {
		if name := strings.ToLower(asked); !strings.HasPrefix(name, "ok.example.") && !strings.HasPrefix(name, "ipv4only.arpa.") {
			t.Errorf("the upstream was asked for %s", asked)
		}
	}
	denied := g.tells(m.EventDNSQuery, func(e m.Event) bool { return strings.HasSuffix(e.DNS.Name, ".tunnel.example") })
	if v := denied.Verdict; v == nil || v.Action != m.PolicyActionDeny || v.Source != "default egress" || denied.DNS.RCode != "NXDOMAIN" {
		t.Errorf("event %s: want a denial by the default", denied.Line())
	}
	allowed := g.tells(m.EventDNSQuery, func(e m.Event) bool { return e.DNS.Name == "ok.example" })
	if v := allowed.Verdict; v == nil || v.Action != m.PolicyActionAllow || v.Rule != 0 || v.Source != "Rules[0]" || !strings.Contains(v.Text, "ok.example") {
		t.Errorf("event %s: want the rule that permits", allowed.Line())
	}
}

// TestDNSRateLimit shows the default bound on queries that go upstream: 200 a
// second after 1000 at once. What is kept stays free.
func TestDNSRateLimit(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	up := startUpstream(t, lab, "rate-ns.example", anyName)
	g := startGuest(t, "--quiet", "--dns", up.IP4.String())
	g.want("dig +short kept.example", "93.184.216.250")
	const queries, perSecond, burst = 5000, 200, 1000
	start := time.Now()
	f := g.flood("-q 50", fmt.Sprintf(`for (i = 0; i < %d; i++) print "n" i ".rate.example A"`, queries))
	took := time.Since(start)
	if f.lost > 0 || f.codes["NOERROR"]+f.codes["SERVFAIL"] != queries || f.codes["SERVFAIL"] == 0 {
		t.Errorf("%+v, want NOERROR within the limit and SERVFAIL beyond it", f)
	}
	most := burst + int(took.Seconds()*perSecond) + 1
	if asked := len(up.questions("rate.example")); asked < burst-1 || asked > most {
		t.Errorf("the upstream got %d queries in %v, want %d to %d", asked, took, burst-1, most)
	}
	hit := g.tells(m.EventLimitHit, func(e m.Event) bool { return e.Limit == "dns.queries_per_second" })
	if hit.Count == 0 {
		t.Errorf("event %s: want how often", hit.Line())
	}
	before := len(up.questions(""))
	f = g.flood("-q 50", fmt.Sprintf(`for (i = 0; i < %d; i++) print "kept.example A"`, queries))
	if f.codes["NOERROR"] != queries {
		t.Errorf("kept answers: %+v, want %d NOERROR", f, queries)
	}
	f = g.flood("-q 50", fmt.Sprintf(`for (i = 0; i < %d; i++) print "host.docker.internal A"`, queries))
	if f.codes["NOERROR"] != queries {
		t.Errorf("the host's name: %+v, want %d NOERROR", f, queries)
	}
	if after := len(up.questions("")); after != before {
		t.Errorf("kept answers cost the upstream %d queries", after-before)
	}
	eventually(t, "queries go upstream again", func() bool {
		out, _ := g.run("dig +short again" + strconv.FormatInt(time.Now().UnixNano(), 36) + ".example")
		return strings.Contains(out, "93.184.216.250")
	})
}

// TestDNSMemory shows that the sandbox doesn't grow with the names that were asked
// for: all of its tables are bounded.
func TestDNSMemory(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	// The test's own server would be slow under the race detector.
	up := lab.Host(t, "memory-ns.example")
	up.Run("started", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file", "--user=root",
		"--log-facility=-", "--cache-size=0", "--address=/example/93.184.216.250", "--address=/example/2606:2800:220::250")
	step, steps := 20_000, 5
	if large() {
		step, steps = 50_000, 20 // each within the patience for one command
	}
	g := startGuest(t, "--quiet", "--policy", policyFile(t, "dns:", "  nameservers: ["+up.IP4.String()+"]", "limits:", "  dns_queries_per_second: 0"))
	idle := g.pss()
	var full int
	for i := range steps {
		f := g.flood("-q 100", fmt.Sprintf(`for (i = 0; i < %d; i++) print "name-number-" i ".step%d.example", i %% 2 ? "A" : "AAAA"`, step, i))
		if f.codes["NOERROR"] < step*99/100 {
			t.Fatalf("%+v, want %d NOERROR", f, step)
		}
		now := g.pss()
		t.Logf("Pss after %d names: %d KiB, idle %d KiB", (i+1)*step, now, idle)
		if i == 0 {
			full = now // more names than any table holds
		}
		// The garbage collector lets the heap double between two of its rounds.
		const slackKiB = 16 << 10
		if now > full+slackKiB || now > idle+(96<<10) {
			t.Errorf("Pss %d KiB after %d names; %d KiB after %d, %d KiB idle", now, (i+1)*step, full, step, idle)
		}
	}
}

// pss returns the sandbox's share of memory, in KiB: pages that processes have in
// common count in parts.
func (g *guest) pss() int {
	g.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", g.sandboxPID()))
	if err != nil {
		g.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "Pss:" {
			n, err := strconv.Atoi(fields[1])
			if err != nil {
				g.t.Fatal(err)
			}
			return n
		}
	}
	g.t.Fatal("no Pss in smaps_rollup")
	return 0
}

// TestDNSBigAnswers shows that a name takes no more than its share: 64 addresses
// reach the guest, whatever the upstream says, and nobody's else.
func TestDNSBigAnswers(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	var lines []string
	for i := range 1000 {
		lines = append(lines, fmt.Sprintf("many.dns.example. 60 IN A 93.184.%d.%d", 100+i/250, i%250))
	}
	all := records(t, lines...)
	stuffing := records(t, "elsewhere.example. 60 IN A 93.184.216.99", "many.dns.example. 60 IN TXT stuffed")
	up := startUpstream(t, lab, "big-ns.example", func(w mdns.ResponseWriter, q *mdns.Msg) {
		reply := new(mdns.Msg).SetReply(q)
		reply.Compress = true
		reply.Answer = append(append(reply.Answer, all...), stuffing...)
		reply.Extra = append(reply.Extra, stuffing...)
		if w.RemoteAddr().Network() == "udp" {
			reply.Truncate(1232)
		}
		w.WriteMsg(reply)
	})
	g := startGuest(t, "--quiet", "--dns", up.IP4.String())
	out, _ := g.run("dig +tcp many.dns.example")
	if !strings.Contains(out, "ANSWER: 64,") || strings.Contains(out, "elsewhere") || strings.Contains(out, "stuffed") {
		t.Errorf("want 64 addresses and nothing else:\n%s", out)
	}
}
