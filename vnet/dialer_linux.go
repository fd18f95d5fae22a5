package vnet

import "golang.org/x/sys/unix"

// openPing opens the socket without leaking it to a child.
func openPing(family, proto int) (int, error) {
	return unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
}
