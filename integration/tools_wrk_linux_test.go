package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// inside calls open on a thread in the machine's namespace: a socket stays in the one
// that it was opened in. The thread ends with it. It must not be the process's first,
// by whose namespace /proc/self shows the network.
func (c *machine) inside(open func() error) {
	c.t.Helper()
	done := make(chan error, 1)
	enter := func() error {
		ns, err := os.Open("/run/netns/" + c.name)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return open()
	}
	var locked func()
	locked = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread() // once another one has done it
			other := make(chan struct{})
			go func() { defer close(other); locked() }()
			<-other
			return
		}
		done <- enter()
	}
	go locked()
	if err := <-done; err != nil {
		c.t.Fatal(err)
	}
}

// serveHTTP serves on a port of the machine, over both families.
func (c *machine) serveHTTP(port string, handler http.Handler) {
	c.t.Helper()
	var l net.Listener
	c.inside(func() (err error) {
		l, err = net.Listen("tcp", ":"+port)
		return err
	})
	server := &http.Server{Handler: handler}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	c.t.Cleanup(func() {
		server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			c.t.Errorf("serve HTTP on the machine: %v", err)
		}
	})
}

// echoDatagrams answers datagrams to a port of the machine with what they hold and
// who it thinks sent them.
func (c *machine) echoDatagrams(port string) {
	c.t.Helper()
	for _, network := range []string{"udp4", "udp6"} {
		var socket net.PacketConn
		c.inside(func() (err error) {
			socket, err = net.ListenPacket(network, ":"+port)
			return err
		})
		done := make(chan struct{})
		go func() {
			defer close(done)
			buf := make([]byte, 64<<10)
			for {
				n, from, err := socket.ReadFrom(buf)
				if err != nil {
					return
				}
				socket.WriteTo(append(buf[:n:n], " "+from.String()...), from)
			}
		}()
		c.t.Cleanup(func() {
			socket.Close()
			<-done
		})
	}
}

// add publishes a port.
func (c *machine) add(b m.PortBinding) netip.AddrPort {
	c.t.Helper()
	bound, err := c.sandbox.Ports().Add(c.t.Context(), b)
	if err != nil {
		c.t.Fatal(err)
	}
	if bound.HostPort == 0 {
		c.t.Fatalf("%+v is bound to %+v", b, bound)
	}
	return netip.AddrPortFrom(netip.MustParseAddr(bound.Bind), bound.HostPort)
}

// TestToolsPublishedWrk holds hundreds of connections to a published port, with
// SLUICE_LARGE=1 a thousand, and asks over all of them for five seconds: with the race
// detector in the relay, the machine and its server, the first answers take two.
func TestToolsPublishedWrk(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	netlab.Tool(t, "wrk")
	connections := 200
	if large() {
		connections = 1000
	}
	peer := lab.Host(t, "peer.wrk.example")
	c := startMachine(t, &m.NetworkConfig{})
	c.setUp()
	c.serveHTTP("80", hello)
	for _, bind := range []string{"0.0.0.0", "::"} {
		bound := c.add(m.PortBinding{Bind: bind, GuestPort: 80})
		cmd := peer.Command(t.Context(), "wrk", "--threads", "1", "--connections", fmt.Sprint(connections), "--duration", "5s", "--timeout", "20s", "http://"+fromOutside(bound)+"/")
		out, err := cmd.CombinedOutput()
		text := string(out)
		if err != nil || strings.Contains(text, "Socket errors") || strings.Contains(text, "Non-2xx") || strings.Contains(text, "\n  0 requests") {
			t.Errorf("%s: %v\n%s", bind, err, text)
		}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "Requests/sec") {
				t.Logf("%s: %s", bind, strings.TrimSpace(line))
			}
		}
	}
}

// TestToolsPublishedUDP publishes an echo over UDP: each of several peers gets its own
// answers, small and large, and the machine sees each at a port of the gateway's.
func TestToolsPublishedUDP(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	peers := []*netlab.Host{lab.Host(t, "one.udp.example"), lab.Host(t, "two.udp.example"), lab.Host(t, "denied.udp.example")}
	denied := peers[2]
	c := startMachine(t, &m.NetworkConfig{Policy: m.NetworkPolicyPresetPublicOnly, Rules: []m.PolicyRule{
		parseRule(t, "deny ingress "+address(denied, 4)), parseRule(t, "deny ingress "+address(denied, 6)),
	}})
	c.setUp()
	c.echoDatagrams("5353")
	for _, bind := range []string{"0.0.0.0", "::"} {
		bound := fromOutside(c.add(m.PortBinding{Bind: bind, GuestPort: 5353, Protocol: m.PortProtocolUDP}))
		gateway := c.gateways[0] // the guest has IPv4, so that is what all come over
		sources := make(map[string]bool)
		for _, size := range []int{1, 1400, 9000, 40000} {
			for _, peer := range peers[:2] {
				conn, err := peer.Dial(t.Context(), "udp", bound)
				if err != nil {
					t.Fatal(err)
				}
				conn.SetDeadline(deadline())
				text := strings.Repeat(string(rune('a'+size%26)), size) + peer.Name
				io.WriteString(conn, text)
				buf := make([]byte, 64<<10)
				n, err := conn.Read(buf)
				echoed, source, _ := strings.Cut(string(buf[:n]), " ")
				from, _ := netip.ParseAddrPort(source)
				if err != nil || echoed != text || from.Addr() != gateway || from.Port() < 49152 {
					t.Errorf("%s, %d bytes of %s: %v, got %d bytes, seen as %q, want a high port of %v", bind, size, peer.Name, err, n, source, gateway)
				}
				if sources[source] {
					t.Errorf("%s: two peers are %s to the guest", bind, source)
				}
				sources[source] = true
				conn.Close()
			}
		}
		conn, err := denied.Dial(t.Context(), "udp", bound)
		if err != nil {
			t.Fatal(err)
		}
		// The port of a denied peer is silent.
		io.WriteString(conn, "denied")
		conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if n, err := conn.Read(make([]byte, 100)); err == nil {
			t.Errorf("%s: the denied peer got %d bytes", bind, n)
		}
		conn.Close()
	}
}

// TestToolsPublishedBinds binds what can be bound and says who is in the way of what
// can't.
func TestToolsPublishedBinds(t *testing.T) {
	t.Parallel()
	netlab.New(t)
	netlab.Tool(t, "nc")
	c := startMachine(t, &m.NetworkConfig{})
	c.setUp()
	c.serveHTTP("80", hello)
	first := c.add(m.PortBinding{GuestPort: 80})
	if !first.Addr().IsLoopback() {
		t.Errorf("a binding without address is bound to %v", first)
	}
	// The same port on the other addresses, and of the other protocol.
	c.add(m.PortBinding{Bind: "::1", HostPort: first.Port(), GuestPort: 80})
	c.add(m.PortBinding{Bind: netlab.Here4.String(), HostPort: first.Port(), GuestPort: 80})
	c.add(m.PortBinding{HostPort: first.Port(), GuestPort: 80, Protocol: m.PortProtocolUDP})
	four := c.add(m.PortBinding{Bind: "0.0.0.0", GuestPort: 80})
	c.add(m.PortBinding{Bind: "::", HostPort: four.Port(), GuestPort: 80})
	// A stranger holds a port.
	stranger, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	taken := netip.MustParseAddrPort(stranger.Addr().String())
	for _, row := range []struct {
		name string
		b    m.PortBinding
		want string
	}{
		{"twice", m.PortBinding{HostPort: first.Port(), GuestPort: 80}, "address already in use"},
		{"twice, another guest port", m.PortBinding{HostPort: first.Port(), GuestPort: 81}, "address already in use"},
		{"under a wildcard", m.PortBinding{Bind: "127.0.0.1", HostPort: four.Port(), GuestPort: 80}, "address already in use"},
		{"a stranger's", m.PortBinding{HostPort: taken.Port(), GuestPort: 80}, "held by "},
		{"not this machine's address", m.PortBinding{Bind: "203.0.113.7", GuestPort: 80}, "cannot assign requested address"},
		{"no guest port", m.PortBinding{HostPort: 1234}, "GuestPort"},
		{"no address", m.PortBinding{Bind: "localhost", GuestPort: 80}, "Bind"},
	} {
		_, err := c.sandbox.Ports().Add(t.Context(), row.b)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
	}
	list, err := c.sandbox.Ports().List(t.Context())
	if err != nil || len(list) != 6 {
		t.Errorf("published: %+v, %v, want six", list, err)
	}
	// Each works, and no longer when it is removed.
	for _, b := range list {
		if b.Protocol == m.PortProtocolUDP || strings.Contains(b.Bind, "0.0.0.0") || b.Bind == "::" {
			continue
		}
		addr := net.JoinHostPort(b.Bind, fmt.Sprint(b.HostPort))
		if out, code := here(t, "curl -sS --max-time 60 http://"+addr+"/"); code != 0 || out != "hello" {
			t.Errorf("%s: exit code %d, %s", addr, code, out)
		}
		if err := c.sandbox.Ports().Remove(t.Context(), b); err != nil {
			t.Error(err)
		}
		if _, code := here(t, "curl -sS --max-time 60 http://"+addr+"/"); code != 7 {
			t.Errorf("%s: curl exits with %d after the port was removed, want 7", addr, code)
		}
	}
}

// parseRule returns a rule from its text.
func parseRule(t *testing.T, text string) m.PolicyRule {
	t.Helper()
	r, err := m.ParsePolicyRule(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// here runs a command line on this machine, outside any guest.
func here(t *testing.T, line string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
	out, err := cmd.CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}
