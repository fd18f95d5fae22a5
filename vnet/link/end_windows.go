package link

import "syscall"

// isGoneErrno reports whether errno says that the other end no longer exists.
// Windows has numbers of its own for what sockets say.
func isGoneErrno(errno syscall.Errno) bool {
	switch errno {
	case syscall.WSAECONNRESET, syscall.WSAECONNABORTED, syscall.ERROR_BROKEN_PIPE:
		return true
	}
	return false
}
