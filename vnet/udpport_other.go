//go:build !linux && !darwin

package vnet

import (
	"net/netip"
)

// write answers to. Here the answer's source is the system's choice, and a socket
// whose queue is full makes the guest wait.
func (p *udpPort) write(b []byte, to netip.AddrPort, _ netip.Addr) error {
	_, err := p.conn.WriteToUDPAddrPort(b, to)
	return err
}
