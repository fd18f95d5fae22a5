package vnet

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// openPing opens the socket without leaking it to a child: macOS has no flag
// for that, so no child may start in between.
func openPing(family, proto int) (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, proto)
	if err != nil {
		return -1, err
	}
	unix.CloseOnExec(fd)
	return fd, unix.SetNonblock(fd, true)
}
