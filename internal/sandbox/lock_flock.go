//go:build unix && !linux

package sandbox

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// tryLock takes flock(2)'s exclusive lock. See lock.go.
func tryLock(f *os.File) error { return flock(f, unix.LOCK_EX) }

// isLocked takes, and gives back, the shared lock: for that moment the file
// seems locked to others.
func isLocked(f *os.File) (bool, error) {
	switch err := flock(f, unix.LOCK_SH); {
	case errors.Is(err, errHeld):
		return true, nil
	case err != nil:
		return false, err
	}
	return false, flock(f, unix.LOCK_UN)
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EWOULDBLOCK):
			return errHeld
		}
		return err
	}
}
