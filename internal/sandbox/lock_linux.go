package sandbox

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// tryLock takes an open file description lock (fcntl(2)): like flock(2)'s, it
// belongs to the opening, but whether it is held can be asked without taking
// it. See lock.go.
func tryLock(f *os.File) error {
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return errHeld
	}
	return err
}

// isLocked asks, and takes nothing.
func isLocked(f *os.File) (bool, error) {
	query := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &query); err != nil {
		return false, err
	}
	return query.Type != unix.F_UNLCK, nil
}
