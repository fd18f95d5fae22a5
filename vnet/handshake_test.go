package vnet

import (
	"context"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/sluicenet/sluice/vnet/link"
)

// TestHandshakeNeverEnds closes a network, and cuts a flow, in the middle of a
// handshake that the guest doesn't go on with.
func TestHandshakeNeverEnds(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"close", "policy"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			n := startNet(t, "allow egress public")
			n.serve("93.184.216.34:80", func(c *net.TCPConn) { io.Copy(io.Discard, c) })
			n.deaf.Store(true)
			n.write(tcpSegment(guest4+":1000", "93.184.216.34:80", "S"))
			<-n.tcpSeen // its answer
			n.eventually("handshaking", func() bool { return n.Stats().HeldFlows == 1 })
			start := time.Now()
			if end == "close" {
				n.Close()
			} else {
				n.SetPolicy(policyOf(t, "deny egress public"))
				n.eventually("cut", func() bool { return n.Stats().TCPFlows == 0 })
			}
			if d := time.Since(start); d > 2*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
}

// write puts a frame on the card as the guest.
func (n *testNet) write(f link.Frame) {
	n.t.Helper()
	if _, err := n.guest.link.WriteFrames([]link.Frame{f}); err != nil {
		n.t.Error(err)
	}
}

// TestReusedPorts opens a connection from the very address and port of one that
// the host has closed just before.
func TestReusedPorts(t *testing.T) {
	t.Parallel()
	for _, to := range []string{"93.184.216.34:80", "[2606:2800:220::34]:80"} {
		t.Run(to, func(t *testing.T) {
			t.Parallel()
			n := startNet(t, "allow egress public")
			n.serve(to, func(c *net.TCPConn) { c.Write([]byte("hi")) })
			for i := range 5 {
				start := time.Now()
				c, err := n.dialFrom(1234, to)
				if err != nil {
					t.Fatalf("connection %d: %v", i, err)
				}
				if b, err := io.ReadAll(c); string(b) != "hi" || err != nil {
					t.Errorf("connection %d: %q, %v", i, b, err)
				}
				c.Close()
				if d := time.Since(start); d >= timeWait {
					t.Errorf("connection %d took %v", i, d)
				}
				n.eventually("closed", func() bool {
					return n.Stats().TCPFlows == 0 && len(n.guestStack.RegisteredEndpoints()) == 0
				})
			}
		})
	}
}

// A stuckDialer's connections write only when they are woken.
type stuckDialer struct {
	Dialer
	wake chan struct{}
}

func (d stuckDialer) DialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	c, err := d.Dialer.DialTCP(ctx, addr)
	return stuckConn{c, d.wake}, err
}

type stuckConn struct {
	net.Conn
	wake chan struct{}
}

func (c stuckConn) Write(b []byte) (int, error)           { <-c.wake; return c.Conn.Write(b) }
func (c stuckConn) CloseWrite() error                     { return closeWrite(c.Conn) }
func (c stuckConn) SetLinger(s int) error                 { reset(c.Conn); return nil }
func (c stuckConn) SyscallConn() (syscall.RawConn, error) { return c.Conn.(syscall.Conn).SyscallConn() }

// TestReusedEarly opens a connection from the address and port of one that both ends
// have closed, while the guest's last bytes are still on their way: they arrive.
func TestReusedEarly(t *testing.T) {
	t.Parallel()
	wake := make(chan struct{})
	n := startNet(t, "allow egress public", func(c *Config) { c.Dialer = stuckDialer{c.Dialer, wake} })
	const src, dst = guest4 + ":1000", "93.184.216.34:80"
	type heard struct {
		text string
		err  error
	}
	got := make(chan heard, 1)
	n.serve(dst, func(c *net.TCPConn) {
		c.CloseWrite()
		b, err := io.ReadAll(c)
		got <- heard{string(b), err}
	})
	n.deaf.Store(true)
	theirs := n.handshake(src, dst)
	for f := <-n.tcpSeen; f[etherLen+20+13]&flagFIN == 0; f = <-n.tcpSeen {
	}
	n.write(tcpSegment(src, dst, "AF", func(w *wire) { w.tcp.Seq, w.tcp.Ack, w.payload = 1001, theirs+1, []byte("last words") }))
	n.eventually("closed by both", func() bool { return n.flowsIn(tcp.StateTimeWait) == 1 })
	again := tcpSegment(src, dst, "S", func(w *wire) { w.tcp.Seq = 100_000 })
	n.write(again)
	n.eventually("read", func() bool { return n.Stats().FramesFromGuest == 4 })
	close(wake)
	if h := <-got; h != (heard{"last words", nil}) {
		t.Errorf("the host heard %q, %v", h.text, h.err)
	}
	n.eventually("ended", func() bool { return n.Stats().TCPFlows == 0 })
	n.write(again)
	n.eventually("opened again", func() bool { return n.Stats().TCPFlows == 1 })
}

// dialFrom connects from a port of the guest's.
func (n *testNet) dialFrom(port uint16, to string) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	a := netip.MustParseAddrPort(to)
	from, proto := n.block.Guest4, header.IPv4ProtocolNumber
	if a.Addr().Is6() {
		from, proto = n.block.Guest6, header.IPv6ProtocolNumber
	}
	return gonet.DialTCPWithBind(ctx, n.guestStack,
		tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFromSlice(from.AsSlice()), Port: port},
		tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}, proto)
}

// flowsIn returns how many of the network's endpoints are in a state.
func (n *testNet) flowsIn(state tcp.EndpointState) (k int) {
	for _, e := range n.stack.RegisteredEndpoints() {
		if ep, ok := e.(*tcp.Endpoint); ok && ep.EndpointState() == state {
			k++
		}
	}
	return k
}
