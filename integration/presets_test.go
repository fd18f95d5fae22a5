package integration

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// A target is something that a preset opens or denies.
type target struct {
	group string         // public, private, metadata, link-local or host
	at    netip.AddrPort // where it serves HTTP
	host  *netlab.Host   // nil for this machine
}

func (x target) url() string { return "http://" + x.at.String() + "/" }

// targets returns one of each group and family. Their addresses are fixed, so tests
// that use them don't run in parallel.
func targets(t *testing.T, lab *netlab.Lab) []target {
	t.Helper()
	var all []target
	for _, row := range []struct{ group, addr string }{
		{"public", "93.184.216.200"},
		{"public", "2606:2800:220::200"},
		{"private", "10.77.0.1"},
		{"private", "fd00:77::1"},
		{"metadata", "169.254.169.254"},
		{"metadata", "fd00:ec2::254"},
		{"link-local", "169.254.77.1"},
	} {
		h := lab.Host(t, strings.NewReplacer(":", "-", ".", "-").Replace(row.addr)+".targets.example", row.addr)
		h.HTTP(80, hello)
		all = append(all, target{row.group, netip.AddrPortFrom(netip.MustParseAddr(row.addr), 80), h})
	}
	serveLoopback(t, 8077)
	for _, gateway := range []string{"172.16.0.1:8077", "[fd42:6d73:62::1]:8077"} {
		all = append(all, target{group: "host", at: netip.MustParseAddrPort(gateway)})
	}
	return all
}

// serveLoopback serves on a port of this machine's loopback addresses, for the time of
// a test.
func serveLoopback(t *testing.T, port int) {
	t.Helper()
	for _, addr := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(addr, strconv.Itoa(port)))
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: hello}
		done := make(chan error, 1)
		go func() { done <- server.Serve(l) }()
		t.Cleanup(func() {
			server.Close()
			if err := <-done; !errors.Is(err, http.ErrServerClosed) {
				t.Errorf("serve HTTP on %s: %v", addr, err)
			}
		})
	}
}

func TestPresets(t *testing.T) {
	lab := netlab.New(t)
	all := targets(t, lab)
	for _, row := range []struct {
		preset string
		opens  []string
	}{
		{"public-only", []string{"public"}},
		{"non-local", []string{"public", "private"}},
		{"allow-all", []string{"public", "private", "metadata", "link-local", "host"}},
	} {
		for _, response := range []string{"drop", "reject"} {
			t.Run(row.preset+" "+response, func(t *testing.T) {
				g := startGuest(t, "--network", row.preset, "--deny-response", response)
				for _, x := range all {
					if slices.Contains(row.opens, x.group) {
						g.want("curl -sS --max-time 60 "+x.url(), "hello")
					} else {
						g.wantDenied(lab, x, response)
					}
				}
				// The next legitimate flow works.
				g.want("curl -sS --max-time 60 "+all[0].url(), "hello")
				if row.preset != "allow-all" {
					g.wantTold(all)
				}
			})
		}
	}
}

// wantDenied checks a denial on both sides.
func (g *guest) wantDenied(lab *netlab.Lab, x target, response string) {
	g.t.Helper()
	wire, loopback := lab.Watch(g.t), lab.WatchLoopback(g.t)
	most, want, prints := 2, 28, "curl: (28) Connection timed out"
	if response == "reject" {
		most, want, prints = 60, 7, "curl: (7) Failed to connect" // long before
	}
	out, code := g.run(fmt.Sprintf("curl -sS --max-time %d %s", most, x.url()))
	if code != want || !strings.Contains(out, prints) {
		g.t.Errorf("curl %s: exit code %d, %q, want %d, %q", x.url(), code, out, want, prints)
	}
	g.wantDenial(x.at.Addr())
	if x.host != nil {
		wire.None(g.t, x.host.To())
	}
	loopback.None(g.t, netlab.ToPort(8077))
}

// wantDenial checks that a denial of an address is on record, soon: events never
// hold up a flow.
func (g *guest) wantDenial(addr netip.Addr) {
	g.t.Helper()
	eventually(g.t, fmt.Sprintf("a flow.deny event for %v", addr), func() bool {
		return slices.ContainsFunc(g.denials(), func(e m.Event) bool { return e.Flow.Dst.Addr == addr })
	})
}

// wantTold checks that the command told the denials: each at once and again in the
// summary.
func (g *guest) wantTold(all []target) {
	g.t.Helper()
	shell := g.shell
	g.close()
	stderr := shell.Stderr()
	for _, x := range all {
		if x.group != "metadata" {
			continue
		}
		line := fmt.Sprintf("denied tcp %v (metadata)", x.at)
		if !strings.Contains(stderr, line) {
			g.t.Errorf("no line %q in\n%s", line, stderr)
		}
	}
}

// TestNone shows that without a card nothing leaves.
func TestNone(t *testing.T) {
	lab := netlab.New(t)
	all := targets(t, lab)
	g := startGuest(t, "--network", "none")
	wire, loopback := lab.Watch(t), lab.WatchLoopback(t)
	g.want("ls /sys/class/net 2>/dev/null || cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' '", "lo")
	for _, x := range all {
		g.fails("curl -sS --max-time 60 "+x.url(), 7)
	}
	g.fails("dig +time=1 +tries=1 clients.example", 0)
	for _, x := range all {
		if x.host != nil {
			wire.None(t, x.host.To())
		}
	}
	wire.None(t, netlab.ToPort(53))
	loopback.None(t, netlab.ToPort(8077))
}

// TestDeniedUDPAndEcho shows what tools print when datagrams and echo requests are
// denied.
func TestDeniedUDPAndEcho(t *testing.T) {
	lab := netlab.New(t)
	h := lab.Host(t, "denied.example", "10.78.0.1", "fd00:78::1")
	h.UDP(7, netlab.EchoDatagram)
	for _, row := range []struct{ response, ping4, ping6 string }{
		{"drop", "100% packet loss", "100% packet loss"},
		{"reject", "Packet filtered", "Administratively prohibited"},
	} {
		t.Run(row.response, func(t *testing.T) {
			netlab.Tool(t, "nc")
			g := startGuest(t, "--deny-response", row.response)
			w := lab.Watch(t)
			for line, want := range map[string]string{
				"ping -n -c 1 -W 1 10.78.0.1":  row.ping4,
				"ping -n -c 1 -W 1 fd00:78::1": row.ping6,
			} {
				if out, code := g.run(line); code == 0 || !strings.Contains(out, want) {
					t.Errorf("%s: exit code %d, want %q in\n%s", line, code, want, out)
				}
			}
			g.run("echo hello | nc -u -w 1 10.78.0.1 7")
			g.run("echo hello | nc -u -w 1 fd00:78::1 7")
			w.None(t, h.To())
			eventually(t, "four flow.deny events", func() bool { return len(g.denials()) >= 4 })
		})
	}
}

// TestExitCodes shows the exit codes of the command.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	h := lab.Host(t, "codes.example")
	h.HTTP(80, hello)
	netlab.Tool(t, "curl")
	for _, row := range []struct {
		flags, line string
		code        int
	}{
		{"", "true", 0},
		{"", "exit 3", 3},
		{"", "kill -9 $$", 128 + 9},
		{"", "curl -s http://codes.example/ >/dev/null", 0},
		{"--fail-on-deny", "curl -s http://codes.example/ >/dev/null", 0},
		{"--fail-on-deny --deny-response reject", "curl -s http://10.79.0.1/ || true", 77},
		{"--fail-on-deny --deny-response reject", "curl -s http://10.79.0.1/", 7},
		{"--no-such-flag", "true", 125},
	} {
		argv := append([]string{"run", "--backend", "namespace"}, strings.Fields(row.flags)...)
		out, code := runSluice(t, append(argv, "--", "sh", "-c", row.line)...)
		if code != row.code {
			t.Errorf("sluice run %s -- %s: exit code %d, want %d\n%s", row.flags, row.line, code, row.code, out)
		}
	}
	for _, row := range []struct {
		command string
		code    int
	}{
		{"/no/such/command", 127},
		{"/etc/passwd", 126},
	} {
		if out, code := runSluice(t, "run", "--backend", "namespace", "--", row.command); code != row.code {
			t.Errorf("sluice run -- %s: exit code %d, want %d\n%s", row.command, code, row.code, out)
		}
	}
}
