package vnet

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

const goodRequest = "GET / HTTP/1.1\r\nHost: good.example\r\n\r\n"

// gateNames are the names of the gate's tests: the first address has an allowed
// name and the second has two.
var gateNames = tableOfNames{
	netip.MustParseAddr("93.184.216.34"): {"good.example"},
	netip.MustParseAddr("93.184.216.35"): {"good.example", "bad.example"},
}

// gateRow is a first flight and what becomes of it.
type gateRow struct {
	name, rules, addr string
	flight            string
	close             bool   // the guest ends its side behind the flight
	want              string // what the host gets; "" and no handshake is "-"
	deny              string // the deciding rule's text or reason, "" if allowed
}

func gateRows(t testing.TB) []gateRow {
	const (
		only   = "allow egress good.example"
		except = "deny egress bad.example; allow egress public"
		proxy  = "allow egress good.example; allow egress 93.184.216.99 tcp 3128"
		at34   = "93.184.216.34:443"
		at35   = "93.184.216.35:443"
		at99   = "93.184.216.99:443"
		at3128 = "93.184.216.99:3128"
	)
	good, bad, none := string(helloOf(t, "good.example")), string(helloOf(t, "bad.example")), string(helloOf(t, ""))
	get := func(fields ...string) string { return "GET / HTTP/1.1\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n" }
	connect := func(target string) string { return "CONNECT " + target + " HTTP/1.1\r\n\r\n" }
	preface := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	h2 := func(hosts ...string) string {
		s := preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
		for i, h := range hosts {
			s += string(h2Headers(uint32(1+2*i), h))
		}
		return s
	}
	const byDefault, byDeny = "no rule matches", "deny egress bad.example"
	return []gateRow{
		{"name, allow D: N in P(A)", only, at34, good, false, good, ""},
		{"name, allow D: N not in P(A)", only, at34, bad, false, "", "*"},
		{"name, allow D: N at an address without names", only, at99, good, false, "-", "*"},
		{"name, deny D: N matches", except, at99, bad, false, "", byDeny},
		{"name, deny D: another N, in P(A)", except, at35, good, false, good, ""},
		{"name, deny D: another N, not in P(A), and D is", except, at35, string(helloOf(t, "other.example")), false, "-", byDeny},
		{"no name, allow D: every name allowed", only, at34, "\x00opaque", false, "\x00opaque", ""},
		{"no name, allow D: not every name allowed", only, at35, "\x00opaque", false, "", "*"},
		{"no name, deny D: a name matches", except, at35, "\x00opaque", false, "-", byDeny},
		{"no name, deny D: none matches", except, at34, "\x00opaque", false, "\x00opaque", ""},
		{"TLS without SNI", only, at34, none, false, none, ""},
		{"malformed hello", except, at34, "\x15\x03\x01\x00\x02\x01\x00", false, "", "*"},
		{"ends within its hello", except, at34, good[:60], true, "", "*"},
		{"ends within a word", except, at34, "GE", true, "GE", ""},

		{"HTTP", only, at34, goodRequest, false, goodRequest, ""},
		{"HTTP, denied", except, at34, get("Host: bad.example"), false, "", byDeny},
		{"HTTP, no Host", except, at34, get("X: y"), false, get("X: y"), ""},
		{"HTTP, Host is A", except, at34, get("Host: 93.184.216.34:443"), false, get("Host: 93.184.216.34:443"), ""},
		{"HTTP, Host is another address", except, at34, get("Host: 93.184.216.99"), false, "", "*"},
		{"HTTP, two Hosts", except, at34, get("Host: good.example", "Host: good.example"), false, "", "*"},
		{"HTTP, absolute form and Host differ", except, at34, "GET http://good.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n", false, "", "*"},
		{"HTTP, absolute form", only, at34, "GET http://good.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n", false, "GET http://good.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n", ""},
		{"HTTP, pipelined, end of stream", only, at34, goodRequest + goodRequest, true, goodRequest + goodRequest, ""},

		{"CONNECT, allowed address", proxy, at3128, connect("93.184.216.34:443") + good, false, connect("93.184.216.34:443") + good, ""},
		{"CONNECT, denied address", proxy, at3128, connect("93.184.216.99:443"), false, "", "*"},
		{"CONNECT, metadata", except, at99, connect("169.254.169.254:80"), false, "", byDefault},
		{"CONNECT, denied name", except, at99, connect("bad.example:443"), false, "", "the target of CONNECT is a name"},
		{"CONNECT, name", except, at99, connect("good.example:443"), false, "", "the target of CONNECT is a name"},

		{"HTTP/2, allowed", except, at34, h2("good.example", "other.example"), false, h2("good.example", "other.example"), ""},
		{"HTTP/2, allowed, nothing may pass before", only, at34, h2("good.example"), false, h2("good.example"), ""},
		{"HTTP/2, denied, nothing may pass before", only, at35, h2("bad.example"), false, "", "*"},
	}
}

// TestGateRows sends every first flight whole, in single bytes and cut at some
// places: the verdict and what the host gets is always the same.
func TestGateRows(t *testing.T) {
	t.Parallel()
	for _, row := range gateRows(t) {
		cuts := []int{0, 1, -1, 3, 7, 64}
		for _, size := range cuts {
			t.Run(fmt.Sprintf("%s/by %d", row.name, size), func(t *testing.T) {
				t.Parallel()
				checkGateRow(t, row, size)
			})
		}
	}
}

// checkGateRow sends the row's flight in pieces of a size; 0 is whole, -1 all
// but the last byte.
func checkGateRow(t *testing.T, row gateRow, size int) {
	switch size {
	case 0:
		size = len(row.flight)
	case -1:
		size = max(len(row.flight)-1, 1)
	}
	n := startNet(t, row.rules, func(c *Config) { c.Names, c.Reject = gateNames, true })
	got := make(chan []byte, 1)
	accepted := n.serve(row.addr, func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		got <- b
	})
	c, err := n.dial(row.addr)
	if err == nil {
		defer c.Close()
		for b := []byte(row.flight); len(b) > 0; b = b[min(size, len(b)):] {
			if _, err := c.Write(b[:min(size, len(b))]); err != nil {
				break
			}
		}
		if row.close {
			c.CloseWrite()
		}
	}
	if row.deny != "" {
		e := n.waitEvent("flow.deny")
		if row.deny != "*" && row.deny != e.Verdict.Text && row.deny != e.Verdict.Reason {
			t.Errorf("denied by %q, %q, want %q", e.Verdict.Text, e.Verdict.Reason, row.deny)
		}
		n.eventually("closed", func() bool { return n.Stats().TCPFlows == 0 })
	} else {
		n.eventually("forwarded", func() bool { return n.tcpBytesOut() == uint64(len(row.want)) })
		c.Close()
	}
	switch {
	case row.want == "-" && accepted.Load() > 0:
		t.Error("the host was dialled")
	case row.want == "-" || row.want == "" && accepted.Load() == 0:
	case !bytes.Equal(<-got, []byte(row.want)):
		t.Error("the host got something else")
	}
	if row.deny == "" && n.count("flow.deny") > 0 {
		t.Errorf("denied: %+v", n.waitEvent("flow.deny").Verdict)
	}
}

// TestGateCrumbs holds a long first flight of which every byte is a segment: they
// take far more memory than their bytes.
func TestGateCrumbs(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress good.example", func(c *Config) { c.Names, c.holdTimeout = gateNames, time.Minute }, throughStack)
	got := make(chan []byte, 1)
	n.serve("93.184.216.34:80", func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		got <- b
	})
	flight := "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 1500) + "\r\nHost: good.example\r\n\r\n"
	c := n.mustDial("93.184.216.34:80")
	for i := range len(flight) {
		c.Write([]byte(flight[i : i+1]))
		if i%4 == 0 { // what overtakes the growth of the queue has to be sent again
			n.eventually("arrived", func() bool { return n.waitingBytes() == i+1 || i == len(flight)-1 })
		}
	}
	c.CloseWrite()
	if b := <-got; string(b) != flight {
		t.Errorf("the host got %d bytes of %d", len(b), len(flight))
	}
}

// TestGateTunnel decides what goes through a tunnel by the tunnel's target.
func TestGateTunnel(t *testing.T) {
	t.Parallel()
	const rules = "allow egress good.example; allow egress 93.184.216.99 tcp 3128"
	n := startNet(t, rules, func(c *Config) { c.Names = gateNames })
	n.serve("93.184.216.99:3128", func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, len("CONNECT 93.184.216.34:443 HTTP/1.1\r\n\r\n")))
		c.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
		io.Copy(io.Discard, c)
	})
	for _, tt := range []struct {
		name    string
		allowed bool
	}{{"good.example", true}, {"evil.example", false}} {
		c := n.mustDial("93.184.216.99:3128")
		c.Write([]byte("CONNECT 93.184.216.34:443 HTTP/1.1\r\n\r\n"))
		io.ReadFull(c, make([]byte, 19))
		c.Write(helloOf(t, tt.name))
		c.SetReadDeadline(time.Now().Add(time.Second / 2))
		if _, err := c.Read(make([]byte, 1)); isReset(err) == tt.allowed {
			t.Errorf("%s: the guest saw %v", tt.name, err)
		}
		c.Close()
	}
	if e := n.waitEvent("flow.deny"); e.Flow.Dst != netip.MustParseAddrPort("93.184.216.34:443") || e.Flow.Name != "evil.example" {
		t.Errorf("recorded %+v", e.Flow)
	}
}

// TestGateTunnelReplaced cuts a tunnel whose target a new policy denies.
func TestGateTunnelReplaced(t *testing.T) {
	t.Parallel()
	n := startNet(t, "deny egress bad.example; allow egress public")
	n.serve("93.184.216.99:3128", func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	c := n.mustDial("93.184.216.99:3128")
	c.Write([]byte("CONNECT 93.184.216.34:22 HTTP/1.1\r\n\r\nSSH-2.0-x\r\n"))
	n.eventually("forwarded", func() bool { return n.tcpBytesOut() > 40 })
	n.SetPolicy(policyOf(t, "deny egress bad.example; deny egress 93.184.216.34; allow egress public"))
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("the guest saw %v, want a reset", err)
	}
}

// TestGateTimeout gives up flights that don't end, and flows that keep silent
// where only a name could open them; not those that may be silent.
func TestGateTimeout(t *testing.T) {
	t.Parallel()
	const only, except = "allow egress good.example", "deny egress bad.example; allow egress public"
	tests := []struct {
		name, rules, flight string
		denied              bool
	}{
		{"half a hello, allow list", only, "\x16\x03\x01", true},
		{"half a hello, deny list", except, "\x16\x03\x01", true},
		{"half a head", except, "GET / HTTP/1.1\r\nHost: ", true},
		{"half a preface", except, "PRI * HTTP/2.0\r\n", true},
		{"preface without a request, allow list", only, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", true},
		{"preface without a request, deny list", except, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false},
		{"silence, allow list", only, "", true},
		{"silence, deny list", except, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			names := tableOfNames{netip.MustParseAddr("93.184.216.34"): {"good.example", "other.example"}}
			n := startNet(t, tt.rules, func(c *Config) { c.Names, c.holdTimeout = names, 100*time.Millisecond })
			n.serve("93.184.216.34:443", func(c *net.TCPConn) { io.Copy(io.Discard, c) })
			c := n.mustDial("93.184.216.34:443")
			start := time.Now()
			c.Write([]byte(tt.flight))
			c.SetReadDeadline(start.Add(map[bool]time.Duration{true: patience, false: time.Second}[tt.denied]))
			_, err := c.Read(make([]byte, 1))
			if isReset(err) != tt.denied || tt.denied && time.Since(start) < 90*time.Millisecond {
				t.Errorf("the guest saw %v after %v", err, time.Since(start))
			}
			if got := n.count("flow.deny"); got != map[bool]int{true: 1}[tt.denied] {
				t.Errorf("%d denials recorded", got)
			}
		})
	}
}

// TestGateGuestLeaves ends and resets flows that wait for their names.
func TestGateGuestLeaves(t *testing.T) {
	t.Parallel()
	names := tableOfNames{netip.MustParseAddr("93.184.216.34"): {"good.example", "other.example"}}
	tests := []struct {
		name  string
		leave func(n *testNet, c interface{ CloseWrite() error })
		end   string
	}{
		{"end of stream", func(_ *testNet, c interface{ CloseWrite() error }) { c.CloseWrite() }, endDenied},
		{"reset", func(n *testNet, _ interface{ CloseWrite() error }) { n.guestStack.Close() }, endReset},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := startNet(t, "allow egress good.example", func(c *Config) { c.Names = names })
			c := n.mustDial("93.184.216.34:443")
			tt.leave(n, c)
			if e := n.waitEvent("flow.close"); e.Flow.End != tt.end {
				t.Errorf("recorded as %q, want %q", e.Flow.End, tt.end)
			}
			if got := n.count("flow.deny"); got != map[bool]int{true: 1}[tt.end == endDenied] {
				t.Errorf("%d denials", got)
			}
		})
	}
}

// TestGateLongPipeline sends more requests at once than the gate looks at, the
// end of stream right behind them, also when the host has ended before.
func TestGateLongPipeline(t *testing.T) {
	t.Parallel()
	for _, hostFirst := range []bool{false, true} {
		t.Run(fmt.Sprint("host ends first: ", hostFirst), func(t *testing.T) {
			t.Parallel()
			n := startNet(t, "allow egress good.example", func(c *Config) { c.Names = gateNames })
			got := make(chan []byte, 1)
			start := make(chan struct{})
			n.serve("93.184.216.34:80", func(c *net.TCPConn) {
				if hostFirst {
					c.CloseWrite()
				}
				<-start
				b, _ := io.ReadAll(c)
				got <- b
			})
			c := n.mustDial("93.184.216.34:80")
			c.Write([]byte(goodRequest))
			n.eventually("first request", func() bool { return n.tcpBytesOut() == uint64(len(goodRequest)) })
			// A body that the host doesn't take yet keeps the rest in the queue.
			body := "POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: 8000000\r\n\r\n" + strings.Repeat("x", 8000000)
			rest := body + strings.Repeat(goodRequest, 10_000)
			go func() { c.Write([]byte(rest)); c.CloseWrite() }()
			time.Sleep(100 * time.Millisecond)
			close(start)
			if b := <-got; string(b) != goodRequest+rest {
				t.Errorf("the host got %d bytes of %d", len(b), len(goodRequest)+len(rest))
			}
			n.eventually("closed", func() bool { return n.count("flow.close") == 1 || !hostFirst })
		})
	}
}

// TestGatePartOfHeadThenEnd ends a connection in the middle of a later head, when
// the host has ended before: nothing is left to wait for.
func TestGatePartOfHeadThenEnd(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress good.example", func(c *Config) { c.Names = gateNames })
	n.serve("93.184.216.34:80", func(c *net.TCPConn) { c.CloseWrite(); io.Copy(io.Discard, c) })
	c := n.mustDial("93.184.216.34:80")
	c.Write([]byte(goodRequest))
	io.ReadAll(c)
	c.Write([]byte("GET / HTT"))
	c.CloseWrite()
	if e := n.waitEvent("flow.close"); e.Flow.End != endDenied {
		t.Errorf("recorded as %q", e.Flow.End)
	}
}
