//go:build linux || darwin

package link

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// adopt returns a file over a duplicate of f's descriptor and closes f. The new
// one doesn't block and is known to Go's poller, whatever f was: a descriptor
// that came from another process, or one that was polled before TUNSETIFF gave
// it something to poll.
func adopt(f *os.File) (*os.File, error) {
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("use file %q: %w", f.Name(), err)
	}
	var fd int
	var dupErr error
	err = raw.Control(func(old uintptr) {
		if fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0); dupErr == nil {
			dupErr = unix.SetNonblock(fd, true)
		}
	})
	if err == nil {
		err = dupErr
	}
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor of %q: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
