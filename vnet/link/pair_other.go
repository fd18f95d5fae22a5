//go:build !linux && !darwin

package link

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// Pair; see pair_unix.go.
func Pair(format Format) (ours, guests *os.File, err error) {
	return nil, nil, fmt.Errorf("make pair of %v sockets on %s: %w", format, runtime.GOOS, errors.ErrUnsupported)
}
