package namespace

import (
	"testing"

	"golang.org/x/sys/unix"
)

// verdict runs a filter on a system call, as the kernel does: the oracle that
// the rows below are read against.
func verdict(t *testing.T, f filter, arch, number uint32, args [6]uint64) uint32 {
	t.Helper()
	word := func(offset uint32) uint32 {
		switch {
		case offset == 0:
			return number
		case offset == 4:
			return arch
		case offset >= 16 && offset%4 == 0:
			return uint32(args[(offset-16)/8] >> (offset % 8 * 8))
		}
		t.Fatalf("load of offset %d", offset)
		return 0
	}
	var a uint32
	for pc := 0; pc < len(f); pc++ {
		switch in := f[pc]; in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = word(in.K)
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		default:
			taken := map[uint16]bool{unix.BPF_JEQ: a == in.K, unix.BPF_JGT: a > in.K, unix.BPF_JGE: a >= in.K, unix.BPF_JSET: a&in.K != 0}
			yes, ok := taken[in.Code&^(unix.BPF_JMP|unix.BPF_K)]
			if !ok {
				t.Fatalf("instruction %d has code %#x", pc, in.Code)
			}
			if yes {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
	}
	t.Fatal("the filter has no end")
	return 0
}

func TestFilterVerdicts(t *testing.T) {
	t.Parallel()
	if auditArch == 0 {
		t.Skip("there is no filter for this architecture")
	}
	f := commandFilter()
	const nsUser = unix.CLONE_NEWUSER | uint64(unix.SIGCHLD)
	for _, row := range []struct {
		name   string
		number uint32
		args   [6]uint64
		want   uint32
	}{
		{"read", unix.SYS_READ, [6]uint64{}, allow},
		{"execve", unix.SYS_EXECVE, [6]uint64{}, allow},
		{"ptrace", unix.SYS_PTRACE, [6]uint64{}, allow},
		{"mount", unix.SYS_MOUNT, [6]uint64{}, fail(unix.EPERM)},
		{"setns", unix.SYS_SETNS, [6]uint64{}, fail(unix.EPERM)},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, [6]uint64{}, fail(unix.EPERM)},
		{"clone3", unix.SYS_CLONE3, [6]uint64{}, fail(unix.ENOSYS)},
		{"a thread", unix.SYS_CLONE, [6]uint64{unix.CLONE_VM | unix.CLONE_THREAD | unix.CLONE_SIGHAND}, allow},
		{"a process", unix.SYS_CLONE, [6]uint64{uint64(unix.SIGCHLD)}, allow},
		{"a user namespace", unix.SYS_CLONE, [6]uint64{nsUser}, fail(unix.EPERM)},
		{"a network namespace", unix.SYS_CLONE, [6]uint64{unix.CLONE_NEWNET}, fail(unix.EPERM)},
		{"unshare files", unix.SYS_UNSHARE, [6]uint64{unix.CLONE_FILES}, allow},
		{"unshare mounts", unix.SYS_UNSHARE, [6]uint64{unix.CLONE_NEWNS | unix.CLONE_FILES}, fail(unix.EPERM)},
		{"unshare time", unix.SYS_UNSHARE, [6]uint64{unix.CLONE_NEWTIME}, fail(unix.EPERM)},
		{"unix socket", unix.SYS_SOCKET, [6]uint64{unix.AF_UNIX, unix.SOCK_STREAM}, allow},
		{"IPv4 socket", unix.SYS_SOCKET, [6]uint64{unix.AF_INET, unix.SOCK_DGRAM | unix.SOCK_CLOEXEC}, allow},
		{"IPv6 socket", unix.SYS_SOCKET, [6]uint64{unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6}, allow},
		{"route netlink", unix.SYS_SOCKET, [6]uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, allow},
		{"route netlink, upper half set", unix.SYS_SOCKET, [6]uint64{unix.AF_NETLINK, unix.SOCK_RAW, 1<<32 + unix.NETLINK_ROUTE}, allow},
		{"netfilter netlink", unix.SYS_SOCKET, [6]uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER}, fail(unix.EAFNOSUPPORT)},
		{"audit netlink", unix.SYS_SOCKET, [6]uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT}, fail(unix.EAFNOSUPPORT)},
		{"packet socket", unix.SYS_SOCKET, [6]uint64{unix.AF_PACKET, unix.SOCK_RAW}, fail(unix.EAFNOSUPPORT)},
		{"vsock", unix.SYS_SOCKET, [6]uint64{unix.AF_VSOCK, unix.SOCK_STREAM}, fail(unix.EAFNOSUPPORT)},
		{"vsock, upper half set", unix.SYS_SOCKET, [6]uint64{1<<32 + unix.AF_VSOCK, unix.SOCK_STREAM}, fail(unix.EAFNOSUPPORT)},
		{"vsock pair", unix.SYS_SOCKETPAIR, [6]uint64{unix.AF_VSOCK}, fail(unix.EAFNOSUPPORT)},
		{"unix pair", unix.SYS_SOCKETPAIR, [6]uint64{unix.AF_UNIX}, allow},
		{"window size", unix.SYS_IOCTL, [6]uint64{0, unix.TIOCGWINSZ}, allow},
		{"typing", unix.SYS_IOCTL, [6]uint64{0, unix.TIOCSTI}, fail(unix.EPERM)},
		{"typing, upper half set", unix.SYS_IOCTL, [6]uint64{0, 1<<32 + unix.TIOCSTI}, fail(unix.EPERM)},
		{"pasting", unix.SYS_IOCTL, [6]uint64{0, unix.TIOCLINUX}, fail(unix.EPERM)},
		{"the last reviewed", lastReviewed, [6]uint64{}, allow},
		{"a newer one", lastReviewed + 1, [6]uint64{}, fail(unix.ENOSYS)},
		{"x32", 1<<30 | unix.SYS_SOCKET, [6]uint64{unix.AF_UNIX}, fail(unix.ENOSYS)},
		{"no number", 1<<32 - 1, [6]uint64{}, fail(unix.ENOSYS)},
	} {
		if got := verdict(t, f, auditArch, row.number, row.args); got != row.want {
			t.Errorf("%s: verdict %#x; want %#x", row.name, got, row.want)
		}
	}
	for _, arch := range []uint32{unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_ARM, unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_AARCH64} {
		if got := verdict(t, f, arch, unix.SYS_READ, [6]uint64{}); arch != auditArch && got != kill {
			t.Errorf("architecture %#x: verdict %#x; want the end", arch, got)
		}
	}
}

// Every call but those on the lists is allowed: no jump lands beside its mark.
func TestFilterAllowsTheRest(t *testing.T) {
	t.Parallel()
	if auditArch == 0 {
		t.Skip("there is no filter for this architecture")
	}
	f := commandFilter()
	special := map[uint32]bool{unix.SYS_CLONE3: true, unix.SYS_SOCKET: true, unix.SYS_SOCKETPAIR: true}
	for _, number := range refused {
		if special[number] {
			t.Errorf("call %d is on the list twice", number)
		}
		special[number] = true
		if got := verdict(t, f, auditArch, number, [6]uint64{}); got != fail(unix.EPERM) {
			t.Errorf("call %d: verdict %#x; want refused", number, got)
		}
	}
	for number := range uint32(lastReviewed + 1) {
		if got := verdict(t, f, auditArch, number, [6]uint64{}); !special[number] && got != allow {
			t.Errorf("call %d: verdict %#x; want allowed", number, got)
		}
	}
}
