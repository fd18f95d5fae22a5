package confine

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lastReviewed is the newest system call that the lists were made in view of (the
// numbers from 424 on are the same on all architectures). Newer ones don't exist
// for the process.
const lastReviewed = 469

// refused are the system calls that fail with EPERM. The list is of what is
// refused, not of what is allowed: the process is the caller's own program, with
// whatever libraries, and Go's runtime takes to new calls with each version.
var refused = append([]uint32{
	// Programs, and processes; see also clone.
	unix.SYS_EXECVE, unix.SYS_EXECVEAT,
	// Other processes' memory and descriptors.
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE, unix.SYS_PIDFD_GETFD, unix.SYS_KCMP,
	// Mounts, roots, namespaces.
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN,
	unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR, unix.SYS_OPEN_TREE_ATTR,
	unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_SETNS, unix.SYS_UNSHARE,
	// Files past the rules for paths.
	unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_FANOTIFY_INIT, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	// Devices, and keys, which know no rules for paths.
	unix.SYS_MKNODAT, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL,
	// The kernel itself, its log, its clocks, its observation.
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_SYSLOG, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_REBOOT, unix.SYS_ACCT, unix.SYS_SETTIMEOFDAY,
	unix.SYS_CLOCK_SETTIME, unix.SYS_ADJTIMEX, unix.SYS_CLOCK_ADJTIME, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_VHANGUP,
	unix.SYS_PERSONALITY, unix.SYS_NFSSERVCTL, unix.SYS_LOOKUP_DCOOKIE,
}, refusedHere...)

// families are those of the sockets that may still be made; of Netlink only routes.
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6}

// A filter is a classic BPF program in the making. Each part leaves the system call's
// number in the accumulator for the next, or returns. That of package hv/namespace,
// for the guest's commands, is made alike.
type filter []unix.SockFilter

// Offsets in struct seccomp_data of linux/seccomp.h. Both architectures are
// little-endian.
const (
	offsetNumber = 0
	offsetArch   = 4
)

// offsetArg returns the offset of the lower half of argument n, and offsetHigh of
// its upper half.
func offsetArg(n int) uint32  { return uint32(16 + 8*n) }
func offsetHigh(n int) uint32 { return offsetArg(n) + 4 }

// The filter's verdicts.
const (
	allow = unix.SECCOMP_RET_ALLOW
	kill  = unix.SECCOMP_RET_KILL_PROCESS
)

// fail is the verdict that makes the call fail with errno.
func fail(errno unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(errno) }

// load puts the word at offset into the accumulator.
func (f *filter) load(offset uint32) {
	*f = append(*f, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset})
}

// ret ends with a verdict.
func (f *filter) ret(verdict uint32) {
	*f = append(*f, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: verdict})
}

// when runs the part that body adds if the accumulator compares with k as op says,
// and skips it otherwise.
func (f *filter) when(op uint16, k uint32, body func(*filter)) {
	var part filter
	body(&part)
	*f = append(*f, unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jf: uint8(len(part))})
	*f = append(*f, part...)
}

// unless is the opposite of when.
func (f *filter) unless(op uint16, k uint32, body func(*filter)) {
	var part filter
	body(&part)
	*f = append(*f, unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jt: uint8(len(part))})
	*f = append(*f, part...)
}

// returning returns a body that is only a verdict.
func returning(verdict uint32) func(*filter) { return func(f *filter) { f.ret(verdict) } }

// processFilter returns the filter of the process.
func processFilter() filter {
	var f filter
	f.load(offsetArch)
	f.unless(unix.BPF_JEQ, auditArch, returning(kill)) // a 32-bit call has another number
	f.load(offsetNumber)
	f.when(unix.BPF_JGT, lastReviewed, returning(fail(unix.ENOSYS))) // x32 is above too
	for _, number := range refused {
		f.when(unix.BPF_JEQ, number, returning(fail(unix.EPERM)))
	}
	// Its flags are in memory, where a filter can't look; C libraries fall back to
	// clone.
	f.when(unix.BPF_JEQ, unix.SYS_CLONE3, returning(fail(unix.ENOSYS)))
	f.when(unix.BPF_JEQ, unix.SYS_CLONE, threadsOnly)
	f.when(unix.BPF_JEQ, unix.SYS_SOCKET, allowFamilies)
	f.when(unix.BPF_JEQ, unix.SYS_SOCKETPAIR, allowFamilies)
	f.when(unix.BPF_JEQ, unix.SYS_PRCTL, keepHidden)
	f.when(unix.BPF_JEQ, unix.SYS_PRLIMIT64, keepLimits)
	f.when(unix.BPF_JEQ, unix.SYS_SETRLIMIT, returning(fail(unix.EPERM)))
	f.when(unix.BPF_JEQ, unix.SYS_IOCTL, refuseTerminalInput)
	f.ret(allow)
	return f
}

// threadsOnly lets the process make threads and no processes.
func threadsOnly(f *filter) {
	f.load(offsetArg(0))
	f.when(unix.BPF_JSET, unix.CLONE_THREAD, returning(allow))
	f.ret(fail(unix.EPERM))
}

// allowFamilies refuses sockets of the kernel's rarer families, and those that see
// others' packets or reach other machines past the network.
func allowFamilies(f *filter) {
	f.load(offsetArg(0))
	for _, family := range families {
		f.when(unix.BPF_JEQ, family, returning(allow))
	}
	f.when(unix.BPF_JEQ, unix.AF_NETLINK, func(f *filter) {
		f.load(offsetArg(2))
		f.when(unix.BPF_JEQ, unix.NETLINK_ROUTE, returning(allow))
	})
	f.ret(fail(unix.EAFNOSUPPORT))
}

// keepHidden refuses to make the process dumpable again.
func keepHidden(f *filter) {
	f.load(offsetArg(0))
	f.when(unix.BPF_JEQ, unix.PR_SET_DUMPABLE, returning(fail(unix.EPERM)))
	f.ret(allow)
}

// keepLimits lets limits be read: the third argument, the new ones, must be nil. Root
// could raise them.
func keepLimits(f *filter) {
	f.load(offsetArg(2))
	f.unless(unix.BPF_JEQ, 0, returning(fail(unix.EPERM)))
	f.load(offsetHigh(2))
	f.unless(unix.BPF_JEQ, 0, returning(fail(unix.EPERM)))
	f.ret(allow)
}

// refuseTerminalInput refuses the two requests that put bytes into a terminal's input
// as if they had been typed.
func refuseTerminalInput(f *filter) {
	f.load(offsetArg(1))
	f.when(unix.BPF_JEQ, unix.TIOCSTI, returning(fail(unix.EPERM)))
	f.when(unix.BPF_JEQ, unix.TIOCLINUX, returning(fail(unix.EPERM)))
	f.ret(allow)
}

// seccompSupported returns why there can't be a filter. The error wraps
// errors.ErrUnsupported.
func seccompSupported() error {
	if auditArch == 0 {
		return unsupported("no list of system calls")
	}
	// A flag without a program: the kernel has the call if the pointer is at fault.
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, 0)
	if errno != unix.EFAULT {
		return unsupported("no filters of system calls in the kernel")
	}
	return nil
}

// installFilter puts all threads of the process, and all that they start, under the
// filter, for good.
func installFilter() error {
	if err := seccompSupported(); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	f := processFilter()
	program := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	switch {
	case errno != 0:
		return fmt.Errorf("filter system calls: %w", errno)
	case r != 0:
		return errors.New("filter system calls: a thread can't follow")
	}
	return nil
}
