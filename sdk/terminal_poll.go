//go:build unix && !darwin

package sdk

import "golang.org/x/sys/unix"

// See terminal.go.
func awaitEither(input, stop int) (stopped bool, err error) {
	fds := []unix.PollFd{{Fd: int32(input), Events: unix.POLLIN}, {Fd: int32(stop), Events: unix.POLLIN}}
	_, err = unix.Poll(fds, -1)
	return fds[1].Revents != 0, err
}
