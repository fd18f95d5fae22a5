package namespace

import (
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/seccomp"
)

// namespaceFlags are the flags of clone(2) and unshare(2) that make
// namespaces: in a new user namespace a process has all capabilities, and with
// them the kernel's interfaces that the guest's commands are kept from.
const namespaceFlags = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
	unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// commandFilter returns the filter of the guest's processes.
//
// ptrace(2) passes: it reaches what the guest's commands may signal anyway, and
// since Linux 4.8 a tracer can't get a call past the filter.
func commandFilter() seccomp.Filter {
	f := seccomp.New()
	f.On(unix.SYS_CLONE, refuseFlags(namespaceFlags))
	f.On(unix.SYS_UNSHARE, refuseFlags(namespaceFlags|unix.CLONE_NEWTIME))
	return f
}

// refuseFlags refuses a call whose first argument has one of the flags.
func refuseFlags(flags uint32) func(*seccomp.Filter) {
	return func(f *seccomp.Filter) {
		f.Arg(0)
		f.When(unix.BPF_JSET, flags, func(f *seccomp.Filter) { f.Fail(unix.EPERM) })
		f.Allow()
	}
}
