package vnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/policy"
)

// testInspector serves port 443, and plain HTTP if http is set, with serve.
type testInspector struct {
	http   bool
	all    bool         // whatever the rules
	port   atomic.Int32 // another one
	served atomic.Int32
	serve  func(ctx context.Context, guest net.Conn, f *InspectedFlow)
}

func (i *testInspector) Inspects(port uint16) bool {
	return port == 443 || int32(port) == i.port.Load()
}
func (i *testInspector) InspectsHTTP() bool    { return i.http }
func (i *testInspector) InspectsAllHTTP() bool { return i.all }

func (i *testInspector) Serve(ctx context.Context, guest net.Conn, f *InspectedFlow) {
	i.served.Add(1)
	defer guest.Close()
	i.serve(ctx, guest, f)
}

// forward decides by name and copies both ways, as a proxy does that changes
// nothing.
func forward(name, from string) func(context.Context, net.Conn, *InspectedFlow) {
	return func(ctx context.Context, guest net.Conn, f *InspectedFlow) {
		if f.Decide(name, from).Action != policy.Allow {
			f.Reset()
			return
		}
		host, err := f.Dial(ctx)
		if err != nil {
			f.Reset()
			return
		}
		defer host.Close()
		var out sync.WaitGroup
		out.Go(func() { io.Copy(host, guest); closeWrite(host) })
		io.Copy(guest, host)
		closeWrite(guest)
		out.Wait()
	}
}

// withInspector is a change of a test's Config.
func withInspector(i Inspector) func(*Config) { return func(c *Config) { c.Inspector = i } }

// TestInspectBytes passes bytes both ways through an inspector: all arrive, and
// are in the flow's record.
func TestInspectBytes(t *testing.T) {
	t.Parallel()
	for _, to := range []string{"93.184.216.34:443", "[2606:2800:220::34]:443"} {
		t.Run(to, func(t *testing.T) {
			t.Parallel()
			asked := netip.MustParseAddrPort(to)
			copies := forward("good.example", "sni")
			n := startNet(t, "allow egress public", withInspector(&testInspector{serve: func(ctx context.Context, guest net.Conn, f *InspectedFlow) {
				if f.Asked() != asked || guest.LocalAddr().String() != to || f.Source().String() != guest.RemoteAddr().String() {
					t.Errorf("asked %v from %v", f.Asked(), f.Source())
				}
				copies(ctx, guest, f)
			}}))
			up, down := randomBytes(3<<20, 1), randomBytes(2<<20, 2)
			got := make(chan []byte, 1)
			accepted := n.serve(to, func(c *net.TCPConn) {
				b, _ := io.ReadAll(c)
				got <- b
				c.Write(down)
			})
			c := n.mustDial(to)
			c.Write(up)
			c.CloseWrite()
			if b, err := io.ReadAll(c); !bytes.Equal(b, down) || err != nil {
				t.Errorf("the guest got %d bytes, changed or not all; %v", len(b), err)
			}
			if !bytes.Equal(<-got, up) {
				t.Error("the host got something else")
			}
			e := n.waitEvent("flow.close")
			if e.Flow.BytesOut != 3<<20 || e.Flow.BytesIn != 2<<20 || e.Flow.End != endFIN || e.Flow.Name != "good.example" || e.Flow.NameFrom != "sni" {
				t.Errorf("recorded %+v", e.Flow)
			}
			if accepted.Load() != 1 {
				t.Errorf("dialled %d times", accepted.Load())
			}
		})
	}
}

// TestInspectDecide serves flows by what their names and addresses decide, and
// tells of each denial once.
func TestInspectDecide(t *testing.T) {
	t.Parallel()
	const only, except = "allow egress good.example", "deny egress bad.example; allow egress public"
	tests := []struct {
		name, rules, addr, shown string
		dialled                  int32 // before anything is decided by a name
		allowed                  bool
	}{
		{"by name", only, "93.184.216.34:443", "good.example", 1, true},
		{"by name, upper case", only, "93.184.216.34:443", "Good.Example.", 1, true},
		{"by name, before the dial", only, "93.184.216.35:443", "good.example", 0, true},
		{"another name", only, "93.184.216.34:443", "bad.example", 1, false},
		{"another name, before the dial", only, "93.184.216.35:443", "bad.example", 0, false},
		{"no name, all are allowed", only, "93.184.216.34:443", "", 1, true},
		{"no name, one is not", only, "93.184.216.35:443", "", 0, false},
		{"deny list", except, "93.184.216.34:443", "bad.example", 1, false},
		{"deny list, another name", except, "93.184.216.34:443", "good.example", 1, true},
		{"malformed name", except, "93.184.216.34:443", "a b", 1, false},
		{"no names in the rules", "allow egress public", "93.184.216.99:443", "any.example", 1, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			allowed := make(chan bool, 1)
			n := startNet(t, tt.rules, func(c *Config) { c.Names = gateNames }, withInspector(&testInspector{
				serve: func(ctx context.Context, guest net.Conn, f *InspectedFlow) {
					io.ReadFull(guest, make([]byte, 1))
					first := f.Decide(tt.shown, "sni")
					if again := f.Decide(tt.shown, "sni"); again != first {
						t.Errorf("decided again: %+v", again)
					}
					host, err := f.Dial(ctx)
					if errors.Is(err, fs.ErrPermission) == (first.Action == policy.Allow) {
						t.Errorf("dial: %v", err)
					}
					if err == nil {
						host.Close()
					}
					allowed <- first.Action == policy.Allow
				}}))
			accepted := n.serve(tt.addr, func(c *net.TCPConn) { io.Copy(io.Discard, c) })
			c := n.mustDial(tt.addr)
			n.eventually("dialled", func() bool { return accepted.Load() == tt.dialled })
			c.Write([]byte("x"))
			if <-allowed != tt.allowed {
				t.Errorf("allowed: %t, want %t", !tt.allowed, tt.allowed)
			}
			c.Close()
			n.waitEvent("flow.close")
			denials := map[bool]int{false: 1}[tt.allowed]
			if n.count("flow.deny") != denials {
				t.Errorf("%d denials recorded, want %d", n.count("flow.deny"), denials)
			}
			if opened := n.count("flow.open"); tt.allowed && (opened != 1 || n.waitEvent("flow.open").Verdict.Action != policy.Allow) {
				t.Errorf("opened %d times", opened)
			}
			if !tt.allowed && accepted.Load() != tt.dialled {
				t.Error("the host was dialled")
			}
		})
	}
}

// TestInspectRequests decides several names on one connection: a denial leaves
// the record to the others, and a name that new rules deny cuts all.
func TestInspectRequests(t *testing.T) {
	t.Parallel()
	decided := make(chan policy.Action, 8)
	n := startNet(t, "deny egress bad.example; allow egress public", withInspector(&testInspector{
		serve: func(ctx context.Context, guest net.Conn, f *InspectedFlow) {
			for _, name := range []string{"one.example", "bad.example", "bad.example", "two.example"} {
				decided <- f.Decide(name, "http").Action
			}
			<-ctx.Done()
			if _, err := guest.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("behind the cut: %v", err)
			}
			if _, err := f.Dial(context.Background()); !errors.Is(err, net.ErrClosed) && !errors.Is(err, fs.ErrPermission) {
				t.Errorf("dial behind the cut: %v", err)
			}
		}}))
	n.serve("93.184.216.34:443", func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	c := n.mustDial("93.184.216.34:443")
	for i, want := range []policy.Action{policy.Allow, policy.Deny, policy.Deny, policy.Allow} {
		if got := <-decided; got != want {
			t.Errorf("request %d: %v", i, got)
		}
	}
	if n.count("flow.deny") != 1 {
		t.Errorf("%d denials", n.count("flow.deny"))
	}
	if flows := n.Flows(); len(flows) != 1 || flows[0].Name != "two.example" {
		t.Errorf("flows %+v", flows)
	}
	n.SetPolicy(policyOf(t, "deny egress one.example; allow egress public"))
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("the guest saw %v, want a reset", err)
	}
	if e := n.waitEvent("flow.close"); e.Flow.End != endDenied || e.Verdict.Text != "deny egress one.example" {
		t.Errorf("recorded %q by %q", e.Flow.End, e.Verdict.Text)
	}
}

// TestInspectHonest has a connect to an inspected port fail as the host's does,
// where the host may be dialled first; Dial tells the inspector the same.
func TestInspectHonest(t *testing.T) {
	t.Parallel()
	i := &testInspector{serve: func(ctx context.Context, guest net.Conn, f *InspectedFlow) {
		f.Decide("good.example", "sni")
		if _, err := f.Dial(ctx); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial: %v", err)
		}
		f.Reset()
	}}
	n := startNet(t, "allow egress good.example; allow egress 93.184.216.99", func(c *Config) { c.Names = gateNames }, withInspector(i))
	n.lab.fail("93.184.216.99:443", syscall.ECONNREFUSED)
	n.lab.fail("93.184.216.35:443", syscall.ECONNREFUSED)
	if _, err := n.dial("93.184.216.99:443"); err == nil {
		t.Error("connected, want refused")
	}
	if i.served.Load() != 0 {
		t.Error("a refused flow was served")
	}
	c, err := n.dialWithin("93.184.216.35:443", patience) // its name must come first
	if err == nil {                                       // the reset may come before connect returns
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
	}
	if !isReset(err) {
		t.Errorf("the guest saw %v, want a reset", err)
	}
}

// TestInspectReplace cuts flows of an inspector's that new rules deny, or that it
// would not have served before, with all that it has dialled.
func TestInspectReplace(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"denied", "port"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			i := &testInspector{serve: forward("good.example", "sni")}
			i.port.Store(80)
			n := startNet(t, "allow egress public", withInspector(i))
			gone := make(chan error, 1)
			n.serve("93.184.216.34:80", func(c *net.TCPConn) {
				c.Write([]byte("hi"))
				_, err := io.Copy(io.Discard, c)
				gone <- err
			})
			c := n.mustDial("93.184.216.34:80")
			io.ReadFull(c, make([]byte, 2))
			rules := "allow egress public"
			if how == "denied" {
				rules = "deny egress good.example; allow egress public"
			} else {
				i.port.Store(0)
			}
			n.SetPolicy(policyOf(t, rules))
			if err := <-gone; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the host saw %v, want a reset", err)
			}
			if _, err := c.Read(make([]byte, 1)); !isReset(err) {
				t.Errorf("the guest saw %v, want a reset", err)
			}
			n.eventually("closed", func() bool { return n.Stats().TCPFlows == 0 })
		})
	}
}

// TestInspectLimits counts an inspector's flows with the others, and holds those
// whose name has not come.
func TestInspectLimits(t *testing.T) {
	t.Parallel()
	decide := make(chan struct{})
	n := startNet(t, "allow egress good.example", func(c *Config) {
		c.Names, c.Limits.TCPFlows, c.Limits.HeldFlows = gateNames, 2, 1
	}, withInspector(&testInspector{serve: func(_ context.Context, guest net.Conn, f *InspectedFlow) {
		<-decide
		f.Decide("good.example", "sni")
		io.Copy(io.Discard, guest)
	}}))
	n.mustDial("93.184.216.35:443")
	n.eventually("held", func() bool { return n.Stats().HeldFlows == 1 })
	if _, err := n.dial("93.184.216.35:443"); err == nil {
		t.Error("more flows are held than may be")
	}
	close(decide)
	n.eventually("decided", func() bool { return n.Stats().HeldFlows == 0 })
	n.mustDial("93.184.216.35:443")
	if _, err := n.dial("93.184.216.35:443"); err == nil {
		t.Error("more flows than there may be")
	}
}

// TestInspectEnds records how flows end that an inspector serves.
func TestInspectEnds(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		serve func(ctx context.Context, guest net.Conn, f *InspectedFlow)
		guest func(n *testNet, c io.Reader)
		end   string
		reset bool // what the guest sees
	}{
		{"closed", func(_ context.Context, guest net.Conn, f *InspectedFlow) {
			io.ReadFull(guest, make([]byte, 1)) // or the close would be a reset
			guest.Write([]byte("bye"))
		}, nil, endFIN, false},
		{"reset", func(_ context.Context, guest net.Conn, f *InspectedFlow) {
			io.ReadFull(guest, make([]byte, 1))
			f.Reset()
		}, nil, endReset, true},
		{"denied", func(_ context.Context, guest net.Conn, f *InspectedFlow) {
			io.ReadFull(guest, make([]byte, 1))
			f.Decide("bad.example", "sni")
			guest.Write([]byte("421"))
		}, nil, endDenied, false},
		{"by the guest", func(ctx context.Context, guest net.Conn, f *InspectedFlow) {
			if _, err := io.Copy(io.Discard, guest); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read: %v", err)
			}
			<-ctx.Done()
		}, func(n *testNet, _ io.Reader) { n.guestStack.Close() }, endReset, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			closed := make(chan error, 1)
			n := startNet(t, "deny egress bad.example; allow egress public", withInspector(&testInspector{
				serve: func(ctx context.Context, guest net.Conn, f *InspectedFlow) {
					tt.serve(ctx, guest, f)
					guest.Close()
					_, err := guest.Write([]byte("x"))
					closed <- err
				}}))
			n.serve("93.184.216.34:443", func(c *net.TCPConn) { io.Copy(io.Discard, c) })
			c := n.mustDial("93.184.216.34:443")
			c.Write([]byte("x"))
			if tt.guest != nil {
				n.eventually("open", func() bool { return n.Stats().HeldFlows == 0 })
				tt.guest(n, c)
			}
			if _, err := io.ReadAll(c); isReset(err) != tt.reset && tt.guest == nil {
				t.Errorf("the guest saw %v", err)
			}
			c.Close()
			if err := <-closed; !errors.Is(err, net.ErrClosed) {
				t.Errorf("write behind the close: %v", err)
			}
			if e := n.waitEvent("flow.close"); e.Flow.End != tt.end {
				t.Errorf("recorded as %q, want %q", e.Flow.End, tt.end)
			}
		})
	}
}

// TestInspectHTTP hands plain HTTP over where rules speak of names, or where all of
// it is wanted: from its first byte, undecided, whichever port and size of segments.
func TestInspectHTTP(t *testing.T) {
	t.Parallel()
	const only, except, all = "allow egress good.example", "deny egress bad.example; allow egress public", "allow egress public"
	tests := []struct {
		name, rules, addr, flight string
		all, handed               bool
	}{
		{"name first", only, "93.184.216.35:8080", goodRequest, false, true},
		{"dialled first", except, "93.184.216.34:80", goodRequest, false, true},
		{"denied", except, "93.184.216.34:80", "GET / HTTP/1.1\r\nHost: bad.example\r\n\r\n", false, true},
		{"HTTP/2", except, "93.184.216.34:80", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false, true},
		{"CONNECT", except, "93.184.216.34:80", "CONNECT good.example:443 HTTP/1.1\r\n\r\n", false, true},
		{"no rule speaks of names", all, "93.184.216.34:80", goodRequest, false, false},
		{"opaque", except, "93.184.216.34:80", "\x00\x01\x02", false, false},
		{"all, name first", only, "93.184.216.35:8080", goodRequest, true, true},
		{"all, dialled first", except, "93.184.216.34:80", goodRequest, true, true},
		{"all, no rule speaks of names", all, "93.184.216.34:8080", goodRequest, true, true},
		{"all, blanks first", all, "93.184.216.34:80", "\r\n" + goodRequest, true, true},
		{"all, HTTP/2", all, "93.184.216.34:80", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", true, true},
		{"all, CONNECT", all, "93.184.216.34:80", "CONNECT good.example:443 HTTP/1.1\r\n\r\n", true, true},
		{"all, opaque", all, "93.184.216.34:80", "\x00\x01\x02", true, false},
		{"all, another text", all, "93.184.216.34:80", "EHLO me\r\nMAIL FROM:<x@y>\r\n", true, false},
		{"all, half a request", all, "93.184.216.34:80", "GET / HT", true, false},
		{"all, TLS", all, "93.184.216.34:80", string(helloOf(t, "good.example")), true, false},
	}
	for _, tt := range tests {
		for _, size := range []int{len(tt.flight), 3} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				got := make(chan string, 1)
				i := &testInspector{http: true, all: tt.all, serve: func(ctx context.Context, guest net.Conn, f *InspectedFlow) {
					b := make([]byte, len(tt.flight))
					io.ReadFull(guest, b)
					got <- string(b)
					if f.Decide("good.example", "http").Action != policy.Allow {
						return
					}
					host, err := f.Dial(ctx)
					if err != nil {
						t.Error(err)
						return
					}
					defer host.Close()
					io.WriteString(host, "from the inspector")
				}}
				n := startNet(t, tt.rules, func(c *Config) { c.Names = gateNames }, withInspector(i))
				heard := make(chan string, 1)
				n.serve(tt.addr, func(c *net.TCPConn) {
					b, _ := io.ReadAll(c)
					heard <- string(b)
				})
				c := n.mustDial(tt.addr)
				for b := []byte(tt.flight); len(b) > 0; b = b[min(size, len(b)):] {
					c.Write(b[:min(size, len(b))])
				}
				c.CloseWrite()
				want := tt.flight
				if tt.handed {
					want = "from the inspector"
					if b := <-got; b != tt.flight {
						t.Errorf("the inspector got %q", b)
					}
				}
				if b := <-heard; b != want {
					t.Errorf("the host got %q, want %q", b, want)
				}
				if tt.handed != (i.served.Load() == 1) {
					t.Errorf("served %d times", i.served.Load())
				}
			})
		}
	}
}

// TestInspectHTTPHostFirst doesn't hand over a flow whose host has spoken first:
// bytes are on their way to the guest. Its requests are decided all the same.
func TestInspectHTTPHostFirst(t *testing.T) {
	t.Parallel()
	i := &testInspector{http: true, serve: func(context.Context, net.Conn, *InspectedFlow) {}}
	n := startNet(t, "deny egress bad.example; allow egress public", withInspector(i))
	n.serve("93.184.216.34:80", func(c *net.TCPConn) {
		c.Write([]byte("banner"))
		b := make([]byte, len(goodRequest))
		io.ReadFull(c, b)
		c.Write(b)
		io.Copy(io.Discard, c)
	})
	c := n.mustDial("93.184.216.34:80")
	io.ReadFull(c, make([]byte, 6))
	io.WriteString(c, goodRequest)
	b := make([]byte, len(goodRequest))
	if _, err := io.ReadFull(c, b); string(b) != goodRequest || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: bad.example\r\n\r\n")
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("the guest saw %v, want a reset", err)
	}
	if i.served.Load() != 0 {
		t.Error("handed over")
	}
}

// TestFlows lists flows of every kind while they are there.
func TestFlows(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public")
	n.serve("93.184.216.34:80", func(c *net.TCPConn) { io.Copy(c, c) })
	c := n.mustDial("93.184.216.34:80")
	c.Write([]byte("hello"))
	io.ReadFull(c, make([]byte, 5))
	n.eventually("counted", func() bool { return n.tcpBytesOut() == 5 })
	flows := n.Flows()
	if len(flows) != 1 || flows[0].BytesOut != 5 || flows[0].BytesIn != 5 || flows[0].Duration <= 0 || flows[0].Dst.String() != "93.184.216.34:80" {
		t.Errorf("flows %+v", flows)
	}
	c.Close()
	n.eventually("none", func() bool { return len(n.Flows()) == 0 })
}
