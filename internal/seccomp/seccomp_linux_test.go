package seccomp

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// role is argv[0] of this binary as a process that installs a filter.
const role = "seccomp:try"

func TestMain(m *testing.M) {
	if os.Args[0] == role {
		try()
	}
	os.Exit(m.Run())
}

// needs skips a test where there can be no filter.
func needs(t *testing.T) {
	t.Helper()
	if err := Supported(); err != nil {
		t.Skip(err)
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	needs(t)
	f := New(unix.SYS_PTRACE)
	f.On(unix.SYS_UNSHARE, func(f *Filter) {
		f.ArgHigh(0)
		f.Unless(unix.BPF_JEQ, 0, func(f *Filter) { f.Fail(unix.EINVAL) })
		f.Arg(0)
		f.When(unix.BPF_JGE, 4, func(f *Filter) { f.Fail(unix.EDOM) })
		f.Allow()
	})
	for _, row := range []struct {
		name   string
		number uint32
		args   [3]uint64
		want   error
	}{
		{"read", unix.SYS_READ, [3]uint64{}, nil},
		{"execve", unix.SYS_EXECVE, [3]uint64{}, nil},
		{"mount", unix.SYS_MOUNT, [3]uint64{}, unix.EPERM},
		{"setns", unix.SYS_SETNS, [3]uint64{}, unix.EPERM},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, [3]uint64{}, unix.EPERM},
		{"one of more", unix.SYS_PTRACE, [3]uint64{}, unix.EPERM},
		{"clone3", unix.SYS_CLONE3, [3]uint64{}, unix.ENOSYS},
		{"a part of the caller's", unix.SYS_UNSHARE, [3]uint64{3}, nil},
		{"its argument", unix.SYS_UNSHARE, [3]uint64{4}, unix.EDOM},
		{"its upper half", unix.SYS_UNSHARE, [3]uint64{1 << 32}, unix.EINVAL},
		{"unix socket", unix.SYS_SOCKET, [3]uint64{unix.AF_UNIX, unix.SOCK_STREAM}, nil},
		{"IPv4 socket", unix.SYS_SOCKET, [3]uint64{unix.AF_INET, unix.SOCK_DGRAM | unix.SOCK_CLOEXEC}, nil},
		{"IPv6 socket", unix.SYS_SOCKET, [3]uint64{unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6}, nil},
		{"route netlink", unix.SYS_SOCKET, [3]uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, nil},
		{"route netlink, upper half set", unix.SYS_SOCKET, [3]uint64{unix.AF_NETLINK, unix.SOCK_RAW, 1<<32 + unix.NETLINK_ROUTE}, nil},
		{"netfilter netlink", unix.SYS_SOCKET, [3]uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER}, unix.EAFNOSUPPORT},
		{"audit netlink", unix.SYS_SOCKET, [3]uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT}, unix.EAFNOSUPPORT},
		{"packet socket", unix.SYS_SOCKET, [3]uint64{unix.AF_PACKET, unix.SOCK_RAW}, unix.EAFNOSUPPORT},
		{"vsock", unix.SYS_SOCKET, [3]uint64{unix.AF_VSOCK, unix.SOCK_STREAM}, unix.EAFNOSUPPORT},
		{"vsock, upper half set", unix.SYS_SOCKET, [3]uint64{1<<32 + unix.AF_VSOCK, unix.SOCK_STREAM}, unix.EAFNOSUPPORT},
		{"vsock pair", unix.SYS_SOCKETPAIR, [3]uint64{unix.AF_VSOCK}, unix.EAFNOSUPPORT},
		{"unix pair", unix.SYS_SOCKETPAIR, [3]uint64{unix.AF_UNIX}, nil},
		{"window size", unix.SYS_IOCTL, [3]uint64{0, unix.TIOCGWINSZ}, nil},
		{"typing", unix.SYS_IOCTL, [3]uint64{0, unix.TIOCSTI}, unix.EPERM},
		{"typing, upper half set", unix.SYS_IOCTL, [3]uint64{0, 1<<32 + unix.TIOCSTI}, unix.EPERM},
		{"pasting", unix.SYS_IOCTL, [3]uint64{0, unix.TIOCLINUX}, unix.EPERM},
		{"the last reviewed", LastReviewed, [3]uint64{}, nil},
		{"a newer one", LastReviewed + 1, [3]uint64{}, unix.ENOSYS},
		{"x32", 1<<30 | unix.SYS_SOCKET, [3]uint64{unix.AF_UNIX}, unix.ENOSYS},
		{"no number", 1<<32 - 1, [3]uint64{}, unix.ENOSYS},
	} {
		if got := f.Verdict(row.number, row.args[:]...); got != row.want {
			t.Errorf("%s: %v; want %v", row.name, got, row.want)
		}
	}
	for _, arch := range []uint32{unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_ARM, unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_AARCH64} {
		if arch == auditArch {
			continue
		}
		if got := f.run([]uint32{unix.SYS_READ, arch}); got != kill {
			t.Errorf("architecture %#x: verdict %#x; want the end", arch, got)
		}
	}
}

// TestTheRest checks that every call but those on the list is allowed: no jump lands
// beside its mark.
func TestTheRest(t *testing.T) {
	t.Parallel()
	needs(t)
	f := New()
	special := map[uint32]bool{unix.SYS_CLONE3: true, unix.SYS_SOCKET: true, unix.SYS_SOCKETPAIR: true}
	for _, number := range refused {
		if special[number] {
			t.Errorf("call %d is on the list twice", number)
		}
		special[number] = true
		if got := f.Verdict(number); got != unix.EPERM {
			t.Errorf("call %d: %v; want refused", number, got)
		}
	}
	for number := range uint32(LastReviewed + 1) {
		if got := f.Verdict(number); !special[number] && got != nil {
			t.Errorf("call %d: %v; want allowed", number, got)
		}
	}
}

// TestLongPart checks that a part no jump gets over isn't cut.
func TestLongPart(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("it was taken")
		}
	}()
	var f Filter
	f.On(1, func(f *Filter) {
		for range 256 {
			f.Arg(0)
		}
	})
}

// TestInstall checks that the kernel takes a filter, for threads that are there and
// those to come.
func TestInstall(t *testing.T) {
	t.Parallel()
	needs(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Args = []string{role}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "operation not permitted, numerical argument out of domain" {
		t.Errorf("%s, %v", out, err)
	}
}

// try is the role: it prints how a refused call fails, and one of its own, made by
// another thread.
func try() {
	f := New()
	f.On(unix.SYS_GETPRIORITY, func(f *Filter) { f.Fail(unix.EDOM) })
	if err := f.Install(); err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
	second := make(chan error)
	go func() {
		_, err := unix.Getpriority(0, 0)
		second <- err
	}()
	os.Stdout.WriteString(unix.Mount("a", "/", "tmpfs", 0, "").Error() + ", " + (<-second).Error() + "\n")
	os.Exit(0)
}
