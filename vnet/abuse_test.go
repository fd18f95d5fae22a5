package vnet

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicenet/sluice/policy"
)

// TestCloseAnywhere closes networks at random moments of a busy life. TestMain
// looks for what is left.
func TestCloseAnywhere(t *testing.T) {
	t.Parallel()
	names := tableOfNames{netip.MustParseAddr("93.184.216.34"): {"good.example", "other.example"}}
	rounds := 40
	if testing.Short() {
		rounds = 10
	}
	for i := range rounds {
		n := startNet(t, "allow egress good.example; allow egress public; allow ingress host", func(c *Config) { c.Names = names })
		n.serve("93.184.216.34:80", func(c *net.TCPConn) { c.Write(make([]byte, 100_000)); io.Copy(io.Discard, c) })
		n.lab.fail("93.184.216.34:99", nil)
		n.listen(netip.AddrPortFrom(n.block.Guest4, 80), func(c net.Conn) { io.Copy(c, c) })
		var work sync.WaitGroup
		stop := make(chan struct{})
		loop := func(f func()) {
			work.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						f()
					}
				}
			})
		}
		loop(func() {
			if c, err := n.dial("93.184.216.34:80"); err == nil {
				c.Write([]byte("GET / HTTP/1.1\r\nHost: good.example\r\n\r\n"))
				c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				io.CopyN(io.Discard, c, rand.Int64N(100_000))
				c.Close()
			}
		})
		loop(func() {
			n.SetPolicy(policyOf(t, []string{"allow egress public", "allow egress good.example"}[rand.IntN(2)]))
		})
		loop(func() {
			b, err := n.Publish(Binding{Protocol: policy.TCP, Host: netip.MustParseAddrPort("127.0.0.1:0"), GuestPort: 80})
			if err != nil {
				return
			}
			if c, err := net.Dial("tcp", b.Host.String()); err == nil {
				c.Write([]byte("x"))
				c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				c.Read(make([]byte, 1))
				defer c.Close()
			}
			n.Unpublish(policy.TCP, b.Host)
		})
		n.write(tcpSegment(fmt.Sprintf("%s:%d", guest4, 2000+i), "93.184.216.34:99", "S"))
		time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
		start := time.Now()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d > patience/4 {
			t.Errorf("Close took %v", d)
		}
		n.guestStack.Close() // what the guest's side still waits for
		close(stop)
		work.Wait()
		if s := n.Stats(); s.TCPFlows != 0 || s.HeldFlows != 0 {
			t.Errorf("left: %+v", s)
		}
	}
}

// TestFlood sends many SYNs, from many ports, to addresses of every kind. What it
// costs is bounded, and afterwards the network works as before. No other test runs
// beside it: goroutines are counted.
func TestFlood(t *testing.T) {
	const syns = 3000
	for _, family := range []struct{ guest, dst string }{{guest4 + ":%d", "93.184.%d.%d:80"}, {"[" + guest6 + "]:%d", "[2606:2800:220::%d:%d]:80"}} {
		for _, kind := range []string{"denied", "blackholed", "allowed"} {
			t.Run(kind+" "+strings.Trim(family.guest, ":%d"), func(t *testing.T) {
				rules := map[string]string{"denied": "allow egress public tcp 443"}[kind]
				if rules == "" {
					rules = "allow egress public"
				}
				n := startNet(t, rules, func(c *Config) { c.Limits.HeldFlows = 64; c.Limits.TCPFlows = 128 })
				n.serve("93.184.216.34:443", func(c *net.TCPConn) { io.Copy(io.Discard, c) })
				n.serve("93.184.0.0:80", func(c *net.TCPConn) { io.Copy(io.Discard, c) })
				if kind == "allowed" {
					n.lab.addAll("93.184.0.0:80")
				}
				n.deaf.Store(true)
				before, most := runtime.NumGoroutine(), 0
				for i := range syns {
					n.write(tcpSegment(fmt.Sprintf(family.guest, 1024+i%60000), fmt.Sprintf(family.dst, i>>8&0xff, i&0xff), "S"))
					if i%1000 == 0 {
						most = max(most, runtime.NumGoroutine())
					}
				}
				n.eventually("all read", func() bool { return n.Stats().FramesFromGuest+n.guest.link.Dropped() >= syns })
				s := n.Stats()
				if s.HeldFlows > 64 || s.TCPFlows > 128 || most-before > 1000 {
					t.Errorf("%d held, %d flows, %d goroutines more", s.HeldFlows, s.TCPFlows, most-before)
				}
				n.deaf.Store(false)
				n.SetPolicy(policyOf(t, "deny egress 203.0.113.1")) // cuts all
				n.eventually("all cut", func() bool { return n.Stats().TCPFlows == 0 })
				n.SetPolicy(policyOf(t, "allow egress public"))
				n.mustDial("93.184.216.34:443") // the next flow
			})
		}
	}
}

// TestMaxConnectionsExact opens flows from many goroutines at once: never more
// than the limit are there, and in the end none.
func TestMaxConnectionsExact(t *testing.T) {
	t.Parallel()
	const limit = 10
	n := startNet(t, "allow egress public", func(c *Config) { c.Limits.TCPFlows = limit })
	n.serve("93.184.216.34:80", func(c *net.TCPConn) { io.Copy(c, c) })
	var work sync.WaitGroup
	var most atomic.Int64
	stop := make(chan struct{})
	work.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			s := n.Stats()
			if s.HeldFlows < 0 || s.TCPFlows > limit || s.HeldFlows > s.TCPFlows+limit {
				t.Errorf("%d flows, %d held", s.TCPFlows, s.HeldFlows)
				return
			}
			most.Store(max(most.Load(), int64(s.TCPFlows)))
		}
	})
	var dialing sync.WaitGroup
	for range 20 {
		dialing.Go(func() {
			for range 20 {
				if c, err := n.dial("93.184.216.34:80"); err == nil {
					c.Write([]byte("x"))
					c.Read(make([]byte, 1))
					c.Close()
				}
			}
		})
	}
	dialing.Wait()
	close(stop)
	work.Wait()
	n.eventually("none left", func() bool { s := n.Stats(); return s.TCPFlows == 0 && s.HeldFlows == 0 })
	if most.Load() < limit {
		t.Logf("at most %d at once", most.Load())
	}
}

// TestOddSegments sends segments that no kernel sends, to flows in every state.
// Nothing ends but perhaps the flow itself.
func TestOddSegments(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public; allow ingress host")
	n.serve("93.184.216.34:80", func(c *net.TCPConn) { io.Copy(c, c) })
	n.serve("[2606:2800:220::34]:80", func(c *net.TCPConn) { io.Copy(c, c) })
	r := rand.New(rand.NewPCG(1, 1))
	n.deaf.Store(true)
	for range 3000 {
		src, dst := guest4, "93.184.216.34"
		if r.IntN(2) == 0 {
			src, dst = "["+guest6+"]", "[2606:2800:220::34]"
		}
		flags := ""
		for _, f := range "SAFRPU" {
			if r.IntN(3) == 0 {
				flags += string(f)
			}
		}
		port := 3000 + r.IntN(20)
		n.write(tcpSegment(fmt.Sprintf("%s:%d", src, port), dst+":80", flags, func(w *wire) {
			w.tcp.Seq, w.tcp.Ack = uint32(1000+r.IntN(3)), uint32(r.IntN(3))
			w.payload = make([]byte, r.IntN(3)*100)
			w.tcp.Urgent, w.tcp.Window = uint16(r.IntN(100)), uint16(r.IntN(3)*100)
		}))
	}
	n.deaf.Store(false)
	n.eventually("read", func() bool { return n.Stats().FramesFromGuest >= 3000 })
	c := n.mustDial("93.184.216.34:80")
	c.Write([]byte("x"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// TestSimultaneousOpen answers our SYN to a published port's server with a SYN,
// as a guest may (RFC 9293, section 3.5).
func TestSimultaneousOpen(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow ingress host; allow egress *")
	n.deaf.Store(true)
	b := n.publish("127.0.0.1:0", 80)
	c, err := net.Dial("tcp", b.Host.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for port := 49152; port < 65536; port++ { // one of them is ours
		n.write(tcpSegment(guest4+":80", fmt.Sprintf("%s:%d", gateway4, port), "S"))
	}
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the guest said something")
	}
}
