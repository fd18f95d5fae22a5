package vnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// dialTimeout bounds a connect on the host's side. The guest's own SYN timer
// is longer, so what it sees is our answer.
const dialTimeout = 10 * time.Second

// hostDialer is the Dialer on this host's sockets.
type hostDialer struct {
	tcp net.Dialer
}

// NewDialer returns the Dialer that a nil Config.Dialer means: ordinary,
// unprivileged sockets of this host, in the network namespace of the process.
func NewDialer() Dialer {
	d := &hostDialer{}
	d.tcp.SetMultipathTCP(false) // what the guest asked for, nothing else
	// A peer that vanished is found after about four minutes of silence; more
	// often would wake idle machines.
	d.tcp.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: 2 * time.Minute, Interval: 30 * time.Second, Count: 4}
	return d
}

// DialTCP connects to addr and to nothing else: the connected socket's peer is
// compared with what was decided.
func (d *hostDialer) DialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	// Not Dialer.DialTCP: it binds to port 0 first, and finding a port among
	// those in TIME_WAIT takes the kernel longer than all the rest.
	c, err := d.tcp.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	peer, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok || peer.AddrPort().Addr().Unmap() != addr.Addr() || peer.AddrPort().Port() != addr.Port() {
		return nil, errors.Join(fmt.Errorf("dial %v: connected to %v instead", addr, c.RemoteAddr()), c.Close())
	}
	return c, nil
}

// ListenUDP opens an unconnected socket on a port of the system's choice.
func (d *hostDialer) ListenUDP(ipv6 bool) (*net.UDPConn, error) {
	network := "udp4"
	if ipv6 {
		network = "udp6"
	}
	return net.ListenUDP(network, nil)
}

// ListenICMP opens an unprivileged socket for echo requests (ping(7), "ICMP
// sockets"); the system picks the identifier and lets only its replies in.
func (d *hostDialer) ListenICMP(ipv6 bool) (*net.UDPConn, error) {
	return listenPing(ipv6)
}
