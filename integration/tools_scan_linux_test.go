package integration

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// scanPorts are those that the scans ask for: 7 echoes, 8 is closed, and the way to
// 9 is a black hole.
const scanPorts = "7,8,9"

// scanned finds hosts and ports in what nmap -oG - prints.
var (
	scannedHost = regexp.MustCompile(`(?m)^Host: (\S+) .*\tPorts: (.*)$`)
	scannedPort = regexp.MustCompile(`(\d+)/([a-z|]+)/`)
)

// scan runs nmap and returns the states of the ports by host.
func (c *machine) scan(flags string, hosts ...string) map[string]string {
	c.t.Helper()
	if strings.Contains(hosts[0], ":") {
		flags = "-6 " + flags
	}
	line := fmt.Sprintf("nmap -n -Pn %s -p %s --max-retries 1 --max-rtt-timeout 500ms -oG - %s", flags, scanPorts, strings.Join(hosts, " "))
	states := make(map[string]string)
	for _, host := range scannedHost.FindAllStringSubmatch(c.want(line, "Nmap done"), -1) {
		var all []string
		ports, _, _ := strings.Cut(host[2], "\t")
		for _, port := range scannedPort.FindAllStringSubmatch(ports, -1) {
			all = append(all, port[1]+" "+port[2])
		}
		states[host[1]] = strings.Join(all, ", ")
	}
	return states
}

// TestToolsScan scans four kinds of host and finds each port as the contract says:
// on an allowed host as it is, on a denied one filtered, or closed where denials are
// told, and not one packet reached it.
func TestToolsScan(t *testing.T) {
	t.Parallel()
	const (
		asIs      = "7 open, 8 closed, 9 filtered"
		asIsUDP   = "7 open, 8 closed, 9 open|filtered"
		silent    = "7 filtered, 8 filtered, 9 filtered"
		closed    = "7 closed, 8 closed, 9 closed"
		silentUDP = "7 open|filtered, 8 open|filtered, 9 open|filtered"
		// An ACK of no flow meets the gateway's stack, which resets it whatever the
		// destination, and sends nothing on: so the scan can't tell one from another.
		reset = "7 unfiltered, 8 unfiltered, 9 unfiltered"
	)
	lab := netlab.New(t)
	netlab.Tool(t, "nmap")
	for i, row := range []struct {
		response m.DenyResponse
		flags    string
		allowed  string
		denied   string
		hole     string
	}{
		{m.DenyResponseDrop, "-sS", asIs, silent, silent},
		{m.DenyResponseDrop, "-sT", asIs, silent, silent},
		{m.DenyResponseDrop, "-sU", asIsUDP, silentUDP, silentUDP},
		{m.DenyResponseDrop, "-sA", reset, reset, reset},
		{m.DenyResponseReject, "-sS", asIs, closed, silent},
		{m.DenyResponseReject, "-sT", asIs, closed, silent},
		{m.DenyResponseReject, "-sU", asIsUDP, silent, silentUDP},
		{m.DenyResponseReject, "-sA", reset, reset, reset},
	} {
		t.Run(fmt.Sprintf("%s %s", row.response, row.flags), func(t *testing.T) {
			t.Parallel()
			allowed := lab.Host(t, fmt.Sprintf("allowed%d.scan.example", i))
			allowed.TCP(7, netlab.Echo)
			allowed.UDP(7, netlab.EchoDatagram)
			allowed.Drop(9)
			denied := lab.Host(t, fmt.Sprintf("denied%d.scan.example", i), fmt.Sprintf("10.70.0.%d", i+1), fmt.Sprintf("fd00:70::%d", i+1))
			denied.TCP(7, netlab.Echo)
			denied.UDP(7, netlab.EchoDatagram)
			hole := lab.Host(t, fmt.Sprintf("hole%d.scan.example", i))
			hole.Drop()
			c := startMachine(t, &m.NetworkConfig{DenyResponse: row.response})
			c.setUp()
			w := lab.Watch(t)
			for _, f := range families {
				a, d, h := address(allowed, f), address(denied, f), address(hole, f)
				want := map[string]string{a: row.allowed, d: row.denied, h: row.hole}
				if diff := cmp.Diff(want, c.scan(row.flags, a, d, h)); diff != "" {
					t.Errorf("IPv%d (-want +got):\n%s", f, diff)
				}
			}
			w.None(t, denied.To())
			if row.flags == "-sA" {
				w.None(t, func(p netlab.Packet) bool { return allowed.To()(p) || hole.To()(p) })
			}
			c.next(allowed)
		})
	}
}

// next checks that the next legitimate flow works, to a host that echoes on port 7.
func (c *machine) next(h *netlab.Host) {
	c.t.Helper()
	for _, f := range families {
		c.want(fmt.Sprintf("echo next | nc -N -w 10 %s 7", address(h, f)), "next")
	}
}

// TestToolsOddPackets sends with hping3 what no stack sends. What is malformed gets no
// answer and none of it leaves; what is only unusual is answered as it should be;
// the next legitimate flow works.
func TestToolsOddPackets(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	netlab.Tool(t, "hping3")
	h := lab.Host(t, "odd.example")
	h.TCP(7, netlab.Echo)
	h.UDP(7, netlab.EchoDatagram)
	c := startMachine(t, &m.NetworkConfig{})
	c.setUp()
	for _, row := range []struct {
		name, flags string
		answer      string // "" for none
		leaves      bool   // something of it reaches the host's network
	}{
		{"SYN", "-S -p 7", "flags=SA", true},
		{"SYN with data", "-S -d 200 -p 7", "flags=SA", true},
		{"SYN, window 0", "-S -w 0 -p 7", "flags=SA", true},
		{"SYN to a closed port", "-S -p 8", "flags=RA", true},
		{"SYN+FIN", "-S -F -p 7", "", false},
		{"SYN+RST", "-S -R -p 7", "", false},
		{"XMAS", "-F -P -U -p 7", "", false},
		{"every flag", "-F -S -R -P -A -U -X -Y -p 7", "", false},
		{"null", "-p 7", "", false},
		{"FIN", "-F -p 7", "", false},
		{"ACK of no flow", "-A -p 7", "flags=R", false},
		{"TCP, bad checksum", "-S -b -p 7", "", false},
		{"TCP, bad offset", "-S -O 4 -p 7", "", false},
		{"TCP in fragments", "-S -f -d 64 -p 7", "", false},
		{"TCP, TTL 1", "-S -t 1 -p 7", "TTL 0 during transit", false},
		{"TCP, foreign source", "-S -a 1.2.3.4 -p 7", "", false},
		{"TCP, source route", "-S --lsrr 93.184.216.9 -p 7", "", false},
		{"UDP in fragments", "-2 -f -d 100 -p 7", "len=128", true},
		{"UDP, bad checksum", "-2 -b -d 10 -p 7", "", false},
		{"UDP, first fragment only", "-2 -x -d 100 -p 7", "", false},
		{"UDP, last fragment only", "-2 -g 1000 -d 100 -p 7", "", false},
		{"UDP past 65535", "-2 -x -g 65528 -d 100 -p 7", "", false},
		{"UDP, TTL 1", "-2 -t 1 -p 7", "TTL 0 during transit", false},
		{"echo", "-1", "icmp_seq=", true},
		{"echo, TTL 1", "-1 -t 1", "TTL 0 during transit", false},
		{"timestamp request", "-1 -C 13", "", false},
		{"mask request", "-1 -C 17", "", false},
		{"redirect", "-1 -C 5 -K 1", "", false},
		{"SCTP", "-0 -H 132 -d 20", "", false},
		{"protocol 255", "-0 -H 255 -d 20", "", false},
	} {
		w := lab.Watch(t)
		// Its exit code is 0 iff something came back.
		out, _ := c.run(fmt.Sprintf("timeout 5 hping3 -n -c 2 -i u10000 %s %s", row.flags, h.IP4))
		if row.answer == "" && !strings.Contains(out, " 0 packets received") || !strings.Contains(out, row.answer) {
			t.Errorf("%s: want %q in\n%s", row.name, row.answer, out)
		}
		if got := w.Count(t, h.To()); (got > 0) != row.leaves {
			t.Errorf("%s: %d packets reached the host", row.name, got)
		}
	}
	c.next(h)
}
