package vnet

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet/link"
)

// silentDNS is a DNS proxy that nobody asks.
type silentDNS struct{}

func (silentDNS) ServeDatagram([]byte, func([]byte)) {}
func (silentDNS) ServeConn(c net.Conn)               { c.Close() }

// TestOtherResolvers tells which lookups past the proxy are denied, by the kind
// of rules and the port.
func TestOtherResolvers(t *testing.T) {
	t.Parallel()
	const names, addrs = "allow egress a.example; allow egress *", "allow egress *"
	tests := []struct {
		name, rules string
		proxied     bool
		proto       policy.Protocol
		to          string
		denied      string
	}{
		{"DNS over TLS under rules for names", names, true, policy.TCP, "1.1.1.1:853", reasonDoT},
		{"DNS over TLS under rules for addresses", addrs, true, policy.TCP, "1.1.1.1:853", ""},
		{"DNS over TLS without a proxy", names, false, policy.TCP, "1.1.1.1:853", ""},
		{"DNS over QUIC", addrs, true, policy.UDP, "1.1.1.1:853", reasonOther},
		{"mDNS", addrs, true, policy.UDP, "1.1.1.1:5353", reasonOther},
		{"LLMNR", addrs, true, policy.UDP, "1.1.1.1:5355", reasonOther},
		{"NetBIOS", addrs, true, policy.UDP, "1.1.1.1:137", reasonOther},
		{"an odd port", addrs, true, policy.UDP, "1.1.1.1:5300", ""},
		{"another port of TCP", addrs, true, policy.TCP, "1.1.1.1:5353", ""},
	}
	for _, tt := range tests {
		r := &rules{policy: policyOf(t, tt.rules), host: &policy.Host{}, proxied: tt.proxied}
		f := policy.Flow{Direction: policy.Egress, Protocol: tt.proto, Peer: netip.MustParseAddrPort(tt.to)}
		v := r.decide(f, policy.Evidence{Stage: policy.StageNoName})
		if denied := v.Action != policy.Allow; denied != (tt.denied != "") || denied && v.Reason != tt.denied {
			t.Errorf("%s: %v, %q", tt.name, v.Action, v.Reason)
		}
	}
}

// TestDoTRefused resets a stub's connection at once, whatever the response to
// denials, so that it falls back.
func TestDoTRefused(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress a.example; allow egress public", func(c *Config) { c.DNS = silentDNS{} })
	accepted := n.serve("93.184.216.34:853", func(*net.TCPConn) {})
	if _, err := n.dial("93.184.216.34:853"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("the guest saw %v", err)
	}
	if e := n.waitEvent("flow.deny"); e.Flow.Response != "rst" || accepted.Load() != 0 {
		t.Errorf("recorded %+v", e.Flow)
	}
}

// TestDoTInspected has the inspector answer DNS over TLS whatever the rules: the
// server that the guest asked hears nothing.
func TestDoTInspected(t *testing.T) {
	t.Parallel()
	const to = "93.184.216.34:853"
	for _, rules := range []string{"allow egress a.example", "allow egress public"} {
		t.Run(rules, func(t *testing.T) {
			t.Parallel()
			inspector := &testInspector{serve: func(ctx context.Context, guest net.Conn, f *InspectedFlow) {
				if _, err := f.Dial(ctx); !errors.Is(err, fs.ErrPermission) {
					t.Errorf("dial: %v", err)
				}
				io.Copy(guest, guest)
			}}
			inspector.port.Store(dotPort)
			n := startNet(t, rules, func(c *Config) { c.DNS = silentDNS{} }, withInspector(inspector))
			accepted := n.serve(to, func(*net.TCPConn) {})
			c := n.mustDial(to)
			n.SetPolicy(policyOf(t, "allow egress b.example"))
			c.Write([]byte("ask"))
			answer := make([]byte, 3)
			if _, err := io.ReadFull(c, answer); err != nil || string(answer) != "ask" {
				t.Errorf("answered %q, %v", answer, err)
			}
			if s := n.Stats(); s.HeldFlows != 0 || accepted.Load() != 0 {
				t.Errorf("%d flows are held, %d reached the server", s.HeldFlows, accepted.Load())
			}
		})
	}
}

// heldNames is a table of names that counts what is held.
type heldNames struct {
	tableOfNames
	mu   sync.Mutex // guards the following field
	held map[netip.Addr]int
}

func (h *heldNames) Hold(addr netip.Addr, _ []string, _ time.Time) func(time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held[addr]++
	return func(time.Time) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.held[addr]--
	}
}

func (h *heldNames) count(addr string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.held[netip.MustParseAddr(addr)]
}

// TestNamesAreHeld keeps the names that decided a flow for as long as it is open.
func TestNamesAreHeld(t *testing.T) {
	t.Parallel()
	const addr = "93.184.216.34"
	names := &heldNames{tableOfNames: tableOfNames{netip.MustParseAddr(addr): {"a.example"}}, held: make(map[netip.Addr]int)}
	n := startNet(t, "allow egress a.example tcp,udp", func(c *Config) { c.Names = names })
	n.serve(addr+":80", func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	c := n.mustDial(addr + ":80")
	n.eventually("held", func() bool { return names.count(addr) == 1 })
	c.Write([]byte("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")) // decides again
	n.eventually("forwarded", func() bool { return n.tcpBytesOut() > 0 })
	if k := names.count(addr); k != 1 {
		t.Errorf("held %d times", k)
	}
	c.Close()
	n.eventually("released", func() bool { return names.count(addr) == 0 })
	if _, err := n.guest.link.WriteFrames([]link.Frame{udp(n.block.Guest4.String()+":9", addr+":9", "x")}); err != nil {
		t.Fatal(err)
	}
	n.eventually("held by UDP", func() bool { return names.count(addr) == 1 })
	n.Close()
	if k := names.count(addr); k != 0 {
		t.Errorf("%d left after Close", k)
	}
}
