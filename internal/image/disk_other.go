//go:build !linux && !darwin

package image

import (
	"errors"
	"os"
)

// Nothing is unpacked here: see tryLock.
func makeFIFO(*os.Root, string) error         { return errors.ErrUnsupported }
func setXattr(*os.File, string, string) error { return errors.ErrUnsupported }
func syncTree(*os.File) error                 { return errors.ErrUnsupported }
