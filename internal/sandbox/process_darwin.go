package sandbox

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice"
)

// rootDir is where a sandbox's process works. See process_linux.go.
const rootDir = "/"

// signTimeout bounds the making of a signed copy, which takes a second for a large
// program, and is made once.
const signTimeout = time.Minute

// executable returns the program of a sandbox's process. See process_linux.go;
// here the running one must still be where it was. Where a backend wants it signed
// it is a copy that is; without one that backend says why it can't be used.
func executable(asked string) (string, error) {
	if asked != "" {
		return asked, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), signTimeout)
	defer cancel()
	for _, b := range sluice.Backends() {
		if b.Executable == nil {
			continue
		}
		if path, err := b.Executable(ctx); err == nil {
			return path, nil
		}
	}
	return os.Executable()
}

// processAttributes are those of a sandbox's process. See process_linux.go.
func processAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// holdThread has nothing to do: there is no parent-death signal.
func holdThread(<-chan struct{}) {}

// prepareProcess has nothing to do.
func prepareProcess() error { return nil }

// socketPair returns the two ends of a byte stream. Between its two steps no
// other goroutine may fork, or the child would keep the ends open.
func socketPair() (*os.File, *os.File, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	unix.CloseOnExec(fds[0])
	unix.CloseOnExec(fds[1])
	return os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control"), nil
}
