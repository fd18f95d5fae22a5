package namespace

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lastReviewed is the newest system call that the filter's lists were made in
// view of (the numbers from 424 on are the same on all architectures). Newer
// ones don't exist for the guest.
const lastReviewed = 469

// namespaceFlags are the flags of clone(2) and unshare(2) that make
// namespaces: in a new user namespace a process has all capabilities, and with
// them the kernel's interfaces that the guest's commands are kept from.
const namespaceFlags = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
	unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// refused are the system calls that fail with EPERM.
//
// ptrace(2) is not among them: it reaches what the guest's commands may signal
// anyway, and since Linux 4.8 a tracer can't get a call past the filter.
var refused = append([]uint32{
	// Mounts: the read-only view and the covers stay what they are.
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN,
	unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR, unix.SYS_OPEN_TREE_ATTR,
	unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_OPEN_BY_HANDLE_AT,
	unix.SYS_FANOTIFY_INIT,
	// Namespaces of others.
	unix.SYS_SETNS,
	// Keyrings know no namespace: the host's user has the same ones.
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL,
	// io_uring opens sockets of any family past this filter.
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	// The kernel itself, its log, its clocks, its observation.
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_SYSLOG, unix.SYS_KEXEC_LOAD,
	unix.SYS_KEXEC_FILE_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_REBOOT,
	unix.SYS_ACCT, unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_ADJTIMEX, unix.SYS_CLOCK_ADJTIME,
	unix.SYS_VHANGUP, unix.SYS_NFSSERVCTL, unix.SYS_LOOKUP_DCOOKIE,
}, refusedHere...)

// A filter is a classic BPF program in the making. Each part leaves the system
// call's number in the accumulator for the next, or returns.
type filter []unix.SockFilter

// Offsets in struct seccomp_data of linux/seccomp.h. Of an argument it is the
// lower half, which is all that the calls below look at: they take an int, or
// flags below 1<<32. Both architectures are little-endian.
const (
	offsetNumber = 0
	offsetArch   = 4
)

// offsetArg returns the offset of the lower half of argument n.
func offsetArg(n int) uint32 { return uint32(16 + 8*n) }

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

// when runs the part that body adds if the accumulator compares with k as op
// (BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET) says, and skips it otherwise.
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

// commandFilter returns the filter of the guest's processes.
func commandFilter() filter {
	var f filter
	f.load(offsetArch)
	f.unless(unix.BPF_JEQ, auditArch, returning(kill)) // a 32-bit program has other numbers
	f.load(offsetNumber)
	f.when(unix.BPF_JGT, lastReviewed, returning(fail(unix.ENOSYS))) // x32 is above too
	for _, number := range refused {
		f.when(unix.BPF_JEQ, number, returning(fail(unix.EPERM)))
	}
	// Its flags are in memory, where a filter can't look; C libraries fall back
	// to clone.
	f.when(unix.BPF_JEQ, unix.SYS_CLONE3, returning(fail(unix.ENOSYS)))
	f.when(unix.BPF_JEQ, unix.SYS_CLONE, refuseFlags(namespaceFlags))
	f.when(unix.BPF_JEQ, unix.SYS_UNSHARE, refuseFlags(namespaceFlags|unix.CLONE_NEWTIME))
	f.when(unix.BPF_JEQ, unix.SYS_SOCKET, allowFamilies)
	f.when(unix.BPF_JEQ, unix.SYS_SOCKETPAIR, allowFamilies)
	f.when(unix.BPF_JEQ, unix.SYS_IOCTL, refuseTerminalInput)
	f.ret(allow)
	return f
}

// refuseFlags refuses a call whose first argument has one of the flags.
func refuseFlags(flags uint32) func(*filter) {
	return func(f *filter) {
		f.load(offsetArg(0))
		f.when(unix.BPF_JSET, flags, returning(fail(unix.EPERM)))
		f.ret(allow)
	}
}

// allowFamilies refuses sockets of all families but those that a network
// namespace contains and that the guard or the guest's own kernel objects end:
// AF_VSOCK reaches the host's hypervisor from any namespace, AF_ALG and the
// rarer ones are the kernel's least-tested doors.
func allowFamilies(f *filter) {
	f.load(offsetArg(0))
	for _, family := range []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6} {
		f.when(unix.BPF_JEQ, family, returning(allow))
	}
	f.when(unix.BPF_JEQ, unix.AF_NETLINK, func(f *filter) {
		f.load(offsetArg(2))
		f.when(unix.BPF_JEQ, unix.NETLINK_ROUTE, returning(allow))
	})
	f.ret(fail(unix.EAFNOSUPPORT))
}

// refuseTerminalInput refuses the two requests that put bytes into a
// terminal's input as if they had been typed: the standard files may be the
// host's terminal.
func refuseTerminalInput(f *filter) {
	f.load(offsetArg(1))
	f.when(unix.BPF_JEQ, unix.TIOCSTI, returning(fail(unix.EPERM)))
	f.when(unix.BPF_JEQ, unix.TIOCLINUX, returning(fail(unix.EPERM)))
	f.ret(allow)
}

// installFilter puts all threads of the process, and all that they start,
// under the filter, for good.
func installFilter() error {
	if auditArch == 0 {
		return fmt.Errorf("filter system calls on %s: %w", runtime.GOARCH, errors.ErrUnsupported)
	}
	// The flag of the second call carries this thread's "no new privileges" to
	// the others, without which the filter would be refused.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	f := commandFilter()
	program := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("filter system calls: %w", errno)
	}
	if r != 0 {
		return fmt.Errorf("filter system calls: thread %d can't follow", r)
	}
	return nil
}
