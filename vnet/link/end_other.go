//go:build !windows

package link

import "syscall"

// isGoneErrno reports whether errno says that the other end no longer exists.
func isGoneErrno(errno syscall.Errno) bool {
	switch errno {
	case syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNREFUSED, syscall.ENOTCONN:
		return true
	}
	return false
}
