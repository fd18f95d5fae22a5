package vnet

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestTCPBytes moves bytes both ways at once, over both families, and compares
// hashes: nothing is lost, added or changed, and half-closes are passed on.
func TestTCPBytes(t *testing.T) {
	t.Parallel()
	for _, to := range []string{"93.184.216.34:80", "[2606:2800:220::34]:80"} {
		t.Run(to, func(t *testing.T) {
			t.Parallel()
			n := startNet(t, "allow egress public")
			up, down := randomBytes(8<<20, 1), randomBytes(8<<20, 2)
			got := make(chan [32]byte, 1)
			n.serve(to, func(c *net.TCPConn) {
				done := make(chan struct{})
				go func() { defer close(done); c.Write(down); c.CloseWrite() }()
				b, err := io.ReadAll(c)
				if err != nil {
					t.Error(err)
				}
				got <- sha256.Sum256(b)
				<-done
			})
			c := n.mustDial(to)
			go func() { c.Write(up); c.CloseWrite() }()
			b, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(b, down) {
				t.Errorf("from the host: %d bytes, equal %v, %v", len(b), bytes.Equal(b, down), err)
			}
			if <-got != sha256.Sum256(up) {
				t.Error("to the host: changed on the way")
			}
			if e := n.waitEvent("flow.close"); e.Flow.BytesOut != 8<<20 || e.Flow.BytesIn != 8<<20 || e.Flow.End != endFIN {
				t.Errorf("record: %d out, %d in, %s", e.Flow.BytesOut, e.Flow.BytesIn, e.Flow.End)
			}
		})
	}
}

// TestTCPHalfClose ends one direction and goes on in the other.
func TestTCPHalfClose(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public")
	n.serve("93.184.216.34:1", func(c *net.TCPConn) { // answers when the guest has ended
		b, _ := io.ReadAll(c)
		fmt.Fprintf(c, "got %s", b)
	})
	n.serve("93.184.216.34:2", func(c *net.TCPConn) { // ends first, and goes on reading
		c.Write([]byte("bye"))
		c.CloseWrite()
		b, _ := io.ReadAll(c)
		if string(b) != "still here" {
			t.Errorf("after its own end the host got %q", b)
		}
	})
	c := n.mustDial("93.184.216.34:1")
	c.Write([]byte("question"))
	c.CloseWrite()
	if b, err := io.ReadAll(c); string(b) != "got question" || err != nil {
		t.Errorf("after its own end the guest got %q, %v", b, err)
	}
	c = n.mustDial("93.184.216.34:2")
	if b, err := io.ReadAll(c); string(b) != "bye" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	c.Write([]byte("still here"))
	c.CloseWrite()
	n.eventually("both closed", func() bool { return n.count("flow.close") == 2 })
}

// TestTCPReset passes resets on, in both directions.
func TestTCPReset(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public")
	seen := make(chan error, 1)
	n.serve("93.184.216.34:1", func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 1))
		c.SetLinger(0)
	})
	n.serve("93.184.216.34:2", func(c *net.TCPConn) {
		_, err := io.ReadAll(c)
		seen <- err
	})
	c := n.mustDial("93.184.216.34:1")
	c.Write([]byte("x"))
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("the guest saw %v, want a reset", err)
	}
	c = n.mustDial("93.184.216.34:2")
	c.Write([]byte("x"))
	n.eventually("forwarded", func() bool { return n.tcpBytesOut() == 2 })
	n.guestStack.Close() // resets every connection of the guest's
	if err := <-seen; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the host saw %v, want a reset", err)
	}
}

// TestTCPHonest checks that the guest's connect gets what the host's got.
func TestTCPHonest(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public")
	n.lab.fail("93.184.216.34:1", syscall.ECONNREFUSED)
	n.lab.fail("93.184.216.34:2", syscall.EHOSTUNREACH)
	n.lab.fail("93.184.216.34:3", nil)
	n.lab.fail("[2606:2800:220::1]:2", syscall.ENETUNREACH)

	if _, err := n.dial("93.184.216.34:1"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("refused: the guest saw %v", err)
	}
	if e := n.waitEvent("flow.close"); e.Flow.End != endRefused {
		t.Errorf("refused: recorded as %q", e.Flow.End)
	}
	go n.dial("93.184.216.34:2")
	if m := <-n.icmpSeen; m[34] != icmpUnreachable || m[35] != 1 {
		t.Errorf("unreachable: the guest saw ICMP %d/%d", m[34], m[35])
	}
	go n.dial("[2606:2800:220::1]:2")
	if m := <-n.icmpSeen; m[54] != icmp6Unreachable || m[55] != 0 {
		t.Errorf("unreachable: the guest saw ICMPv6 %d/%d", m[54], m[55])
	}
	if _, err := n.dial("93.184.216.34:3"); err == nil || !strings.Contains(err.Error(), "timed out") && !strings.Contains(err.Error(), "deadline") {
		t.Errorf("silence: the guest saw %v", err)
	}
}

// TestTCPDeny checks what a denied guest sees, and that its repetitions are one
// event.
func TestTCPDeny(t *testing.T) {
	t.Parallel()
	for _, reject := range []bool{false, true} {
		t.Run(fmt.Sprint("reject=", reject), func(t *testing.T) {
			t.Parallel()
			n := startNet(t, "allow egress public tcp 443", func(c *Config) { c.Reject = reject })
			accepted := n.serve("93.184.216.34:80", func(*net.TCPConn) {})
			start := time.Now()
			_, err := n.dial("93.184.216.34:80")
			if refused := err != nil && strings.Contains(err.Error(), "refused"); refused != reject {
				t.Errorf("the guest saw %v after %v", err, time.Since(start))
			}
			e := n.waitEvent("flow.deny")
			if want := map[bool]string{true: "rst", false: "drop"}[reject]; e.Flow.Response != want {
				t.Errorf("recorded response %q, want %q", e.Flow.Response, want)
			}
			if k := n.count("flow.deny"); k != 1 {
				t.Errorf("%d events for one attempt", k)
			}
			if accepted.Load() != 0 {
				t.Error("the host was reached")
			}
		})
	}
}

// TestTCPLimits checks the bounds on flows at once.
func TestTCPLimits(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public", func(c *Config) { c.Limits.TCPFlows, c.Limits.HeldFlows = 2, 1 })
	n.serve("93.184.216.34:80", func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	n.lab.fail("93.184.216.34:99", nil)
	first := n.mustDial("93.184.216.34:80")
	n.eventually("established", func() bool { return n.Stats().HeldFlows == 0 })
	go n.dial("93.184.216.34:99")
	n.eventually("held", func() bool { return n.Stats().HeldFlows == 1 })
	if _, err := n.dial("93.184.216.34:80"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("over MaxConnections: %v", err)
	}
	if e := n.waitEvent("limit.hit"); e.Limit != "MaxConnections" {
		t.Errorf("recorded %q", e.Limit)
	}
	first.Close()
	n.eventually("closed", func() bool { return n.Stats().TCPFlows == 1 })
	if _, err := n.dial("93.184.216.34:80"); err == nil || strings.Contains(err.Error(), "refused") {
		t.Errorf("over HeldFlows: %v, want silence", err)
	}
}

// TestTCPGateway reaches the host's loopback through the gateway's address.
func TestTCPGateway(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress host", func(c *Config) { c.Dialer = nil })
	for _, network := range []string{"tcp4", "tcp6"} {
		l, err := net.Listen(network, map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"}[network])
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Write([]byte(network))
				c.Close()
			}
		}()
		// Whichever loopback the server is on, both gateways reach it.
		for _, gw := range []netip.Addr{n.block.Gateway4, n.block.Gateway6} {
			port := l.Addr().(*net.TCPAddr).AddrPort().Port()
			b, err := io.ReadAll(n.mustDial(netip.AddrPortFrom(gw, port).String()))
			if string(b) != network || err != nil {
				t.Errorf("%v to a server on %s: %q, %v", gw, network, b, err)
			}
		}
	}
}

// TestTCPNames decides flows by the names in their first bytes.
func TestTCPNames(t *testing.T) {
	t.Parallel()
	names := tableOfNames{
		netip.MustParseAddr("93.184.216.34"): {"good.example"},
		netip.MustParseAddr("93.184.216.35"): {"good.example", "bad.example"},
	}
	const allow = "allow egress good.example tcp 443"
	tests := []struct {
		name, rules, addr, sni string
		allowed, reached       bool // reached: the host may see a bare handshake
	}{
		{"allowed name at its address", allow, "93.184.216.34:443", "good.example", true, true},
		{"allowed name in capitals", allow, "93.184.216.34:443", "GOOD.example", true, true},
		{"foreign name at an allowed address", allow, "93.184.216.34:443", "evil.example", false, true},
		{"allowed name at a foreign address", allow, "93.184.216.99:443", "good.example", false, false},
		{"one address, two names, the allowed one", allow, "93.184.216.35:443", "good.example", true, true},
		{"one address, two names, the other one", allow, "93.184.216.35:443", "bad.example", false, false},
		{"denied name before public", "deny egress bad.example; allow egress public", "93.184.216.34:443", "bad.example", false, true},
		{"other name before public", "deny egress bad.example; allow egress public", "93.184.216.34:443", "fine.example", true, true},
		{"denied name, never resolved", "deny egress bad.example; allow egress public", "93.184.216.99:443", "bad.example", false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := startNet(t, tt.rules, func(c *Config) { c.Names = names })
			got := make(chan int64, 1)
			accepted := n.serve(tt.addr, func(c *net.TCPConn) {
				k, _ := io.Copy(io.Discard, c)
				got <- k
			})
			c, err := n.dial(tt.addr)
			if err == nil {
				defer c.Close()
				c.SetDeadline(time.Now().Add(500 * time.Millisecond))
				tls.Client(c, &tls.Config{ServerName: tt.sni}).Handshake() // nobody answers
				c.Close()
			}
			var k int64
			if accepted.Load() > 0 {
				k = <-got
			}
			if (k > 0) != tt.allowed {
				t.Errorf("the host got %d bytes", k)
			}
			if !tt.reached && accepted.Load() > 0 {
				t.Error("the host was dialled")
			}
			if !tt.allowed {
				n.waitEvent("flow.deny")
			}
		})
	}
}

// TestTCPServerFirst checks that a banner is not delayed by rules for names.
func TestTCPServerFirst(t *testing.T) {
	t.Parallel()
	n := startNet(t, "deny egress bad.example; allow egress public")
	n.serve("93.184.216.34:22", func(c *net.TCPConn) {
		c.Write([]byte("SSH-2.0-x\r\n"))
		io.Copy(io.Discard, c)
	})
	c := n.mustDial("93.184.216.34:22")
	c.SetDeadline(time.Now().Add(holdTimeout / 2))
	if b := make([]byte, 11); true {
		if _, err := io.ReadFull(c, b); err != nil {
			t.Errorf("no banner: %v", err)
		}
	}
}

// TestTCPRequests decides each request of a kept-alive connection by its own
// name.
func TestTCPRequests(t *testing.T) {
	t.Parallel()
	names := tableOfNames{netip.MustParseAddr("93.184.216.34"): {"good.example", "bad.example"}}
	n := startNet(t, "allow egress good.example tcp 80", func(c *Config) { c.Names = names })
	got := make(chan string, 1)
	n.serve("93.184.216.34:80", func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		got <- string(b)
	})
	c := n.mustDial("93.184.216.34:80")
	const first = "POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: 4\r\n\r\nbody"
	c.Write([]byte(first))
	n.eventually("first request", func() bool { return n.tcpBytesOut() == uint64(len(first)) })
	c.Write([]byte("GET / HTTP/1.1\r\nHost: bad.example\r\n\r\n"))
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("the guest saw %v, want a reset", err)
	}
	if s := <-got; s != first {
		t.Errorf("the host got %q", s)
	}
	if e := n.waitEvent("flow.deny"); e.Flow.Name != "bad.example" || e.Flow.NameFrom != "http" {
		t.Errorf("recorded %q from %q", e.Flow.Name, e.Flow.NameFrom)
	}
}

// TestSetPolicy cuts the flows that a new policy denies, and no others.
func TestSetPolicy(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public")
	echo := func(c *net.TCPConn) { io.Copy(c, c) }
	n.serve("93.184.216.34:80", echo)
	n.serve("93.184.216.34:81", echo)
	kept, cut := n.mustDial("93.184.216.34:80"), n.mustDial("93.184.216.34:81")
	n.SetPolicy(policyOf(t, "allow egress public tcp 80"))
	if _, err := cut.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("a denied flow saw %v", err)
	}
	kept.Write([]byte("x"))
	if _, err := io.ReadFull(kept, make([]byte, 1)); err != nil {
		t.Errorf("an allowed flow saw %v", err)
	}
	if e := n.waitEvent("flow.close"); e.Flow.End != endDenied {
		t.Errorf("recorded as %q", e.Flow.End)
	}
}

// TestSetPolicyAtHandshake denies flows in the moment in which their handshake
// ends: what the guest sees is a reset, never an end of stream.
func TestSetPolicyAtHandshake(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public")
	n.serve("93.184.216.34:80", func(c *net.TCPConn) { io.Copy(c, c) })
	allow, deny := policyOf(t, "allow egress public"), policyOf(t, "deny egress public")
	for range 200 {
		c := n.mustDial("93.184.216.34:80")
		n.SetPolicy(deny)
		if _, err := c.Read(make([]byte, 1)); !isReset(err) {
			t.Fatalf("the guest saw %v, want a reset", err)
		}
		c.Close()
		n.SetPolicy(allow)
	}
}

// TestCloseEndsFlows closes a network in the middle of its work.
func TestCloseEndsFlows(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public")
	ended := make(chan error, 1)
	n.serve("93.184.216.34:80", func(c *net.TCPConn) {
		_, err := io.Copy(io.Discard, c)
		ended <- err
	})
	n.lab.fail("93.184.216.34:99", nil)
	n.mustDial("93.184.216.34:80").Write([]byte("x"))
	go n.dial("93.184.216.34:99")
	n.eventually("both flows", func() bool { return n.Stats().TCPFlows == 2 })
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the host saw %v", err)
	}
	if s := n.Stats(); s.TCPFlows != 0 || s.HeldFlows != 0 {
		t.Errorf("left: %+v", s)
	}
	if err := n.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

// tableOfNames is a fixed table of names.
type tableOfNames map[netip.Addr][]string

func (m tableOfNames) AppendNames(dst []string, addr netip.Addr, _ time.Time) []string {
	return append(dst, m[addr]...)
}

func (m tableOfNames) Hold(netip.Addr, []string, time.Time) func(time.Time) {
	return func(time.Time) {}
}

func randomBytes(n int, seed uint64) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
	return b
}

// isReset reports whether a guest's error is a reset.
func isReset(err error) bool {
	return err != nil && strings.Contains(err.Error(), "reset")
}
