//go:build linux || darwin

package vnet

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// listenPing opens an unprivileged ICMP socket.
func listenPing(ipv6 bool) (*net.UDPConn, error) {
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	var bind unix.Sockaddr = &unix.SockaddrInet4{}
	if ipv6 {
		family, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
		bind = &unix.SockaddrInet6{}
	}
	fd, err := openPing(family, proto)
	if err != nil {
		return nil, fmt.Errorf("open ICMP socket: %w", os.NewSyscallError("socket", err))
	}
	f := os.NewFile(uintptr(fd), "icmp")
	defer f.Close() // FilePacketConn below has its own descriptor
	if err := unix.Bind(fd, bind); err != nil {
		return nil, fmt.Errorf("open ICMP socket: %w", os.NewSyscallError("bind", err))
	}
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("open ICMP socket: %w", err)
	}
	u, ok := c.(*net.UDPConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("open ICMP socket: %T is not a datagram socket", c)
	}
	return u, nil
}
