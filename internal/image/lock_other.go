//go:build !linux && !darwin

package image

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// tryLock can't lock here, so that Open fails. See fileLock.
func tryLock(*os.File, lockMode) error {
	return fmt.Errorf("lock files on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func unlock(*os.File) error { return nil }
