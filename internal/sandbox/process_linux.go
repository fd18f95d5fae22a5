package sandbox

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// rootDir is where a sandbox's process works: a directory that nobody wants to
// unmount.
const rootDir = "/"

// executable returns the program of a sandbox's process: the asked one, or the
// running one, by a path that works even when its file is gone, as that of go
// run and go test is.
func executable(asked string) (string, error) {
	if asked != "" {
		return asked, nil
	}
	return "/proc/self/exe", nil
}

// processAttributes are those of a sandbox's process: a session of its own, so
// that a terminal's signals reach the creator only.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true}
}

// holdThread asks for a signal to end when the thread that started this process
// does. It is one that can be caught: what the sandbox leaves would stay
// otherwise. The wish is a thread's own, so it keeps that thread. See leash.go.
func holdThread(until <-chan struct{}) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0) != nil {
		return // the lifeline does
	}
	<-until
	_ = unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0)
}

// prepareProcess names the process, which was executed as "exe", and marks all
// descriptors to be closed by an exec. Some may have been inherited from the
// creator's own parents; what the process starts later must not get them.
func prepareProcess() error {
	if err := os.WriteFile("/proc/self/comm", []byte(Role), 0); err != nil {
		return fmt.Errorf("name process: %w", err)
	}
	err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if err != nil && err != unix.ENOSYS && err != unix.EINVAL { // kernels before 5.11
		return fmt.Errorf("seal descriptors: %w", err)
	}
	return nil
}

// socketPair returns the two ends of a byte stream.
func socketPair() (*os.File, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control"), nil
}
