package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
)

// Ports of the name servers on the host's loopback: one upstream for all, and
// dnsmasq, a caching forwarder to it, that the peers' guests ask. sluice's guests
// ask sluice, which asks the upstream itself.
const (
	upstreamPort = 5300
	dnsmasqPort  = 5353
	sluiceDNS    = 53
)

// TestDNS measures queries from guests and prints a table like TestTable's.
func TestDNS(t *testing.T) {
	if !*table {
		t.Skip("make bench measures")
	}
	netlab.New(t)
	for _, tool := range []string{"dnsperf", "dnsmasq", "slirp4netns", "pasta"} {
		netlab.Tool(t, tool)
	}
	sluice, _ := build(t)
	b := bench{t: t, pattern: regexp.MustCompile(*onlyRows)}
	b.peers = chosen(askingPeers(t, sluice), regexp.MustCompile(*onlyPeers), func(p peer) string { return p.name })
	startNameServers(t)
	names := &nameFiles{dir: filepath.Dir(sluice)}
	b.queries(names)
	var columns []string
	for _, p := range b.peers {
		columns = append(columns, p.name)
	}
	fmt.Printf("%sdnsperf and dnsmasq: %s\nmedians of %d alternating rounds; loopback asks dnsmasq directly, slirp4netns and pasta ask it through themselves\n\n",
		versions(t, b.peers), dnsVersions(t), *rounds)
	if err := printTable(os.Stdout, columns, b.rows); err != nil {
		t.Fatal(err)
	}
}

// askingPeers returns the peers with a sluice that asks the upstream, without its
// limit on queries.
func askingPeers(t *testing.T, sluice string) []peer {
	t.Helper()
	policy := filepath.Join(t.TempDir(), "dns.yaml")
	text := fmt.Sprintf("version: 1\npolicy: allow-all\ndns:\n  nameservers: [\"127.0.0.1:%d\"]\nlimits:\n  dns_queries_per_second: 0\n", upstreamPort)
	if err := os.WriteFile(policy, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	all := peers(t, sluice)
	i := slices.IndexFunc(all, func(p peer) bool { return p.name == "sluice" })
	all[i].start = func(ctx context.Context, _ int) (*guest, error) {
		return oneCommand(ctx, sluice, "run", "--quiet", "--backend", "namespace", "--policy", policy, "--", "sh")
	}
	return all
}

// dnsVersions returns the versions of the packages that only this table needs.
func dnsVersions(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("dpkg-query", "-W", "-f", "${Package} ${Version}\\n", "dnsperf", "dnsmasq-base").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Split(strings.TrimSpace(string(out)), "\n"), ", ")
}

// startNameServers starts the upstream and dnsmasq.
func startNameServers(t *testing.T) {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), upstreamPort)))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{}) // closed when serveAddress has ended
	go func() {
		defer close(done)
		serveAddress(c)
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	server := exec.CommandContext(t.Context(), "dnsmasq",
		"--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file", "--user=root", "--log-facility=-",
		"--listen-address=127.0.0.1", "--bind-interfaces", fmt.Sprint("--port=", dnsmasqPort),
		// Room for as many as sluice keeps, and for all that dnsperf has on the way.
		"--cache-size=8192", "--dns-forward-max=10000", fmt.Sprint("--server=127.0.0.1#", upstreamPort))
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Wait() }) // killed by the context
	waitForServer(t, dnsmasqPort)
}

// serveAddress answers every query with one address, until the socket is closed.
func serveAddress(c *net.UDPConn) {
	buf := make([]byte, 1<<12)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf[:1<<10])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if end := questionEnd(buf[:n]); err == nil && end > 0 {
			c.WriteToUDPAddrPort(appendAddress(buf[:end]), from)
		}
	}
}

// appendAddress makes a query, cut behind its question, the reply to itself.
func appendAddress(query []byte) []byte {
	copy(query[2:], "\x85\x80\x00\x01\x00\x01\x00\x00\x00\x00") // one record; the OPT record has gone
	// The question's name, A, IN, a TTL of 300 s, 93.184.216.34.
	return append(query, 0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 93, 184, 216, 34)
}

// questionEnd returns where the first question of a message ends, 0 if it doesn't.
func questionEnd(msg []byte) int {
	for i := 12; i < len(msg); i += 1 + int(msg[i]) {
		if msg[i] == 0 && i+5 <= len(msg) {
			return i + 5
		}
	}
	return 0
}

// nameFiles makes dnsperf's input, where every guest sees it.
type nameFiles struct {
	dir    string
	serial int
}

// write writes a file with n queries for names that nobody has asked for before.
func (f *nameFiles) write(n int) (path string, err error) {
	f.serial++
	path = filepath.Join(f.dir, fmt.Sprint("names", f.serial))
	file, err := os.Create(path)
	if err != nil {
		return "", err
	}
	w := bufio.NewWriter(file)
	for i := range n {
		fmt.Fprintf(w, "n%d.s%d.bench.example A\n", i, f.serial)
	}
	return path, errors.Join(w.Flush(), file.Close())
}

// Numbers of names. Kept ones fit everybody's cache; of fresh ones there are more
// than anybody asks for in a measurement.
const (
	keptNames  = 1000
	freshNames = 100_000 // per second
	slowNames  = 500     // in a second
)

// A load is what one row of dnsperf does.
type load struct {
	name, unit string
	kept       bool // the names were asked for before
	paced      bool // few queries, and the row is the median time of one
}

func loads() []load {
	return []load{
		{"DNS, kept, 100 on the way", "per second", true, false},
		{"DNS, fresh, 100 on the way", "per second", false, false},
		{"DNS, kept, p50", "µs", true, true},
		{"DNS, fresh, p50", "µs", false, true},
	}
}

func (b *bench) queries(names *nameFiles) {
	all := chosen(loads(), b.pattern, func(x load) string { return x.name })
	if len(all) == 0 {
		return
	}
	var rows []*row
	for _, x := range all {
		rows = append(rows, b.newRow(x.name, x.unit))
	}
	b.each("queries", 1500, func(g *guest) error {
		for i, x := range all {
			r, err := x.measure(g, names, *duration)
			if err != nil {
				return fmt.Errorf("%s: %w", x.name, err)
			}
			rows[i].add(g.peer.name, r)
		}
		return nil
	})
}

// measure runs dnsperf in the guest.
func (x load) measure(g *guest, names *nameFiles, d time.Duration) (result, error) {
	n := keptNames
	switch {
	case x.paced:
		n = slowNames
	case !x.kept:
		n = freshNames * int(d.Seconds())
	}
	file, err := names.write(n)
	if err != nil {
		return result{}, err
	}
	defer os.Remove(file)
	port := dnsmasqPort
	if g.peer.name == "sluice" {
		port = sluiceDNS
	}
	line := fmt.Sprintf("dnsperf -f inet -t 1 -s %s -p %d -d %s", g.peer.host, port, file)
	if x.kept {
		if _, err := g.run(line + " -q 20 -n 1"); err != nil {
			return result{}, err
		}
	}
	if x.paced {
		out, err := g.run(line + " -Q 500 -n 1 -v") // with -q 1 dnsperf sleeps between queries
		if err != nil {
			return result{}, err
		}
		return medianTime(out)
	}
	out, err := g.run(fmt.Sprintf("%s -q 100 -l %.0f", line, d.Seconds()))
	if err != nil {
		return result{}, err
	}
	return parseDNSPerf(out)
}

var (
	perSecond = regexp.MustCompile(`Queries per second:\s+([0-9.]+)`)
	completed = regexp.MustCompile(`Queries completed:\s+\d+ \(([0-9.]+)%\)`)
	noError   = regexp.MustCompile(`Response codes:\s+NOERROR \d+ \(100\.00%\)`)
	oneQuery  = regexp.MustCompile(`(?m)^> NOERROR .* ([0-9.]+)$`)
)

// parseDNSPerf reads dnsperf's summary. A rate at which answers are wrong, or more
// than one in a thousand is lost, is none.
func parseDNSPerf(out string) (result, error) {
	rate, done := perSecond.FindStringSubmatch(out), completed.FindStringSubmatch(out)
	if rate == nil || done == nil || !noError.MatchString(out) {
		return result{}, fmt.Errorf("dnsperf: not all answers are addresses: %s", out)
	}
	share, err := strconv.ParseFloat(done[1], 64)
	if err != nil {
		return result{}, err
	}
	if share < 99.9 {
		return result{}, fmt.Errorf("dnsperf: %v %% of the queries were answered", share)
	}
	value, err := strconv.ParseFloat(rate[1], 64)
	return result{value: value}, err
}

// medianTime reads the time of each query, in seconds, and returns the median in µs.
func medianTime(out string) (result, error) {
	var times []result
	for _, m := range oneQuery.FindAllStringSubmatch(out, -1) {
		seconds, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return result{}, err
		}
		times = append(times, result{value: seconds * 1e6})
	}
	if len(times) < slowNames*99/100 {
		return result{}, fmt.Errorf("dnsperf: %d of %d queries were answered", len(times), slowNames)
	}
	return median(times), nil
}

func TestAppendAddress(t *testing.T) {
	t.Parallel()
	query := "\x12\x34\x01\x20\x00\x01\x00\x00\x00\x00\x00\x01\x01N\x01x\x00\x00\x01\x00\x01\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"
	want := "\x12\x34\x85\x80\x00\x01\x00\x01\x00\x00\x00\x00\x01N\x01x\x00\x00\x01\x00\x01\xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\x5d\xb8\xd8\x22"
	end := questionEnd([]byte(query))
	if got := appendAddress([]byte(query)[:end:end]); string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for n := range end {
		if got := questionEnd([]byte(query)[:n]); got != 0 {
			t.Errorf("the first %d bytes hold a question that ends at %d", n, got)
		}
	}
}

func TestParseDNSPerf(t *testing.T) {
	t.Parallel()
	summary := "  Queries completed:    %s\n  Response codes:       %s\n  Queries per second:   8764.454182\n"
	for _, row := range []struct {
		completed, codes string
		want             float64
	}{
		{"8865 (100.00%)", "NOERROR 8865 (100.00%)", 8764.454182},
		{"8860 (99.94%)", "NOERROR 8860 (100.00%)", 8764.454182},
		{"8000 (90.24%)", "NOERROR 8000 (100.00%)", 0},
		{"8865 (100.00%)", "NOERROR 8864 (99.99%), SERVFAIL 1 (0.01%)", 0},
		{"8865 (100.00%)", "SERVFAIL 8865 (100.00%)", 0},
	} {
		out := fmt.Sprintf(summary, row.completed, row.codes)
		if got, err := parseDNSPerf(out); got.value != row.want || (err == nil) != (row.want > 0) {
			t.Errorf("%s: %v, %v, want %v", out, got.value, err, row.want)
		}
	}
}

func TestMedianTime(t *testing.T) {
	t.Parallel()
	var all strings.Builder
	for i := range slowNames {
		fmt.Fprintf(&all, "> NOERROR n%d.bench.example A 0.%06d\n", i, 10+i%3)
	}
	if got, err := medianTime(all.String()); err != nil || math.Round(got.value) != 11 {
		t.Errorf("%v µs, %v, want 11", got.value, err)
	}
	if got, err := medianTime(strings.Repeat("> SERVFAIL n.bench.example A 0.000010\n", slowNames)); err == nil {
		t.Errorf("%v µs without an answer, want an error", got.value)
	}
}
