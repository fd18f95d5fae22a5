//go:build linux || darwin

package vnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// TestBudget takes and gives.
func TestBudget(t *testing.T) {
	t.Parallel()
	b := newBudget(1000)
	steps := []struct {
		take, leave, give int64
		ok                bool
		used              int
	}{
		{600, 0, 0, true, 600},
		{300, 250, 0, false, 600},
		{300, 100, 0, true, 900},
		{101, 0, 0, false, 900},
		{100, 0, 400, true, 600},
	}
	for i, s := range steps {
		if ok := b.take(s.take, s.leave); ok != s.ok {
			t.Errorf("step %d: %t", i, ok)
		}
		if b.give(s.give); b.used() != s.used {
			t.Errorf("step %d: %d used, want %d", i, b.used(), s.used)
		}
	}
	if len(b.short) != 1 {
		t.Error("nobody is told that it was short")
	}
}

// A tinyDialer gives the host's sockets small queues, so that ours fill.
type tinyDialer struct{ Dialer }

func (d tinyDialer) DialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	c, err := d.Dialer.DialTCP(ctx, addr)
	if raw, rerr := c.(syscall.Conn).SyscallConn(); err == nil && rerr == nil {
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<10)
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<10)
		})
	}
	return c, err
}

// dialTiny connects from the guest with a small queue there.
func (n *testNet) dialTiny(to string) *gonet.TCPConn {
	n.t.Helper()
	wq := new(waiter.Queue)
	ep, terr := n.guestStack.NewEndpoint(tcp.ProtocolNumber, header.IPv4ProtocolNumber, wq)
	if terr != nil {
		n.t.Fatal(terr)
	}
	ep.SocketOptions().SetReceiveBufferSize(8<<10, false)
	ep.SocketOptions().SetSendBufferSize(8<<10, false)
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	a := netip.MustParseAddrPort(to)
	ep.Connect(tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()})
	<-ready
	wq.EventUnregister(&entry)
	c := gonet.NewTCPConn(wq, ep)
	n.t.Cleanup(func() { c.Close() })
	return c
}

// TestBuffersStay fills the queues of many flows whose readers sleep, in both
// directions: together they hold no more than the budget, and when the readers
// wake, all bytes are there.
func TestBuffersStay(t *testing.T) {
	t.Parallel()
	const flows, size, limit = 12, 512 << 10, 1 << 20
	n := startNet(t, "allow egress public", func(c *Config) { c.Limits.BufferBytes, c.Dialer = limit, tinyDialer{c.Dialer} })
	up, down := randomBytes(size, 7), randomBytes(size, 8)
	wake := make(chan struct{})
	n.serve("93.184.216.34:80", func(c *net.TCPConn) {
		c.SetReadBuffer(4 << 10)
		var writing sync.WaitGroup
		writing.Go(func() { c.Write(down); c.CloseWrite() })
		<-wake
		if b, err := io.ReadAll(c); !bytes.Equal(b, up) {
			t.Errorf("the host got %d bytes, changed or not all; %v", len(b), err)
		}
		writing.Wait()
	})
	var guests sync.WaitGroup
	for range flows {
		c := n.dialTiny("93.184.216.34:80")
		guests.Go(func() {
			var writing sync.WaitGroup
			writing.Go(func() { c.Write(up); c.CloseWrite() })
			<-wake
			if b, err := io.ReadAll(c); !bytes.Equal(b, down) {
				t.Errorf("the guest got %d bytes, changed or not all; %v", len(b), err)
			}
			writing.Wait()
		})
	}
	// Nobody reads, so soon nothing moves any more.
	stalled := false
	for before, deadline := uint64(0), time.Now().Add(10*time.Second); !stalled && time.Now().Before(deadline); {
		time.Sleep(200 * time.Millisecond)
		moved := n.tcpBytesIn() + n.tcpBytesOut()
		stalled, before = moved == before, moved
	}
	if used := n.budget.used(); !stalled || used > limit || used < limit/2 {
		t.Errorf("stalled: %t, %d bytes are taken of %d", stalled, used, limit)
	}
	if waiting := n.waitingBytes(); waiting > limit {
		t.Errorf("%d bytes wait in queues, the budget is %d", waiting, limit)
	}
	close(wake)
	guests.Wait()
	n.eventually("all given back", func() bool { return n.budget.used() == 0 })
}

// TestBuffersSpent begins flows until the budget is spent: then a SYN is dropped,
// and when a flow ends its repetition is let in.
func TestBuffersSpent(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public", func(c *Config) { c.Limits.BufferBytes = 4 * tightBuffer }, throughStack)
	n.serve("93.184.216.34:80", func(c *net.TCPConn) { io.Copy(c, c) })
	first, second := n.mustDial("93.184.216.34:80"), n.mustDial("93.184.216.34:80")
	if used := n.budget.used(); used != 4*tightBuffer {
		t.Errorf("%d bytes are taken", used)
	}
	for i, c := range []io.ReadWriter{first, second} { // tight ones work too
		text := []byte(fmt.Sprint("flow ", i))
		c.Write(text)
		if _, err := io.ReadFull(c, text); string(text) != fmt.Sprint("flow ", i) {
			t.Errorf("got %q, %v", text, err)
		}
	}
	time.AfterFunc(500*time.Millisecond, func() { first.Close() })
	n.mustDial("93.184.216.34:80")
	if e := n.waitEvent("limit.hit"); e.Limit != "BufferBytes" {
		t.Errorf("recorded %q", e.Limit)
	}
}

// TestBuffersGrow moves bytes in bulk, has the flow idle, and takes the memory
// back when others ask for it.
func TestBuffersGrow(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public", func(c *Config) { c.Limits.BufferBytes = 4 << 20 }, throughStack)
	n.serve("93.184.216.34:80", func(c *net.TCPConn) { io.Copy(c, c) })
	c := n.mustDial("93.184.216.34:80")
	data := randomBytes(2<<20, 9)
	echo := func() {
		go c.Write(data)
		got := make([]byte, len(data))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, data) {
			t.Errorf("echo: %v", err)
		}
	}
	echo()
	if used := n.budget.used(); used <= 2*firstBuffer {
		t.Errorf("%d bytes are taken behind a bulk transfer", used)
	}
	short := func() { n.budget.take(1<<30, 0) }
	n.eventually("both shrunk", func() (shrunk bool) {
		short()
		n.tcp.each(func(f *tcpFlow) {
			f.buffers.mu.Lock()
			defer f.buffers.mu.Unlock()
			shrunk = f.buffers.size == firstBuffer && f.buffers.in == firstBuffer
		})
		return shrunk
	})
	for range 4 << 20 / (4 << 10) { // the window that was told before is used up, without haste
		piece := data[:4<<10]
		c.Write(piece)
		io.ReadFull(c, make([]byte, len(piece)))
	}
	n.eventually("all but the first given back", func() bool { short(); return n.budget.used() == 2*firstBuffer })
}

// TestBuffersInbound counts flows of published ports, and refuses those that
// don't fit.
func TestBuffersInbound(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow ingress host", func(c *Config) { c.Limits.BufferBytes = 4 * tightBuffer })
	n.listen(netip.AddrPortFrom(n.block.Guest4, 80), func(c net.Conn) { io.Copy(c, c) })
	b := n.publish("127.0.0.1:0", 80)
	for i := range 3 {
		c, err := net.Dial("tcp", b.Host.String())
		if err == nil {
			defer c.Close()
		}
		if i < 2 {
			n.eventually("taken", func() bool { return n.budget.used() == (i+1)*2*tightBuffer })
			continue
		}
		if err == nil { // the reset may come before or after connect returns
			_, err = c.Read(make([]byte, 1))
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the third saw %v", err)
		}
	}
}

// TestBuffersInboundGrow moves bytes in bulk through a published port: its flows
// grow as the guest's do.
func TestBuffersInboundGrow(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow ingress host")
	data := randomBytes(8<<20, 3)
	n.listen(netip.AddrPortFrom(n.block.Guest4, 80), func(c net.Conn) { c.Write(data) })
	c, err := net.Dial("tcp", n.publish("127.0.0.1:0", 80).Host.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := io.ReadAll(c); !bytes.Equal(got, data) || err != nil {
		t.Errorf("got %d bytes, changed or not all; %v", len(got), err)
	}
	n.tcp.each(func(f *tcpFlow) {
		f.buffers.mu.Lock()
		defer f.buffers.mu.Unlock()
		if f.buffers.size <= firstBuffer {
			t.Errorf("the queue has %d bytes", f.buffers.size)
		}
	})
}
