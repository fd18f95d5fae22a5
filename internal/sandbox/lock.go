package sandbox

import (
	"errors"
	"fmt"
	"os"
)

// errHeld is matched by the error of lockFile if somebody else holds the lock.
var errHeld = errors.New("lock is held")

// lockFile opens, creating it if need be, and locks the file at path. The lock
// is the claim to what the path names. It is let go when the file is closed, the
// end of the process included; whoever holds it may remove the file before. It
// never waits.
//
// tryLock and isLocked, per platform, are the means: the exclusive lock of an
// open file, not of a process, so that two openings within one process exclude
// each other as well, and whether another opening holds it.
func lockFile(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open lock: %w", err)
		}
		if err := tryLock(f); err != nil {
			return nil, errors.Join(fmt.Errorf("lock %q: %w", path, err), f.Close())
		}
		same, err := isFileAt(f, path)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if same {
			return f, nil
		}
		// Its holder removed the file between our open and our lock.
		if err := f.Close(); err != nil {
			return nil, fmt.Errorf("close stale lock: %w", err)
		}
	}
}

// heldAt reports whether somebody holds the lock of the file at path; false if
// there is none.
func heldAt(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open lock: %w", err)
	}
	held, err := isLocked(f)
	if err != nil {
		err = fmt.Errorf("query lock %q: %w", path, err)
	}
	return held, errors.Join(err, f.Close())
}

// isFileAt reports whether path still names the open file f.
func isFileAt(f *os.File, path string) (bool, error) {
	open, err := f.Stat()
	if err != nil {
		return false, fmt.Errorf("inspect lock: %w", err)
	}
	named, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("inspect lock: %w", err)
	}
	return os.SameFile(open, named), nil
}
