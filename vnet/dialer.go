package vnet

import (
	"net"
	"net/netip"
	"time"
)

// dialTimeout bounds a connect on the host's side. The guest's own SYN timer
// is longer, so what it sees is our answer.
const dialTimeout = 10 * time.Second

// What finds a peer that has vanished: about four minutes of silence. More often
// would wake idle machines.
const (
	keepAliveIdle     = 2 * time.Minute
	keepAliveInterval = 30 * time.Second
	keepAliveCount    = 4
)

// hostDialer is the Dialer on this host's sockets. Its DialTCP, in
// tcpsocket_linux.go and dialer_net.go, connects to addr and to nothing else:
// the connected socket's peer is compared with what was decided.
type hostDialer struct{}

// NewDialer returns the Dialer that a nil Config.Dialer means: ordinary,
// unprivileged sockets of this host, in the network namespace of the process.
func NewDialer() Dialer { return hostDialer{} }

// socketAddress lets direct flows have sockets of their own.
func (hostDialer) socketAddress(addr netip.AddrPort) (netip.AddrPort, bool) { return addr, true }

// ListenUDP opens an unconnected socket on a port of the system's choice.
func (hostDialer) ListenUDP(ipv6 bool) (*net.UDPConn, error) {
	network := "udp4"
	if ipv6 {
		network = "udp6"
	}
	return net.ListenUDP(network, nil)
}

// ListenICMP opens an unprivileged socket for echo requests (ping(7), "ICMP
// sockets"); the system picks the identifier and lets only its replies in.
func (hostDialer) ListenICMP(ipv6 bool) (*net.UDPConn, error) {
	return listenPing(ipv6)
}
