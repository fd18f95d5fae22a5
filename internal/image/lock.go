package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// errHeld is matched by the error of tryLockAt if somebody holds the lock
// otherwise.
var errHeld = errors.New("lock is held")

// How a lock is held.
type lockMode bool

const (
	shared    lockMode = false
	exclusive lockMode = true
)

// A fileLock is a held lock. It is let go by release, and by the end of the
// process.
//
// Per platform, tryLock takes the lock of an open file, not of a process, so
// that two openings within one process exclude each other as well; it never
// waits. unlock lets it go even while a child between fork and exec still has the
// descriptor.
type fileLock struct{ f *os.File }

// tryLockAt locks the file at path, which it makes if need be. Whoever holds it
// exclusively may remove the file before the release.
func tryLockAt(path string, mode lockMode) (*fileLock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open lock: %w", err)
		}
		l := &fileLock{f}
		if err := tryLock(f, mode); err != nil {
			return nil, errors.Join(fmt.Errorf("lock %q: %w", path, err), f.Close())
		}
		same, err := l.isAt(path)
		if same {
			return l, nil
		}
		// Its holder removed the file between our open and our lock.
		if err = errors.Join(err, l.release()); err != nil {
			return nil, err
		}
	}
}

// How long to wait before a lock is tried again: at first what two processes
// that start together differ by, at last what a person doesn't notice.
const (
	lockPauseMin = time.Millisecond
	lockPauseMax = 100 * time.Millisecond
)

// lockAt is tryLockAt that waits. waiting is called once if it has to.
func lockAt(ctx context.Context, path string, mode lockMode, waiting func()) (*fileLock, error) {
	for pause := lockPauseMin; ; pause = min(2*pause, lockPauseMax) {
		l, err := tryLockAt(path, mode)
		if !errors.Is(err, errHeld) {
			return l, err
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, fmt.Errorf("wait for %q: %w", path, err)
		}
	}
}

// sleep waits for d, or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// isAt reports whether path still names the locked file.
func (l *fileLock) isAt(path string) (bool, error) {
	open, err := l.f.Stat()
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

// release lets the lock go. It is idempotent.
func (l *fileLock) release() error {
	if l.f == nil {
		return nil
	}
	err := errors.Join(unlock(l.f), l.f.Close())
	l.f = nil
	return err
}
