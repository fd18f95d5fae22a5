package seccomp

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LastReviewed is the newest system call that the list of refused ones was made in
// view of (the numbers from 424 on are the same on all architectures).
const LastReviewed = 469

// refused are the system calls that fail with EPERM for whoever has a filter.
var refused = append([]uint32{
	// Mounts: what is shown read-only, or covered, stays so.
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN,
	unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR, unix.SYS_OPEN_TREE_ATTR,
	unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_SWAPON, unix.SYS_SWAPOFF,
	// Namespaces of others.
	unix.SYS_SETNS,
	// Files past what limits paths; io_uring also opens sockets of any family.
	unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_FANOTIFY_INIT, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	// Keyrings know no namespace: the host's user has the same ones.
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL,
	// The kernel itself, its log, its clocks, its observation.
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_SYSLOG, unix.SYS_KEXEC_LOAD,
	unix.SYS_KEXEC_FILE_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_REBOOT,
	unix.SYS_ACCT, unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_ADJTIMEX, unix.SYS_CLOCK_ADJTIME,
	unix.SYS_VHANGUP, unix.SYS_NFSSERVCTL, unix.SYS_LOOKUP_DCOOKIE,
}, refusedHere...)

// A Filter is a classic BPF program in the making. Each part leaves the system
// call's number in the accumulator for the next, or ends with a verdict; a call that
// gets through all of them is allowed.
type Filter []unix.SockFilter

// Offsets in struct seccomp_data of linux/seccomp.h.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16
)

// The verdicts. A refusal is SECCOMP_RET_ERRNO with the number of an error.
const (
	allow = unix.SECCOMP_RET_ALLOW
	kill  = unix.SECCOMP_RET_KILL_PROCESS
)

// New returns a filter that ends a process whose call is of another architecture,
// and refuses what none of ours needs, and those calls that more names: the numbers
// of calls that fail with EPERM.
func New(more ...uint32) Filter {
	var f Filter
	f.load(offsetArch)
	f.Unless(unix.BPF_JEQ, auditArch, func(f *Filter) { f.ret(kill) }) // a 32-bit program has other numbers
	f.load(offsetNumber)
	f.When(unix.BPF_JGT, LastReviewed, func(f *Filter) { f.Fail(unix.ENOSYS) }) // x32 is above too
	for _, list := range [][]uint32{refused, more} {
		for _, number := range list {
			f.On(number, func(f *Filter) { f.Fail(unix.EPERM) })
		}
	}
	// Its flags are in memory; C libraries fall back to clone.
	f.On(unix.SYS_CLONE3, func(f *Filter) { f.Fail(unix.ENOSYS) })
	f.On(unix.SYS_SOCKET, allowFamilies)
	f.On(unix.SYS_SOCKETPAIR, allowFamilies)
	f.On(unix.SYS_IOCTL, refuseTerminalInput)
	return f
}

// allowFamilies refuses sockets of all families but those that a network namespace
// contains and the rules of a network know: AF_VSOCK reaches the host's hypervisor
// from any namespace, AF_PACKET sees others' packets, AF_ALG and the rarer ones are
// the kernel's least-tested doors.
func allowFamilies(f *Filter) {
	f.Arg(0)
	for _, family := range []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6} {
		f.When(unix.BPF_JEQ, family, (*Filter).Allow)
	}
	f.When(unix.BPF_JEQ, unix.AF_NETLINK, func(f *Filter) {
		f.Arg(2)
		f.When(unix.BPF_JEQ, unix.NETLINK_ROUTE, (*Filter).Allow)
	})
	f.Fail(unix.EAFNOSUPPORT)
}

// refuseTerminalInput refuses the two requests that put bytes into a terminal's
// input as if they had been typed: a standard file may be the host's terminal.
func refuseTerminalInput(f *Filter) {
	f.Arg(1)
	f.When(unix.BPF_JEQ, unix.TIOCSTI, func(f *Filter) { f.Fail(unix.EPERM) })
	f.When(unix.BPF_JEQ, unix.TIOCLINUX, func(f *Filter) { f.Fail(unix.EPERM) })
	f.Allow()
}

// On runs the part that body adds for one system call. Where body loads an argument
// it must end with a verdict.
func (f *Filter) On(number uint32, body func(*Filter)) { f.When(unix.BPF_JEQ, number, body) }

// When runs the part that body adds if the accumulator compares with k as op
// (BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET) says, and skips it otherwise. A part is at
// most 255 instructions long.
func (f *Filter) When(op uint16, k uint32, body func(*Filter)) {
	part := partOf(body)
	*f = append(*f, unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jf: uint8(len(part))})
	*f = append(*f, part...)
}

// Unless is the opposite of When.
func (f *Filter) Unless(op uint16, k uint32, body func(*Filter)) {
	part := partOf(body)
	*f = append(*f, unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jt: uint8(len(part))})
	*f = append(*f, part...)
}

// partOf returns what body adds.
func partOf(body func(*Filter)) Filter {
	var part Filter
	if body(&part); len(part) > 255 {
		panic("seccomp: internal error: a part that no jump gets over")
	}
	return part
}

// Arg puts the lower half of argument n, from 0 on, into the accumulator: all there
// is of an int, and of flags below 1<<32. Both architectures are little-endian.
func (f *Filter) Arg(n int) { f.load(uint32(offsetArgs + 8*n)) }

// ArgHigh is Arg for the upper half.
func (f *Filter) ArgHigh(n int) { f.load(uint32(offsetArgs + 8*n + 4)) }

// Allow ends with the verdict that the call passes.
func (f *Filter) Allow() { f.ret(allow) }

// Fail ends with the verdict that the call fails with errno.
func (f *Filter) Fail(errno unix.Errno) { f.ret(unix.SECCOMP_RET_ERRNO | uint32(errno)) }

// load puts the word at offset into the accumulator.
func (f *Filter) load(offset uint32) {
	*f = append(*f, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset})
}

// ret ends with a verdict.
func (f *Filter) ret(verdict uint32) {
	*f = append(*f, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: verdict})
}

// Supported returns why there can't be a filter here, nil if there can. The error
// wraps errors.ErrUnsupported.
func Supported() error {
	if auditArch == 0 {
		return fmt.Errorf("no list of system calls on linux/%s: %w", runtime.GOARCH, errors.ErrUnsupported)
	}
	// A flag without a program: the kernel has the call if the pointer is at fault.
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, 0)
	if errno != unix.EFAULT {
		return fmt.Errorf("no filters of system calls in the kernel: %w", errors.ErrUnsupported)
	}
	return nil
}

// Install puts all threads of the process, and all that they start, under the
// filter, for good; none of them gets new privileges any more. The error wraps
// errors.ErrUnsupported where there can't be a filter.
func (f Filter) Install() error {
	if err := Supported(); err != nil {
		return err
	}
	// The flag of the second call carries this thread's "no new privileges" to the
	// others, without which the filter would be refused.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	f.Allow()
	program := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	switch {
	case errno != 0:
		return fmt.Errorf("filter system calls: %w", errno)
	case r != 0:
		return fmt.Errorf("filter system calls: thread %d can't follow", r)
	}
	return nil
}

// Verdict returns what the kernel would do with a system call of this architecture:
// nil for letting it pass, else the error that it fails with. Tests of filters ask
// it.
func (f Filter) Verdict(number uint32, args ...uint64) error {
	f.Allow()
	data := make([]uint32, (offsetArgs+8*6)/4)
	data[offsetNumber/4], data[offsetArch/4] = number, auditArch
	for i, arg := range args {
		data[offsetArgs/4+2*i], data[offsetArgs/4+2*i+1] = uint32(arg), uint32(arg>>32)
	}
	if verdict := f.run(data); verdict != allow {
		return unix.Errno(verdict & unix.SECCOMP_RET_DATA)
	}
	return nil
}

// run runs the program on the words of a struct seccomp_data.
func (f Filter) run(data []uint32) uint32 {
	var a uint32
	for pc := 0; ; pc++ {
		in := f[pc]
		jump := false
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = data[in.K/4]
			continue
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump = a == in.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump = a > in.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump = a >= in.K
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			jump = a&in.K != 0
		default:
			panic(fmt.Sprintf("seccomp: internal error: instruction %d has code %#x", pc, in.Code))
		}
		if jump {
			pc += int(in.Jt)
		} else {
			pc += int(in.Jf)
		}
	}
}
