//go:build unix

package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// openFiles returns how many files this process may open: the soft limit. See
// fitFiles.
func openFiles() (uint64, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("read limit of open files: %w", err)
	}
	return uint64(l.Cur), nil
}
