//go:build !linux

package guest

import (
	"errors"
	"fmt"
	"runtime"
)

var errPlatform = fmt.Errorf("guest agent on %s: %w", runtime.GOOS, errors.ErrUnsupported)

// NewSystem returns an error matching errors.ErrUnsupported: guests are Linux.
func NewSystem(prepare func() error) (System, error) { return nil, errPlatform }

// TuneKernel returns an error matching errors.ErrUnsupported: guests are Linux.
func TuneKernel() error { return errPlatform }
