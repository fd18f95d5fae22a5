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
	b := newBudget(1000, func() {})
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

// A smallDialer gives the host's sockets small queues, so that ours fill. Much
// smaller ones, and the kernel moves a piece every 200 ms.
type smallDialer struct{ Dialer }

const smallQueue = 32 << 10

func (d smallDialer) DialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	c, err := d.Dialer.DialTCP(ctx, addr)
	if raw, rerr := c.(syscall.Conn).SyscallConn(); err == nil && rerr == nil {
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, smallQueue)
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, smallQueue)
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
	const flows, size, limit = 12, 256 << 10, 1 << 20
	n := startNet(t, "allow egress public", func(c *Config) { c.Limits.BufferBytes, c.Dialer = limit, smallDialer{c.Dialer} })
	up, down := randomBytes(size, 7), randomBytes(size, 8)
	wake := make(chan struct{})
	n.serve("93.184.216.34:80", func(c *net.TCPConn) {
		c.SetReadBuffer(32 << 10)
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
	before := uint64(0)
	n.eventually("much is taken, and nothing moves", func() bool {
		time.Sleep(200 * time.Millisecond)
		moved := n.tcpBytesIn() + n.tcpBytesOut()
		stalled := moved == before
		before = moved
		return stalled && n.budget.used() >= limit/2
	})
	if used := n.budget.used(); used > limit {
		t.Errorf("%d bytes are taken of %d", used, limit)
	}
	if waiting := n.waitingBytes(); waiting > limit {
		t.Errorf("%d bytes wait in queues, the budget is %d", waiting, limit)
	}
	close(wake)
	guests.Wait()
	n.eventually("all given back", func() bool { return n.budget.used() == 0 })
}

// needMemory has the budget look for memory, as somebody who wants more than there
// is would.
func (n *testNet) needMemory() { n.budget.take(1<<30, 0) }

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

// echoes sends data and wants it back.
func (n *testNet) echoes(c io.ReadWriter, data []byte) {
	n.t.Helper()
	go c.Write(data)
	got := make([]byte, len(data))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, data) {
		n.t.Errorf("the echo is another, or not all; %v", err)
	}
}

// sizes returns the sizes of the only flow's queues.
func (n *testNet) sizes() (in, out, size int64) {
	n.tcp.each(func(f *tcpFlow) {
		f.buffers.mu.Lock()
		defer f.buffers.mu.Unlock()
		in, out, size = f.buffers.in, f.buffers.out, f.buffers.size
	})
	return in, out, size
}

// TestBuffersGrow moves bytes in bulk, has the flow idle, takes the memory back when
// others ask for it, and moves bytes in bulk again.
func TestBuffersGrow(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public", func(c *Config) { c.Limits.BufferBytes = 512 << 10 }, throughStack)
	n.serve("93.184.216.34:80", func(c *net.TCPConn) { io.Copy(c, c) })
	c := n.mustDial("93.184.216.34:80")
	data := randomBytes(1<<20, 9)
	n.echoes(c, data)
	if _, out, _ := n.sizes(); out <= firstBuffer {
		t.Errorf("the queue has %d bytes behind a bulk transfer", out)
	}
	n.eventually("both shrunk", func() bool {
		n.needMemory()
		in, _, size := n.sizes()
		return in == tightBuffer && size == tightBuffer
	})
	for {
		in, out, size := n.sizes()
		if n.needMemory(); out == tightBuffer {
			break
		}
		if size > tightBuffer || in > tightBuffer {
			t.Fatalf("the queues have %d and %d bytes, and small pieces move", in, size)
		}
		n.echoes(c, data[:tightBuffer/8]) // the window that was told before is used up
	}
	if used := n.budget.used(); used != 2*tightBuffer {
		t.Errorf("%d bytes are taken", used)
	}
	n.echoes(c, data)
}

// TestBuffersGap has a flow idle whose queue from the guest holds much behind a
// missing segment, when others ask for memory: what is missing still finds room.
func TestBuffersGap(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public", throughStack)
	n.lab.addIdle(t, "93.184.216.34:80")
	n.deaf.Store(true)
	const src, dst, piece = guest4 + ":1000", "93.184.216.34:80", 1000
	theirs := n.handshake(src, dst)
	send := func(i int) {
		n.write(tcpSegment(src, dst, "A", func(w *wire) {
			w.tcp.Seq, w.tcp.Ack, w.payload = uint32(1001+i*piece), theirs, make([]byte, piece)
		}))
	}
	for i := range 10 {
		send(1 + i)
	}
	n.eventually("shrunk", func() bool {
		n.needMemory()
		_, _, size := n.sizes()
		return size == tightBuffer
	})
	n.eventually("all forwarded", func() bool {
		time.Sleep(20 * time.Millisecond)
		send(0) // as a sender does that hears nothing
		return n.tcpBytesOut() == 11*piece
	})
}

// A shrinking payload has the queue that it is written to looked at while it is
// copied, twice, so that the flow seems idle.
type shrinking struct {
	byteReader
	q *buffers
}

func (p *shrinking) Read(b []byte) (int, error) {
	p.q.shrink(0, 0)
	p.q.shrink(0, 0)
	return p.byteReader.Read(b)
}

// TestBuffersWrite looks for memory in the very moment that bytes are written to the
// guest: none is lost.
func TestBuffersWrite(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public", throughStack)
	n.lab.addIdle(t, "93.184.216.34:80")
	c := n.mustDial("93.184.216.34:80")
	data := randomBytes(100<<10, 11)
	n.eventually("there", func() bool { in, _, _ := n.sizes(); return in > 0 && n.Stats().HeldFlows == 0 })
	n.tcp.each(func(f *tcpFlow) {
		f.buffers.expectIn(len(data))
		p := &shrinking{byteReader{data}, &f.buffers}
		if k, err := f.buffers.write(f.buffers.ep, p); int(k) != len(data)-p.Len() {
			t.Fatalf("of %d bytes %d were written; %v", len(data)-p.Len(), k, err)
		}
	})
	got := make([]byte, len(data))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the guest got other bytes; %v", err)
	}
}

// TestBuffersIdle has as many idle flows as half of the budget holds tight ones,
// beside some that took the other half.
func TestBuffersIdle(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	const flows = limit / 2 / (2 * tightBuffer)
	n := startNet(t, "allow egress public", func(c *Config) { c.Limits.BufferBytes = limit }, throughStack)
	n.serve("93.184.216.34:80", func(c *net.TCPConn) { io.Copy(c, c) })
	data := randomBytes(256<<10, 10)
	n.echoes(n.mustDial("93.184.216.34:80"), data)
	var open []io.ReadWriter
	for range flows {
		open = append(open, n.mustDial("93.184.216.34:80"))
	}
	if dropped := n.Stats().Drops[dropHeld.String()]; dropped != 0 {
		t.Errorf("%d SYNs were dropped", dropped)
	}
	for _, c := range open {
		n.echoes(c, data[:16<<10])
	}
}

// TestBuffersSlow records that flows can't have the queues they need.
func TestBuffersSlow(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public", func(c *Config) { c.Limits.BufferBytes = 3 * firstBuffer }, throughStack)
	n.serve("93.184.216.34:80", func(c *net.TCPConn) { c.Write(make([]byte, 1<<20)) })
	c := n.mustDial("93.184.216.34:80")
	if got, err := io.Copy(io.Discard, c); got != 1<<20 || err != nil {
		t.Errorf("got %d bytes, %v", got, err)
	}
	if e := n.waitEvent("limit.hit"); e.Limit != "BufferBytes" || e.Count == 0 {
		t.Errorf("recorded %q, %d times", e.Limit, e.Count)
	}
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
		if f.buffers.out <= firstBuffer {
			t.Errorf("the queue has %d bytes", f.buffers.out)
		}
	})
}
