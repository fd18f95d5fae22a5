package memnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
)

// An Internet is the host's side in memory: a vnet.Dialer whose connections end at
// servers of the test, whatever their address. What has no server refuses. Its
// methods may be called concurrently.
type Internet struct {
	// Loopback lets connections to the host's own loopback through, which is
	// where the gateway is translated to.
	Loopback bool

	mu      sync.Mutex // guards the following fields
	servers map[netip.AddrPort]server
	dialed  []netip.AddrPort
	wg      sync.WaitGroup // the servers' goroutines; Add under mu, before closed
	conns   map[net.Conn]bool
	closed  bool
}

// A server is what a connection to an address meets: a function, or an error.
type server struct {
	serve func(net.Conn)
	err   error
	hang  bool
}

// NewInternet returns an internet where nobody listens. The caller closes it.
func NewInternet() *Internet {
	return &Internet{servers: make(map[netip.AddrPort]server), conns: make(map[net.Conn]bool)}
}

// TCP calls serve with every connection to an address and port, for example
// "93.184.216.34:80", on a goroutine of its own, and closes the connection when it
// returns.
func (n *Internet) TCP(address string, serve func(net.Conn)) { n.set(address, server{serve: serve}) }

// Fail makes connects to an address and port fail with an error, for example
// syscall.EHOSTUNREACH.
func (n *Internet) Fail(address string, err error) { n.set(address, server{err: err}) }

// Hang makes connects to an address and port wait until they are given up.
func (n *Internet) Hang(address string) { n.set(address, server{hang: true}) }

func (n *Internet) set(address string, s server) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.servers[netip.MustParseAddrPort(address)] = s
}

// Dialed returns every address that was dialled, oldest first.
func (n *Internet) Dialed() []netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.dialed)
}

// DialTCP connects to the server of an address. The connection is a real one, over
// the host's loopback, so that it has a descriptor, half-closes and resets.
func (n *Internet) DialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	n.mu.Lock()
	n.dialed = append(n.dialed, addr)
	s, known := n.servers[addr]
	n.mu.Unlock()
	switch {
	case s.hang:
		<-ctx.Done()
		return nil, fmt.Errorf("dial %v: %w", addr, ctx.Err())
	case s.err != nil:
		return nil, fmt.Errorf("dial %v: %w", addr, s.err)
	case s.serve != nil:
		return n.connect(ctx, s.serve)
	case !known && n.Loopback && addr.Addr().IsLoopback():
		return new(net.Dialer).DialContext(ctx, "tcp", addr.String())
	}
	return nil, fmt.Errorf("dial %v: %w", addr, os.NewSyscallError("connect", syscall.ECONNREFUSED))
}

// connect makes a connection, gives its other end to serve and returns ours.
func (n *Internet) connect(ctx context.Context, serve func(net.Conn)) (net.Conn, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	ours, err := new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	theirs, err := l.Accept()
	if err != nil {
		ours.Close()
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errors.Join(net.ErrClosed, ours.Close(), theirs.Close())
	}
	n.conns[theirs] = true
	n.wg.Go(func() { n.serve(theirs, serve) })
	return ours, nil
}

func (n *Internet) serve(c net.Conn, serve func(net.Conn)) {
	serve(c)
	c.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
}

// ListenUDP opens a socket that reaches the host's loopback only: no datagram of a
// test may leave the machine. The system refuses to send from 127.0.0.1 to
// elsewhere; from ::1 Linux does, so there is no IPv6.
func (n *Internet) ListenUDP(ipv6 bool) (*net.UDPConn, error) {
	if ipv6 {
		return nil, fmt.Errorf("UDP over IPv6 in memory: %w", errors.ErrUnsupported)
	}
	return net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
}

// ListenICMP fails: echo needs a network.
func (n *Internet) ListenICMP(bool) (*net.UDPConn, error) {
	return nil, fmt.Errorf("echo in memory: %w", errors.ErrUnsupported)
}

// Close closes the servers' connections and waits until they have returned.
func (n *Internet) Close() error {
	n.mu.Lock()
	n.closed = true
	for c := range n.conns {
		c.Close()
	}
	n.mu.Unlock()
	n.wg.Wait()
	return nil
}
