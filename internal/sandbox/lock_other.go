//go:build !unix

package sandbox

import (
	"errors"
	"os"
)

// tryLock can't lock here. See lock.go.
func tryLock(*os.File) error { return errors.ErrUnsupported }

// isLocked can't tell here.
func isLocked(*os.File) (bool, error) { return false, errors.ErrUnsupported }
