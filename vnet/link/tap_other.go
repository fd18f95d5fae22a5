//go:build !linux

package link

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// openTAP; see tap_linux.go.
func openTAP(f *os.File, _ Config) (Link, error) {
	f.Close()
	return nil, fmt.Errorf("tap on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
