//go:build linux || darwin

package link

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Pair returns the two ends of a card for a hypervisor that takes a descriptor:
// a socket pair of the given format, Stream or Datagram, with buffers that do
// not hold frames back. Give ours to [Open], and guests to the hypervisor;
// close guests once its process has it.
//
// Neither end is inherited by a process unless it is passed on, and ours doesn't
// block. Elsewhere than on Linux and macOS the error matches
// [errors.ErrUnsupported].
func Pair(format Format) (ours, guests *os.File, err error) {
	kind := unix.SOCK_DGRAM
	switch format {
	case Datagram:
	case Stream:
		kind = unix.SOCK_STREAM
	default:
		return nil, nil, fmt.Errorf("make pair of %v sockets: %w", format, errors.ErrUnsupported)
	}
	fds, err := socketpair(kind)
	if err != nil {
		return nil, nil, fmt.Errorf("make pair of %v sockets: %w", format, err)
	}
	for _, fd := range fds {
		err = errors.Join(err, setBuffers(fd, format))
	}
	err = errors.Join(err, unix.SetNonblock(fds[0], true))
	if err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, fmt.Errorf("set buffers of %v sockets: %w", format, err)
	}
	return os.NewFile(uintptr(fds[0]), "card"), os.NewFile(uintptr(fds[1]), "guest's card"), nil
}

// socketpair returns two connected sockets that are closed on exec.
func socketpair(kind int) ([2]int, error) {
	// macOS can't set close-on-exec in the same call; the lock keeps a fork of
	// ours from coming between.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind, 0)
	if err == nil {
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
	}
	return fds, err
}

// setBuffer sets a buffer of fd to size bytes or, where the system refuses so
// much, to a half, a quarter and so on. The first option of opts that works is
// used.
func setBuffer(fd, size int, opts ...int) error {
	for {
		var err error
		for _, opt := range opts {
			if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, size); err == nil {
				return nil
			}
		}
		if size /= 2; size < minBuffer {
			return fmt.Errorf("set socket buffer: %w", err)
		}
	}
}

// minBuffer is the smallest socket buffer with which a link is worth having, in
// bytes: one frame of 64 KiB, with what the kernel adds.
const minBuffer = 128 << 10
