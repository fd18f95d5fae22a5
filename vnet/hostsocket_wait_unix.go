//go:build unix && (!linux || basicsockets)

package vnet

import (
	"net"

	"golang.org/x/sys/unix"
)

// waitReadable waits until there is a datagram, or the socket is closed, so that
// an idle session holds no buffer.
func waitReadable(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n != 0 // an error is for the read to find
	})
}
