package namespace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pidMax bounds the numbers of processes, and so all processes and threads of a PID
// namespace, whosever they are. Before Linux 6.14 it is the host's, and can't be
// written here.
const pidMax = "/proc/sys/kernel/pid_max"

// spareProcesses is what the PID namespace may have beyond the bound of one user:
// the numbers below 300 that the kernel doesn't use twice, and those of the agent's
// threads, which must not run out with its commands'.
const spareProcesses = 1024

// boundProcesses bounds the processes of the guest, all users' together. It wants
// /proc/sys to be writable still.
func boundProcesses(n uint32) error {
	err := os.WriteFile(pidMax, []byte(strconv.FormatUint(uint64(n)+spareProcesses, 10)), 0)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("bound processes: %w", err)
	}
	return nil
}

// processBound says how far the kernel bounds a guest's processes.
func processBound() string {
	switch {
	case kernelIs(6, 14):
		return "its processes are bounded"
	case countsByNamespace():
		return "the processes of each of its users are bounded, and those of all from Linux 6.14 on"
	}
	return "its processes are not bounded, as from Linux 5.14 on"
}

// countsByNamespace reports whether the kernel counts the processes of a user within
// the user namespace, so that neither other guests nor the host's user have part in
// the bound.
func countsByNamespace() bool { return kernelIs(5, 14) }

// kernelIs reports whether the kernel is of that version, or a newer one.
func kernelIs(major, minor int) bool {
	var name unix.Utsname
	return unix.Uname(&name) == nil && atLeast(unix.ByteSliceToString(name.Release[:]), major, minor)
}

// atLeast reports whether a kernel's release, such as 6.1.0-13-amd64, is that version
// or a newer one.
func atLeast(release string, major, minor int) bool {
	first, rest, _ := strings.Cut(release, ".")
	second := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	a, err1 := strconv.Atoi(first)
	b, err2 := strconv.Atoi(second)
	return err1 == nil && err2 == nil && (a > major || a == major && b >= minor)
}
