package integration

import (
	"context"
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

// published returns where the guest's port of a protocol is bound, at an address of
// the given family, as its event says.
func (g *guest) published(protocol m.PortProtocol, family int, port uint16) netip.AddrPort {
	g.t.Helper()
	e := g.tells(m.EventPortPublish, func(e m.Event) bool {
		return e.Port.Protocol == protocol && e.Port.GuestPort == port && e.Port.Host.Addr().Is6() == (family == 6)
	})
	if e.Port == nil {
		g.t.Fatalf("%s port %d isn't published over IPv%d", protocol, port, family)
	}
	return e.Port.Host
}

// fromOutside returns where another machine reaches what is bound on all addresses.
func fromOutside(bound netip.AddrPort) string {
	here := netlab.Here4
	if bound.Addr().Is6() {
		here = netlab.Here6
	}
	return netip.AddrPortFrom(here, bound.Port()).String()
}

// everywhere publishes a guest's port on all addresses of both families, each at any
// free port.
func everywhere(port int) []string {
	return []string{"-p", fmt.Sprintf("0.0.0.0::%d", port), "-p", fmt.Sprintf("[::]::%d", port)}
}

// dialPublished connects from a host to a published port, and repeats that until the
// guest listens: before it does, the peer gets a reset or an end without a byte.
func dialPublished(ctx context.Context, h *netlab.Host, addr string, use func(net.Conn) error) error {
	for end := deadline(); ; time.Sleep(50 * time.Millisecond) {
		c, err := h.Dial(ctx, "tcp", addr)
		if err == nil {
			c.SetDeadline(time.Now().Add(9 * time.Minute))
			err = errors.Join(use(c), c.Close())
		}
		early := errors.Is(err, errSilent) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
		if err == nil || !early || time.Now().After(end) {
			return err
		}
	}
}

// errSilent says that a connection ended without a byte.
var errSilent = errors.New("the connection ended without a byte")

// TestToolsPublishedHalfClose is TestToolsHalfClose for flows that come from outside,
// over both families, to socat and nc in the guest.
func TestToolsPublishedHalfClose(t *testing.T) {
	t.Parallel()
	size := payloadSize() / 2
	want := payloadDigest(t, size)
	lab := netlab.New(t)
	netlab.Tool(t, "nc")
	netlab.Tool(t, "socat")
	peer := lab.Host(t, "peer.half.example")
	g := startGuest(t, append(everywhere(7000), everywhere(7001)...)...)
	for _, f := range families {
		first, second := fromOutside(g.published("tcp", f, 7000)), fromOutside(g.published("tcp", f, 7001))
		done := make(chan error, 1)
		// The peer ends its half first, and then hears what the guest heard.
		go func() {
			done <- dialPublished(t.Context(), peer, first, func(c net.Conn) error {
				if err := write(c, size); err != nil {
					return err
				}
				got, err := io.ReadAll(c)
				if err == nil && len(got) == 0 {
					return errSilent
				}
				if err == nil && !strings.Contains(string(got), want) {
					return fmt.Errorf("the guest heard %s, want %s", got, want)
				}
				return err
			})
		}()
		// A listening nc goes when the peer ends its half, so this is for socat.
		g.long(fmt.Sprintf("socat -t 60 TCP%d-LISTEN:7000 SYSTEM:sha256sum", f))
		if err := <-done; err != nil {
			t.Errorf("IPv%d, the peer ended first: %v", f, err)
		}
		// The guest ends its half first, and then hears the peer.
		go func() {
			done <- dialPublished(t.Context(), peer, second, func(c net.Conn) error {
				got, err := digest(c)
				if err != nil {
					return err
				}
				if got == emptyDigest {
					return errSilent
				}
				if got != want {
					return fmt.Errorf("the peer heard %s, want %s", got, want)
				}
				return write(c, size)
			})
		}()
		out := g.long(fmt.Sprintf("%s | nc -N -%d -l 7001 | sha256sum", payloadCommand(size), f))
		if err := <-done; err != nil || !strings.Contains(out, want) {
			t.Errorf("IPv%d, the guest ended first: %v, the guest heard %s, want %s", f, err, out, want)
		}
	}
}

// emptyDigest is the checksum of nothing.
const emptyDigest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// TestToolsPublishedHTTP loads a server in the guest through a published port: every
// request over a new connection, a hundred at once. (busybox's own listener has room
// for nine, so it gets another's.)
func TestToolsPublishedHTTP(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	for _, tool := range []string{"ab", "busybox", "socat"} {
		netlab.Tool(t, tool)
	}
	peer := lab.Host(t, "peer.load.example")
	g := startGuest(t, everywhere(80)...)
	g.want("mkdir /tmp/www && head -c 10000 /dev/zero > /tmp/www/zero", "")
	g.want("(socat TCP6-LISTEN:80,fork,reuseaddr,backlog=1024 EXEC:'busybox httpd -i -h /tmp/www' >/dev/null 2>&1 &) ; echo started", "started")
	g.want("for i in 1 2 3 4 5 6 7 8 9; do curl -sS -o /dev/null http://127.0.0.1/zero && exit 0; sleep 0.2; done; exit 1", "")
	for _, f := range families {
		url := "http://" + fromOutside(g.published("tcp", f, 80)) + "/zero"
		out, err := peer.Command(t.Context(), "ab", "-q", "-n", "1000", "-c", "100", "-s", "20", url).CombinedOutput()
		for _, want := range []string{"Complete requests:      1000", "Failed requests:        0"} {
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("IPv%d: %v, want %q in\n%s", f, err, want, out)
			}
		}
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, "Requests per second") {
				t.Logf("IPv%d: %s", f, line)
			}
		}
	}
}

// TestToolsPublishedPeer lets one machine in and keeps another out, by their
// addresses: the second one gets no byte, and the guest hears nothing of it.
func TestToolsPublishedPeer(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	netlab.Tool(t, "socat")
	friend, stranger := lab.Host(t, "friend.peer.example"), lab.Host(t, "stranger.peer.example")
	flags := append(everywhere(7000), "--network", "public-only")
	for _, f := range families {
		flags = append(flags, "--rule", "deny ingress "+address(stranger, f)+" tcp 7000")
	}
	g := startGuest(t, flags...)
	// Each connection is told who the guest thinks it is.
	g.want("(socat TCP6-LISTEN:7000,fork,reuseaddr SYSTEM:'echo guest $SOCAT_PEERADDR; echo came >>/tmp/came' >/dev/null 2>&1 &) ; echo started", "started")
	for _, f := range families {
		addr := fromOutside(g.published("tcp", f, 7000))
		var heard string
		hear := func(c net.Conn) error {
			got, err := io.ReadAll(c)
			if err == nil && len(got) == 0 {
				return errSilent
			}
			heard = string(got)
			return err
		}
		if err := dialPublished(t.Context(), friend, addr, hear); err != nil || !strings.HasPrefix(heard, "guest ") {
			t.Errorf("IPv%d: the friend gets %q, %v", f, heard, err)
		}
		g.run("rm -f /tmp/came")
		before := len(g.denials())
		c, err := stranger.Dial(t.Context(), "tcp", addr)
		if err == nil {
			c.SetDeadline(deadline())
			var got []byte
			got, err = io.ReadAll(c)
			if len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("IPv%d: the stranger gets %q, %v", f, got, err)
			}
			c.Close()
		}
		eventually(t, "a denial is told", func() bool { return len(g.denials()) > before })
		for _, e := range g.denials()[before:] {
			if e.Flow.Src.Addr.String() != address(stranger, f) {
				t.Errorf("IPv%d: denied %s, want a flow from %s", f, e.Line(), address(stranger, f))
			}
		}
		g.fails("cat /tmp/came", 0)
	}
}

// TestToolsPublishedMany connects many times, most of which end badly, while nothing
// listens in the guest: the port survives, and serves when something does.
func TestToolsPublishedMany(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	netlab.Tool(t, "socat")
	peer := lab.Host(t, "peer.many.example")
	g := startGuest(t, everywhere(7000)...)
	for _, f := range families {
		addr := fromOutside(g.published("tcp", f, 7000))
		for i := range 1000 {
			c, err := peer.Dial(t.Context(), "tcp", addr)
			if errors.Is(err, syscall.ECONNRESET) {
				continue // so soon, since nobody listens
			}
			if err != nil {
				t.Fatalf("IPv%d, connect %d: %v", f, i, err)
			}
			if i%2 == 0 {
				c.(*net.TCPConn).SetLinger(0) // a reset
			}
			c.Close()
		}
	}
	eventually(t, "the sandbox holds no more descriptors than before", func() bool { return g.usage().descriptors < 100 })
	g.want("(socat TCP6-LISTEN:7000,fork,reuseaddr SYSTEM:'echo guest' >/dev/null 2>&1 &) ; echo started", "started")
	for _, f := range families {
		err := dialPublished(t.Context(), peer, fromOutside(g.published("tcp", f, 7000)), func(c net.Conn) error {
			got, err := io.ReadAll(c)
			if err == nil && len(got) == 0 {
				return errSilent
			}
			return err
		})
		if err != nil {
			t.Errorf("IPv%d: %v", f, err)
		}
	}
}

// TestToolsPublishedDatagrams publishes UDP from the command line: what two machines
// send comes back to each.
func TestToolsPublishedDatagrams(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	netlab.Tool(t, "socat")
	peers := []*netlab.Host{lab.Host(t, "one.datagrams.example"), lab.Host(t, "two.datagrams.example")}
	g := startGuest(t, "-p", "0.0.0.0::5353/udp", "-p", "[::]::5353/udp")
	g.want("(socat UDP6-RECVFROM:5353,fork EXEC:cat >/dev/null 2>&1 &) ; echo started", "started")
	for _, f := range families {
		addr := fromOutside(g.published("udp", f, 5353))
		for _, peer := range peers {
			c, err := peer.Dial(t.Context(), "udp", addr)
			if err != nil {
				t.Fatal(err)
			}
			want := "to " + addr + " from " + peer.Name
			got := make([]byte, 1000)
			n := 0
			eventually(t, "a datagram comes back", func() bool { // the first ones may come before socat
				io.WriteString(c, want)
				c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
				n, err = c.Read(got)
				return err == nil
			})
			if string(got[:n]) != want {
				t.Errorf("IPv%d: %s got %q, want %q", f, peer.Name, got[:n], want)
			}
			c.Close()
		}
	}
}

// TestToolsPublishedDatagrams6 reaches servers that listen on the guest's IPv6 address
// only, through ports of both families, with the first datagram.
func TestToolsPublishedDatagrams6(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	for _, tool := range []string{"socat", "dnsmasq", "dig", "nc"} {
		netlab.Tool(t, tool)
	}
	peer := lab.Host(t, "peer.datagrams.example")
	var ports []string
	for _, port := range []int{5353, 5454} {
		ports = append(ports, "-p", fmt.Sprintf("0.0.0.0::%d/udp", port), "-p", fmt.Sprintf("[::]::%d/udp", port))
	}
	g := startGuest(t, ports...)
	g.want("(socat UDP6-RECVFROM:5454,ipv6only=1,fork EXEC:cat >/dev/null 2>&1 &) ; echo started", "started")
	g.want("(dnsmasq -k -p 5353 --listen-address=$(ip -6 -o addr show dev eth0 scope global | awk '{print $4}' | head -n 1 | cut -d/ -f1) --bind-interfaces --no-resolv --no-hosts --user=root --pid-file --address=/published.example/192.0.2.9 >/dev/null 2>&1 &) ; echo started", "started")
	g.want("for i in 1 2 3 4 5 6 7 8 9; do ss -lun6 | grep -q :5353 && ss -lun6 | grep -q :5454 && break; sleep 0.5; done; echo listening", "listening")
	for _, f := range families {
		echo, _ := netip.ParseAddrPort(fromOutside(g.published("udp", f, 5454)))
		names, _ := netip.ParseAddrPort(fromOutside(g.published("udp", f, 5353)))
		for _, row := range []struct{ line, want string }{
			{fmt.Sprintf("(echo hello; sleep 1) | nc -u -w 2 %s %d", echo.Addr(), echo.Port()), "hello"},
			{fmt.Sprintf("echo hello | socat -t 2 - UDP%d:%v", f, echo), "hello"},
			{fmt.Sprintf("dig +tries=1 +time=5 +short @%s -p %d published.example", names.Addr(), names.Port()), "192.0.2.9"},
		} {
			out, err := peer.Command(t.Context(), "sh", "-c", row.line).CombinedOutput()
			if err != nil || strings.TrimSpace(string(out)) != row.want {
				t.Errorf("%s: %q, %v; want %q", row.line, out, err, row.want)
			}
		}
	}
}
