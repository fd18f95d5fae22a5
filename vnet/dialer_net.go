//go:build !linux

package vnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// DialTCP connects by way of package net; see dialer.go.
func (hostDialer) DialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount}}
	d.SetMultipathTCP(false) // what the guest asked for, nothing else
	// Not Dialer.DialTCP: it binds to port 0 first, and finding a port among
	// those in TIME_WAIT takes the kernel longer than all the rest.
	c, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	peer, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok || peer.AddrPort().Addr().Unmap() != addr.Addr() || peer.AddrPort().Port() != addr.Port() {
		return nil, errors.Join(fmt.Errorf("dial %v: connected to %v instead", addr, c.RemoteAddr()), c.Close())
	}
	return c, nil
}
