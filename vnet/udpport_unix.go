//go:build linux || darwin

package vnet

import (
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// write answers to from asked, the address that the peer wrote to. It never waits:
// the link's reader calls it, and all of the guest's packets wait behind that.
func (p *udpPort) write(b []byte, to netip.AddrPort, asked netip.Addr) error {
	var src net.IP
	if asked.IsValid() {
		src = asked.AsSlice()
	}
	var err error
	if p.v4 != nil {
		m := ipv4.Message{Buffers: [][]byte{b}, OOB: (&ipv4.ControlMessage{Src: src}).Marshal(), Addr: net.UDPAddrFromAddrPort(to)}
		_, err = p.v4.WriteBatch([]ipv4.Message{m}, unix.MSG_DONTWAIT)
	} else {
		m := ipv6.Message{Buffers: [][]byte{b}, OOB: (&ipv6.ControlMessage{Src: src}).Marshal(), Addr: net.UDPAddrFromAddrPort(to)}
		_, err = p.v6.WriteBatch([]ipv6.Message{m}, unix.MSG_DONTWAIT)
	}
	return err
}
