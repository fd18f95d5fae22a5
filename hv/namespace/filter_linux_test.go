package namespace

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/seccomp"
)

func TestFilterVerdicts(t *testing.T) {
	t.Parallel()
	if err := seccomp.Supported(); err != nil {
		t.Skip(err)
	}
	f := commandFilter()
	for _, row := range []struct {
		name   string
		number uint32
		flags  uint64
		want   error
	}{
		{"execve", unix.SYS_EXECVE, 0, nil},
		{"ptrace", unix.SYS_PTRACE, 0, nil},
		{"mount", unix.SYS_MOUNT, 0, unix.EPERM},
		{"a thread", unix.SYS_CLONE, unix.CLONE_VM | unix.CLONE_THREAD | unix.CLONE_SIGHAND, nil},
		{"a process", unix.SYS_CLONE, uint64(unix.SIGCHLD), nil},
		{"a user namespace", unix.SYS_CLONE, unix.CLONE_NEWUSER | uint64(unix.SIGCHLD), unix.EPERM},
		{"a network namespace", unix.SYS_CLONE, unix.CLONE_NEWNET, unix.EPERM},
		{"unshare files", unix.SYS_UNSHARE, unix.CLONE_FILES, nil},
		{"unshare mounts", unix.SYS_UNSHARE, unix.CLONE_NEWNS | unix.CLONE_FILES, unix.EPERM},
		{"unshare time", unix.SYS_UNSHARE, unix.CLONE_NEWTIME, unix.EPERM},
	} {
		if got := f.Verdict(row.number, row.flags); got != row.want {
			t.Errorf("%s: %v; want %v", row.name, got, row.want)
		}
	}
}
