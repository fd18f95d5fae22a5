//go:build !linux && !darwin

package link

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// openDatagram; see datagram_unix.go.
func openDatagram(f *os.File, _ Config) (Link, error) {
	f.Close()
	return nil, fmt.Errorf("datagrams on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
