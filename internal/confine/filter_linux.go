package confine

import (
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/seccomp"
)

// refused are the system calls that fail with EPERM, beside those that package
// seccomp refuses anyway. The list is of what is refused, not of what is allowed:
// the process is the caller's own program, with whatever libraries, and Go's runtime
// takes to new calls with each version.
var refused = append([]uint32{
	// Programs, and processes; see also clone.
	unix.SYS_EXECVE, unix.SYS_EXECVEAT,
	// Other processes' memory and descriptors.
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE, unix.SYS_PIDFD_GETFD, unix.SYS_KCMP,
	// Roots and namespaces.
	unix.SYS_CHROOT, unix.SYS_UNSHARE, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
	// Devices, and what keeps addresses from being guessed.
	unix.SYS_MKNODAT, unix.SYS_PERSONALITY,
}, refusedHere...)

// processFilter returns the filter of the process.
func processFilter() seccomp.Filter {
	f := seccomp.New(refused...)
	f.On(unix.SYS_CLONE, threadsOnly)
	f.On(unix.SYS_PRCTL, keepHidden)
	f.On(unix.SYS_PRLIMIT64, keepLimits)
	f.On(unix.SYS_SETRLIMIT, refuse)
	return f
}

// refuse refuses whatever has come so far.
func refuse(f *seccomp.Filter) { f.Fail(unix.EPERM) }

// threadsOnly lets the process make threads and no processes.
func threadsOnly(f *seccomp.Filter) {
	f.Arg(0)
	f.When(unix.BPF_JSET, unix.CLONE_THREAD, (*seccomp.Filter).Allow)
	refuse(f)
}

// keepHidden refuses to make the process dumpable again.
func keepHidden(f *seccomp.Filter) {
	f.Arg(0)
	f.When(unix.BPF_JEQ, unix.PR_SET_DUMPABLE, refuse)
	f.Allow()
}

// keepLimits lets limits be read: the third argument, the new ones, must be nil. Root
// could raise them.
func keepLimits(f *seccomp.Filter) {
	f.Arg(2)
	f.Unless(unix.BPF_JEQ, 0, refuse)
	f.ArgHigh(2)
	f.Unless(unix.BPF_JEQ, 0, refuse)
	f.Allow()
}
