//go:build unix

package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// An unreadWatch polls a file and a pipe, whose end is the order to stop.
type unreadWatch struct {
	fd                  int // of the file, -1 if it has none
	stopRead, stopWrite *os.File
}

// See unread.go.
func newUnreadWatch(f *os.File) (*unreadWatch, error) {
	raw, err := f.SyscallConn() // Fd would make the file blocking
	if err != nil {
		return nil, err
	}
	w := &unreadWatch{fd: -1}
	if err := raw.Control(func(fd uintptr) { w.fd = int(fd) }); err != nil {
		return nil, err
	}
	w.stopRead, w.stopWrite, err = os.Pipe()
	return w, err
}

// wait polls for no event: what poll(2) tells unasked is that the other end of a pipe
// or a terminal has gone. A file, and on macOS a terminal, never tells.
func (w *unreadWatch) wait() bool {
	for {
		fds := []unix.PollFd{{Fd: int32(w.fd)}, {Fd: int32(w.stopRead.Fd())}}
		_, err := unix.Poll(fds, -1)
		if !errors.Is(err, unix.EINTR) {
			return err == nil && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
		}
	}
}

func (w *unreadWatch) stop() { _ = w.stopWrite.Close() }

func (w *unreadWatch) close() { _ = w.stopRead.Close() }
