package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// The rows of the threat model that come from outside the sandbox: from neighbours in
// the LAN and from this machine's other users. Each is met by the tools that people
// have for it.

// serves makes the guest answer each connection to a port with a word.
func (g *guest) serves(port int) {
	g.t.Helper()
	netlab.Tool(g.t, "socat")
	g.want(fmt.Sprintf("(socat TCP6-LISTEN:%d,fork,reuseaddr,backlog=1024 SYSTEM:'echo guest' >/dev/null 2>&1 &) ; echo started", port), "started")
}

// answersGuest checks that a published port leads to the guest's server.
func answersGuest(t *testing.T, from func(line string) (string, int), addr netip.AddrPort) {
	t.Helper()
	eventually(t, fmt.Sprintf("%v answers", addr), func() bool {
		out, _ := from(fmt.Sprintf("nc -w 60 %s %d </dev/null", addr.Addr(), addr.Port()))
		return strings.TrimSpace(out) == "guest"
	})
}

// onHost returns a function that runs command lines on a host of the lab.
func onHost(t *testing.T, h *netlab.Host) func(line string) (string, int) {
	return func(line string) (string, int) {
		t.Helper()
		cmd := h.Command(t.Context(), "sh", "-c", line)
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out)), cmd.ProcessState.ExitCode()
	}
}

// TestBypassH01Neighbour shows that a port on loopback, the default, isn't a
// neighbour's to reach: by this machine's other addresses nothing listens.
func TestBypassH01Neighbour(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	netlab.Tool(t, "nc")
	peer := lab.Host(t, "peer.h01.example")
	g := startGuest(t, "-p", "7000", "-p", "[::1]::7000")
	g.serves(7000)
	for _, f := range families {
		bound := g.published("tcp", f, 7000)
		if !bound.Addr().IsLoopback() {
			t.Errorf("IPv%d: bound to %v, want loopback", f, bound)
		}
		answersGuest(t, func(line string) (string, int) { return here(t, line) }, bound)
		outside, _ := netip.ParseAddrPort(fromOutside(bound))
		out, code := onHost(t, peer)(fmt.Sprintf("nc -v -w 60 %s %d </dev/null", outside.Addr(), outside.Port()))
		if code == 0 || !strings.Contains(out, "refused") {
			t.Errorf("IPv%d: the neighbour gets %q, want refused", f, out)
		}
	}
}

// TestBypassH03Port shows that a port has one owner: who comes later is told, and a
// sandbox doesn't share one that another program holds, whatever that program asked for.
func TestBypassH03Port(t *testing.T) {
	t.Parallel()
	netlab.New(t)
	netlab.Tool(t, "socat")
	netlab.Tool(t, "timeout")
	g := startGuest(t, "-p", "7000")
	bound := g.published("tcp", 4, 7000)
	for _, bind := range []string{"127.0.0.1", "0.0.0.0"} {
		out, code := here(t, fmt.Sprintf("timeout 20 socat -u TCP4-LISTEN:%d,bind=%s,reuseaddr,reuseport OPEN:/dev/null", bound.Port(), bind))
		if code == 0 || !strings.Contains(out, "Address already in use") {
			t.Errorf("another program listens on %s beside %v: exit code %d\n%s", bind, bound, code, out)
		}
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, soReusePort, 1) })
	}}
	l, err := config.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	out, code := runSluice(t, "run", "--backend", "namespace", "-p", fmt.Sprintf("%d:80", port), "--", "true")
	if code != 125 || !strings.Contains(out, fmt.Sprint(port)) {
		t.Errorf("a port that lets itself be shared: exit code %d, want 125 and the port in\n%s", code, out)
	}
}

// soReusePort is SO_REUSEPORT, which package syscall lacks.
const soReusePort = 15

// TestBypassH05Flood opens more flows to a port than there may be, to a guest that
// accepts none of them: the rest is reset, and when they are gone the port serves.
func TestBypassH05Flood(t *testing.T) {
	t.Parallel()
	const limit, flood = 1024, 1200 // the default, and more
	lab := netlab.New(t)
	netlab.Tool(t, "socat")
	peer := lab.Host(t, "peer.h05.example")
	g := startGuest(t, "-p", "0.0.0.0::7000")
	// It has room for all in its queue, and takes none of them.
	netlab.Tool(t, "python3")
	const deaf = `import socket, time; s = socket.create_server(("", 7000), backlog=4096); time.sleep(1000)`
	g.want(fmt.Sprintf(`(python3 -c '%s' & echo $! >/tmp/pid) >/dev/null 2>&1; until ss -ltn | grep -q :7000; do sleep 0.1; done; echo listening`, deaf), "listening")
	bound := fromOutside(g.published("tcp", 4, 7000))
	var conns []net.Conn
	for range flood {
		c, err := peer.Dial(t.Context(), "tcp", bound)
		if err == nil {
			conns = append(conns, c)
		} else if !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
	}
	hit := g.tells(m.EventLimitHit, func(e m.Event) bool { return e.Limit == "Inbound" })
	if hit.Count == 0 {
		t.Errorf("event %s: want how often", hit.Line())
	}
	alive := 0
	for _, c := range conns {
		c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			alive++
		}
		c.Close()
	}
	if alive > limit {
		t.Errorf("%d flows stand, want at most %d", alive, limit)
	}
	g.want("kill $(cat /tmp/pid) && echo ended", "ended")
	g.serves(7000)
	at, _ := netip.ParseAddrPort(bound)
	answersGuest(t, onHost(t, peer), at)
}

// TestBypassH07NobodyListens connects to a port behind which nobody listens: the peer
// is told at once.
func TestBypassH07NobodyListens(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	peer := lab.Host(t, "peer.h07.example")
	g := startGuest(t, everywhere(7000)...)
	before := g.usage()
	for _, f := range families {
		for range 50 {
			c, err := peer.Dial(t.Context(), "tcp", fromOutside(g.published("tcp", f, 7000)))
			if err == nil {
				c.SetReadDeadline(deadline())
				_, err = io.ReadAll(c)
				c.Close()
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("IPv%d: %v, want %v", f, err, syscall.ECONNRESET)
			}
		}
	}
	g.wantNoGrowth(before, 100)
}

// TestBypassH08Datagrams writes to a published port from more sources than it
// remembers: another peer is answered all the same, and the sandbox doesn't grow.
func TestBypassH08Datagrams(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	for _, tool := range []string{"hping3", "python3"} {
		netlab.Tool(t, tool)
	}
	flooder, peer := lab.Host(t, "flooder.h08.example"), lab.Host(t, "peer.h08.example")
	g := startGuest(t, "-p", "0.0.0.0::5353/udp")
	// One process for all: a fork for each would be what is slow.
	const echo = `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 5353))
while True:
    s.sendto(*s.recvfrom(65536))`
	g.want(fmt.Sprintf("(python3 -c '%s' >/dev/null 2>&1 &) ; echo started", echo), "started")
	bound := fromOutside(g.published("udp", 4, 5353))
	exchange := func() {
		t.Helper()
		c, err := peer.Dial(t.Context(), "udp", bound)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		eventually(t, "a datagram comes back", func() bool {
			io.WriteString(c, "peer")
			c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			n, err := c.Read(make([]byte, 100))
			return err == nil && n == 4
		})
	}
	exchange()
	before := g.usage()
	at, _ := netip.ParseAddrPort(bound)
	// Its source port grows by one with each; every one is a peer.
	onHost(t, flooder)(fmt.Sprintf("hping3 -n -q -2 -c 5000 -i u200 -d 8 -s 10000 -p %d %s", at.Port(), at.Addr()))
	exchange()
	g.tells(m.EventLimitHit, func(e m.Event) bool { return e.Limit == "Inbound" })
	g.wantNoGrowth(before, 5000)
}
