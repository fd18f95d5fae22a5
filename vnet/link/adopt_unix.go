//go:build linux || darwin

package link

import (
	"cmp"
	"errors"
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
	return duplicate(f, true)
}

// duplicate returns a file over a duplicate of f's descriptor that doesn't block,
// and that Go's poller knows if polled says so.
func duplicate(f *os.File, polled bool) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("use file %q: %w", f.Name(), err)
	}
	var fd int
	var dupErr error
	err = raw.Control(func(old uintptr) {
		if fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0); dupErr == nil {
			dupErr = unix.SetNonblock(fd, polled)
		}
	})
	if err = cmp.Or(err, dupErr); err != nil {
		return nil, fmt.Errorf("duplicate descriptor of %q: %w", f.Name(), err)
	}
	dup := os.NewFile(uintptr(fd), f.Name())
	if polled {
		return dup, nil
	}
	// os.NewFile leaves those to themselves that block at that moment.
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, dup.Close())
	}
	return dup, nil
}
