package vnet

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/sluicenet/sluice/policy"
)

// TestInspectConnect has an inspector be the proxy that the guest sends a CONNECT
// to: the flow is about the target then, for the policy, the record, the dial and
// rules to come. Where the guest had gone nobody hears of it.
func TestInspectConnect(t *testing.T) {
	t.Parallel()
	const proxy = "93.184.216.50:3128"
	only, except := "allow egress good.example; allow egress 93.184.216.50", "deny egress bad.example; allow egress public"
	for _, tt := range []struct {
		name, rules, target, asked string
		verdict                    string // of the target: "allow", "deny" or "ask"
		shown                      string
		allowed                    bool // by what is shown
	}{
		{"name", only, "93.184.216.34:443", "good.example", "allow", "good.example", true},
		{"name, of another address", only, "93.184.216.99:443", "good.example", "deny", "", false},
		{"denied name", only, "93.184.216.34:443", "bad.example", "deny", "", false},
		{"name, then another", only, "93.184.216.34:443", "good.example", "allow", "bad.example", false},
		{"address", only, "93.184.216.34:443", "", "allow", "good.example", true},
		{"address, then a denied name", except, "93.184.216.34:443", "", "allow", "bad.example", false},
		{"address that needs a name", only, "93.184.216.35:443", "", "ask", "good.example", true},
		{"address that needs a name, a denied one", only, "93.184.216.35:443", "", "ask", "bad.example", false},
		{"denied address", only, "93.184.216.99:443", "", "deny", "", false},
		{"metadata", "allow egress public", "169.254.169.254:443", "", "deny", "", false},
		{"loopback", "allow egress *", "127.0.0.1:443", "", "deny", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target := netip.MustParseAddrPort(tt.target)
			done := make(chan struct{})
			i := &testInspector{
				serve: func(ctx context.Context, _ net.Conn, f *InspectedFlow) {
					defer close(done)
					got := "deny"
					switch v := f.Connect(target, tt.asked); {
					case v.Action == policy.Allow:
						got = "allow"
					case v.NeedsName:
						got = "ask"
					}
					if got != tt.verdict || f.Asked() != target {
						t.Errorf("the target %v: %s, want %s", f.Asked(), got, tt.verdict)
					}
					if got == "deny" {
						return
					}
					if allowed := f.Decide(tt.shown, "sni").Action == policy.Allow; allowed != tt.allowed {
						t.Errorf("%s inside: allowed: %t", tt.shown, allowed)
					}
					if host, err := f.Dial(ctx); err != nil {
						if tt.allowed {
							t.Error(err)
						}
					} else {
						host.Close()
					}
				}}
			i.port.Store(3128)
			n := startNet(t, tt.rules, func(c *Config) { c.Names = gateNames }, withInspector(i))
			n.serve(proxy, func(c *net.TCPConn) {
				if b, _ := io.ReadAll(c); len(b) > 0 {
					t.Errorf("the proxy heard %q", b)
				}
			})
			accepted := n.serve(tt.target, func(c *net.TCPConn) { io.Copy(io.Discard, c) })
			c := n.mustDial(proxy)
			<-done
			c.Close()
			if e := n.waitEvent("flow.close"); e.Flow.Dst != target || tt.allowed && e.Flow.Dialed != target {
				t.Errorf("recorded %+v", e.Flow)
			}
			if denied := n.count("flow.deny"); tt.allowed != (denied == 0) {
				t.Errorf("%d denials", denied)
			}
			if tt.verdict != "allow" && !tt.allowed && accepted.Load() > 0 {
				t.Error("a denied target was dialled")
			}
		})
	}
}

// TestInspectConnectReplace replaces the rules while a tunnel is open: those that
// deny the target cut it, others don't.
func TestInspectConnectReplace(t *testing.T) {
	t.Parallel()
	open := make(chan struct{})
	ended := make(chan struct{})
	i := &testInspector{serve: func(ctx context.Context, guest net.Conn, f *InspectedFlow) {
		f.Connect(netip.MustParseAddrPort("93.184.216.34:443"), "good.example")
		host, err := f.Dial(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		defer host.Close()
		close(open)
		io.Copy(io.Discard, host)
		close(ended)
	}}
	i.port.Store(3128)
	n := startNet(t, "allow egress public", func(c *Config) { c.Names = gateNames }, withInspector(i))
	n.serve("93.184.216.50:3128", func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	n.serve("93.184.216.34:443", func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	n.mustDial("93.184.216.50:3128")
	<-open
	n.SetPolicy(policyOf(t, "deny egress 93.184.216.50; allow egress good.example"))
	select {
	case <-ended:
		t.Error("rules that deny only the proxy's address cut the tunnel")
	default:
	}
	n.SetPolicy(policyOf(t, "deny egress good.example; allow egress public"))
	<-ended
	if e := n.waitEvent("flow.close"); e.Flow.End != endDenied {
		t.Errorf("the tunnel ends %q", e.Flow.End)
	}
}
