//go:build linux || darwin

package vnet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// abort resets every connection of the guest's.
func (n *testNet) abort() { n.guestStack.Close() }

// TestRelayGuestReset passes a guest's reset on whatever the two directions are
// doing: both may be waiting for the host.
func TestRelayGuestReset(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		host  func(c *net.TCPConn, gone chan error)
		guest func(n *testNet, c *gonet.TCPConn)
	}{
		{"behind its end of stream", func(c *net.TCPConn, gone chan error) {
			io.Copy(io.Discard, c)
			for { // nothing to read any more: only writing tells
				if _, err := c.Write([]byte("x")); err != nil {
					gone <- err
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}, func(n *testNet, c *gonet.TCPConn) {
			c.CloseWrite()
			c.Read(make([]byte, 1))
			n.abort()
		}},
		{"while the host doesn't read", func(c *net.TCPConn, gone chan error) {
			c.SetReadBuffer(4096)
			raw, _ := c.SyscallConn()
			for {
				var serr int
				raw.Control(func(fd uintptr) { serr, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR) })
				if serr != 0 {
					gone <- syscall.Errno(serr)
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}, func(n *testNet, c *gonet.TCPConn) {
			c.SetWriteDeadline(time.Now().Add(time.Second))
			c.Write(make([]byte, 64<<20))
			n.abort()
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := startNet(t, "allow egress public")
			gone := make(chan error, 1)
			n.serve("93.184.216.34:80", func(c *net.TCPConn) { tt.host(c, gone) })
			c := n.mustDial("93.184.216.34:80")
			c.Write([]byte("x"))
			tt.guest(n, c)
			select {
			case err := <-gone:
				if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
					t.Errorf("the host saw %v", err)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("the host saw nothing")
			}
			if e := n.waitEvent("flow.close"); e.Flow.End != endReset {
				t.Errorf("recorded as %q", e.Flow.End)
			}
		})
	}
}

// TestRelayHalfClosedGuestReset frees a flow that the guest half-closed and then
// reset, while the host is silent.
func TestRelayHalfClosedGuestReset(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public", throughStack)
	seen := make(chan error, 1)
	n.serve("93.184.216.34:80", func(c *net.TCPConn) {
		io.Copy(io.Discard, c)
		raw, _ := c.SyscallConn()
		raw.Read(func(fd uintptr) bool {
			serr, _ := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
			if serr != 0 {
				seen <- syscall.Errno(serr)
			}
			return serr != 0
		})
	})
	c := n.mustDial("93.184.216.34:80")
	c.CloseWrite()
	n.eventually("half closed", func() bool { return n.flowsIn(tcp.StateCloseWait) == 1 })
	n.abort()
	n.eventually("closed", func() bool { return n.Stats().TCPFlows == 0 })
	if err := <-seen; err != syscall.ECONNRESET && err != syscall.EPIPE { // Linux: EPIPE behind an end of stream
		t.Errorf("the host saw %v", err)
	}
}

// TestRelayHostReset passes a host's reset on also behind its end of stream.
func TestRelayHostReset(t *testing.T) {
	t.Parallel()
	for _, endFirst := range []bool{false, true} {
		t.Run(fmt.Sprint("ends first: ", endFirst), func(t *testing.T) {
			t.Parallel()
			n := startNet(t, "allow egress public")
			reset := make(chan struct{})
			n.serve("93.184.216.34:80", func(c *net.TCPConn) {
				if endFirst {
					c.CloseWrite()
				}
				<-reset
				c.SetLinger(0)
			})
			c := n.mustDial("93.184.216.34:80")
			if endFirst {
				if _, err := c.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("before: %v", err)
				}
			}
			close(reset)
			n.eventually("closed", func() bool { return n.count("flow.close") == 1 })
			if e := n.waitEvent("flow.close"); e.Flow.End != endReset {
				t.Errorf("recorded as %q", e.Flow.End)
			}
		})
	}
}

// TestRelaySlowReaders moves bytes past readers that sleep, both ways: none is
// lost, and those that wait are bounded.
func TestRelaySlowReaders(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public", func(c *Config) { c.Limits.BufferBytes = 256 << 10 })
	const size = 3 << 20
	up, down := randomBytes(size, 3), randomBytes(size, 4)
	got := make(chan []byte, 1)
	n.serve("93.184.216.34:80", func(c *net.TCPConn) {
		go func() { c.Write(down); c.CloseWrite() }()
		got <- readSlowly(c)
	})
	c := n.mustDial("93.184.216.34:80")
	go func() { c.Write(up); c.CloseWrite() }()
	if b := readSlowly(c); !bytes.Equal(b, down) {
		t.Errorf("the guest got %d bytes, changed or not all", len(b))
	}
	if b := <-got; !bytes.Equal(b, up) {
		t.Errorf("the host got %d bytes, changed or not all", len(b))
	}
}

func readSlowly(r io.Reader) (all []byte) {
	buf := make([]byte, 100_000)
	for {
		k, err := r.Read(buf)
		all = append(all, buf[:k]...)
		if err != nil {
			return all
		}
		if len(all)%7 == 0 {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// TestRelayUnread counts a flow until the guest has read what the host left: a
// guest that never does can't collect such leftovers.
func TestRelayUnread(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public", throughStack)
	n.serve("93.184.216.34:80", func(c *net.TCPConn) { c.Write(make([]byte, 3<<20)) })
	// The guest's window is small, so that most of it stays on our side.
	wq := new(waiter.Queue)
	ep, terr := n.guestStack.NewEndpoint(tcp.ProtocolNumber, header.IPv4ProtocolNumber, wq)
	if terr != nil {
		t.Fatal(terr)
	}
	ep.SocketOptions().SetReceiveBufferSize(8<<10, false)
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	ep.Connect(tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFrom4([4]byte{93, 184, 216, 34}), Port: 80})
	<-ready
	c := gonet.NewTCPConn(wq, ep)
	c.CloseWrite()
	n.eventually("the host is done", func() bool { return n.tcpBytesIn() == 3<<20 })
	time.Sleep(100 * time.Millisecond)
	if s := n.Stats(); s.TCPFlows != 1 || n.count("flow.close") != 0 {
		t.Errorf("%d flows with unread bytes, %d closed", s.TCPFlows, n.count("flow.close"))
	}
	if b, err := io.ReadAll(c); len(b) != 3<<20 || err != nil {
		t.Errorf("the guest got %d bytes, %v", len(b), err)
	}
	n.eventually("closed", func() bool { return n.Stats().TCPFlows == 0 })
	c.Close()
}

// TestRelayUrgent shows that urgent data is plain data: none is lost, and none
// stops the stream.
func TestRelayUrgent(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public")
	n.serve("93.184.216.34:80", func(c *net.TCPConn) {
		raw, _ := c.SyscallConn()
		for range 1000 {
			c.Write(bytes.Repeat([]byte("a"), 500))
			raw.Write(func(fd uintptr) bool {
				return syscall.Sendto(int(fd), []byte("!"), syscall.MSG_OOB, nil) != syscall.EAGAIN
			})
		}
	})
	b, err := io.ReadAll(n.mustDial("93.184.216.34:80"))
	if len(b) != 501_000 || bytes.Count(b, []byte("!")) != 1000 || err != nil {
		t.Errorf("got %d bytes, %d of them urgent, %v", len(b), bytes.Count(b, []byte("!")), err)
	}
}
