package integration

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
)

// spoil makes the way to and from a host lose two packets of a hundred, and send one
// of ten through a slow queue, so that later ones overtake it. Not by netem, which few
// kernels have: packet filters pick the packets, and the two classes of a queue part
// them. Segments are cut before, or sixty would share one fate.
func spoil(t *testing.T, h *netlab.Host) {
	t.Helper()
	for _, tool := range []string{"iptables", "ip6tables", "tc"} {
		netlab.Tool(t, tool)
	}
	run := func(argv ...string) string {
		t.Helper()
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			netlab.Skip(t, "netfilter", fmt.Sprintf("%s: %v: %s", strings.Join(argv, " "), err, out))
		}
		return string(out)
	}
	queue := func(prefix string, dev string) {
		run(strings.Fields(fmt.Sprintf("%s ip link set %s gso_max_segs 1", prefix, dev))...)
		run(strings.Fields(fmt.Sprintf("%s tc qdisc add dev %s root handle 1: htb default 1", prefix, dev))...)
		run(strings.Fields(fmt.Sprintf("%s tc class add dev %s parent 1: classid 1:1 htb rate 1gbit", prefix, dev))...)
		run(strings.Fields(fmt.Sprintf("%s tc class add dev %s parent 1: classid 1:2 htb rate 20mbit burst 1600", prefix, dev))...)
	}
	inHost := strings.Join(h.Command(t.Context(), "env").Args, " ")
	const inRouter = "ip netns exec router"
	route := strings.Fields(run(strings.Fields(inRouter + " ip route get " + h.IP4.String())...))
	dev := ""
	for i, word := range route {
		if word == "dev" {
			dev = route[i+1]
		}
	}
	queue(inRouter, dev)
	queue(inHost, "eth0")
	for _, f := range families {
		tables := inHost + " iptables"
		if f == 6 {
			tables = inHost + " ip6tables"
		}
		const some = " -m statistic --mode random --probability "
		// What arrives is lost without the sender's kernel knowing.
		run(strings.Fields(tables + " -t mangle -A PREROUTING -i eth0" + some + "0.02 -j DROP")...)
		run(strings.Fields(tables + " -t mangle -A POSTROUTING -o eth0" + some + "0.1 -j CLASSIFY --set-class 1:2")...)
		router := strings.Replace(tables, inHost, inRouter, 1)
		for _, rule := range []string{
			"-t mangle -%s FORWARD -o " + dev + some + "0.1 -j CLASSIFY --set-class 1:2",
			"-t mangle -%s FORWARD -i " + dev + some + "0.02 -j DROP",
		} {
			run(strings.Fields(router + " " + fmt.Sprintf(rule, "A"))...)
			t.Cleanup(func() { run(strings.Fields(router + " " + fmt.Sprintf(rule, "D"))...) })
		}
	}
}

// TestToolsLoss carries checksummed streams over a way that loses and reorders: both
// ends have the same bytes.
func TestToolsLoss(t *testing.T) {
	t.Parallel()
	size := payloadSize() / 16
	want := payloadDigest(t, size)
	lab := netlab.New(t)
	netlab.Tool(t, "nc")
	h := lab.Host(t, "lossy.example")
	heard := make(chan string, 1)
	h.TCP(1, func(c net.Conn) { write(c, size) })
	h.TCP(2, func(c net.Conn) {
		got, err := digest(c)
		heard <- fmt.Sprint(got, " ", err)
		io.WriteString(c, "got it")
	})
	h.UDP(7, netlab.EchoDatagram)
	spoil(t, h)
	g := startGuest(t)
	for _, f := range families {
		addr := address(h, f)
		if out := g.long(fmt.Sprintf("nc -d %s 1 | sha256sum", addr)); !strings.Contains(out, want) {
			t.Errorf("IPv%d: the guest heard %s, want %s", f, out, want)
		}
		out := g.long(fmt.Sprintf("%s | nc -N %s 2", payloadCommand(size), addr))
		if got := <-heard; got != want+" <nil>" || out != "got it" {
			t.Errorf("IPv%d: the server heard %s, want %s; the guest %q", f, got, want, out)
		}
		// Echo requests show that the way is spoilt: some get lost, most don't.
		out, _ = g.run(fmt.Sprintf("ping -n -q -i 0.01 -c 300 -W 1 %s", addr))
		if strings.Contains(out, " 0% packet loss") || strings.Contains(out, " 100% packet loss") {
			t.Errorf("IPv%d: want some loss in\n%s", f, out)
		}
	}
}
