package namespace

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/seccomp"
)

// insideRole is the path by which a guest runs this test binary: its standard
// input is the binary's file, which it could not find by a path, since go test
// builds below a directory that is hidden.
const insideRole = "/proc/self/fd/0"

// An attempt is one thing that a guest's command tries.
type attempt struct {
	name string
	try  func() error
}

// inside runs the attempts of a set in a guest of cfg, and returns what each
// came to: "done", or the error's text.
func inside(t *testing.T, cfg hv.Config, set string, args ...string) map[string]string {
	t.Helper()
	binary, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	cfg.Stdio[0] = binary
	out, exit := runCommand(t, cfg, append([]string{insideRole, set}, args...)...)
	var results map[string]string
	if err := json.Unmarshal([]byte(out), &results); err != nil || exit.Code != 0 {
		t.Fatalf("attempts %q ended with %+v:\n%s", set, exit, out)
	}
	return results
}

// insideMain makes the attempts, in a guest.
func insideMain() {
	results := make(map[string]string)
	for _, a := range attempts[os.Args[1]](os.Args[2:]) {
		results[a.name] = "done"
		if err := a.try(); err != nil {
			results[a.name] = err.Error()
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// attempts are the sets.
var attempts = map[string]func(args []string) []attempt{
	"connect":  tryConnect,
	"patience": tryPatience,
	"families": tryFamilies,
	"process1": tryProcess1,
	"escape":   tryEscape,
	"files":    tryFiles,
}

// tryConnect connects to unix sockets and opens FIFOs at paths.
func tryConnect(paths []string) []attempt {
	var list []attempt
	for _, path := range paths {
		list = append(list, attempt{path, func() error {
			if strings.HasSuffix(path, ".fifo") {
				fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				_, err = unix.Write(fd, []byte("leak"))
				return err
			}
			// A socket's path is short; a directory's may not be.
			if dir := filepath.Dir(path); filepath.IsAbs(path) {
				if err := os.Chdir(dir); err != nil {
					return err
				}
				path = filepath.Base(path)
			}
			var errs []error
			for _, network := range []string{"unix", "unixgram", "unixpacket"} {
				c, err := net.Dial(network, path)
				if err == nil {
					_, err = c.Write([]byte("leak"))
					c.Close()
				}
				if err == nil {
					return nil
				}
				errs = append(errs, errors.Unwrap(err))
			}
			return errors.Join(errs...)
		}})
	}
	return list
}

// tryPatience connects for a while.
func tryPatience(paths []string) []attempt {
	list := tryConnect(paths)
	for i, once := range list {
		list[i].try = func() (err error) {
			for range 30 {
				if err = once.try(); err == nil {
					return nil
				}
				time.Sleep(10 * time.Millisecond)
			}
			return err
		}
	}
	return list
}

// tryFamilies opens sockets of every family, and does what would open one
// without socket(2).
func tryFamilies([]string) []attempt {
	var list []attempt
	for family := range 64 {
		list = append(list, attempt{"socket " + strconv.Itoa(family), func() error {
			var err error
			for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET} {
				var fd int
				if fd, err = unix.Socket(family, kind, 0); err == nil {
					unix.Close(fd)
					return nil
				}
			}
			return err
		}})
	}
	for protocol := 1; protocol < 24; protocol++ {
		list = append(list, attempt{"netlink " + strconv.Itoa(protocol), func() error {
			_, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, protocol)
			return err
		}})
	}
	return append(list,
		// The kernel takes the family as an int: the upper half must not count.
		attempt{"socket 1<<32 + vsock", func() error { return call(unix.SYS_SOCKET, 1<<32+unix.AF_VSOCK, unix.SOCK_STREAM, 0) }},
		attempt{"socketpair vsock", func() error { return call(unix.SYS_SOCKETPAIR, unix.AF_VSOCK, unix.SOCK_STREAM, 0) }},
		attempt{"raw", func() error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP); return err }},
		attempt{"io_uring", func() error {
			params := make([]byte, 120)
			return call(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params[0])))
		}},
	)
}

// call makes a system call.
func call(number uintptr, args ...uintptr) error {
	a := append(args, make([]uintptr, 6)...)
	if _, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

// tryProcess1 reaches for process 1: its program, memory, files and root.
func tryProcess1([]string) []attempt {
	list := []attempt{
		{"write exe", func() error { _, err := os.OpenFile("/proc/1/exe", os.O_WRONLY, 0); return err }},
		{"read exe", func() error { _, err := os.Open("/proc/1/exe"); return err }},
		{"read mem", func() error { _, err := os.Open("/proc/1/mem"); return err }},
		{"read environ", func() error { _, err := os.ReadFile("/proc/1/environ"); return err }},
		{"read root", func() error { _, err := os.ReadDir("/proc/1/root"); return err }},
		{"read cwd", func() error { _, err := os.ReadDir("/proc/1/cwd/"); return err }},
		{"read ns", func() error { _, err := os.Readlink("/proc/1/ns/net"); return err }},
		{"ptrace", func() error { return unix.PtraceAttach(1) }},
		{"ptrace seize", func() error { return call(unix.SYS_PTRACE, unix.PTRACE_SEIZE, 1) }},
		{"process_vm_readv", func() error {
			buf := make([]byte, 8)
			local := []unix.Iovec{{Base: &buf[0], Len: 8}}
			_, err := unix.ProcessVMReadv(1, local, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0)
			return err
		}},
		{"kcmp", func() error { return call(unix.SYS_KCMP, 1, uintptr(os.Getpid()), 0, 0, 0) }},
	}
	for fd := range 16 {
		list = append(list,
			attempt{fmt.Sprintf("open fd %d", fd), func() error { _, err := os.Open(fmt.Sprintf("/proc/1/fd/%d", fd)); return err }},
			attempt{fmt.Sprintf("take fd %d", fd), func() error {
				pidfd, err := unix.PidfdOpen(1, 0)
				if err != nil {
					return err
				}
				_, err = unix.PidfdGetfd(pidfd, fd, 0)
				return err
			}})
	}
	return list
}

// tryEscape makes namespaces and mounts, and reaches for what has no namespace.
func tryEscape([]string) []attempt {
	list := []attempt{
		{"mount tmpfs", func() error { return unix.Mount("t", "/tmp", "tmpfs", 0, "") }},
		{"remount root", func() error { return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND, "") }},
		{"umount /tmp", func() error { return unix.Unmount("/tmp", 0) }},
		{"umount hosts", func() error { return unix.Unmount("/etc/hosts", unix.MNT_DETACH) }},
		{"pivot_root", func() error { return unix.PivotRoot("/tmp", "/tmp") }},
		{"open_tree", func() error { _, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE); return err }},
		{"fsopen", func() error { _, err := unix.Fsopen("tmpfs", 0); return err }},
		{"mount_setattr", func() error {
			return unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
		}},
		{"open_by_handle_at", func() error {
			_, err := unix.OpenByHandleAt(unix.AT_FDCWD, unix.NewFileHandle(1, make([]byte, 8)), 0)
			return err
		}},
		{"keyctl", func() error { _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_USER_KEYRING, true); return err }},
		{"add_key", func() error { _, err := unix.AddKey("user", "a", []byte("b"), unix.KEY_SPEC_USER_KEYRING); return err }},
		{"request_key", func() error { _, err := unix.RequestKey("user", "a", "", 0); return err }},
		{"bpf", func() error { return call(unix.SYS_BPF, 0) }},
		{"perf_event_open", func() error { return call(unix.SYS_PERF_EVENT_OPEN, 0) }},
		{"userfaultfd", func() error { return call(unix.SYS_USERFAULTFD, 0) }},
		{"syslog", func() error { _, err := unix.Klogctl(10, nil); return err }},
		{"reboot", func() error { return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) }},
		{"settimeofday", func() error { return unix.Settimeofday(&unix.Timeval{Sec: 1}) }},
		{"sethostname", func() error { return unix.Sethostname([]byte("mine")) }},
		{"sysctl", func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }},
		{"core_pattern", func() error { return os.WriteFile("/proc/sys/kernel/core_pattern", []byte("|/tmp/x"), 0) }},
		{"sysrq", func() error { return os.WriteFile("/proc/sysrq-trigger", []byte("h"), 0) }},
		{"cgroup mkdir", func() error { return os.Mkdir("/sys/fs/cgroup/mine", 0o755) }},
		{"cgroup write", func() error { return os.WriteFile("/sys/fs/cgroup/cgroup.procs", []byte("1"), 0) }},
		{"mknod", func() error { return unix.Mknod("/tmp/vda", unix.S_IFBLK|0o600, int(unix.Mkdev(254, 0))) }},
		{"core limit", func() error { return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}) }},
		{"TIOCSTI", func() error { return unix.IoctlSetPointerInt(0, unix.TIOCSTI, 'x') }},
		{"TIOCSTI, upper half", func() error { return call(unix.SYS_IOCTL, 0, 1<<32+unix.TIOCSTI) }},
		{"add address", func() error { return netlinkAddress() }},
		{"clone3", func() error { return call(unix.SYS_CLONE3, 0, 0) }},
		{"a newer call", func() error { return call(seccomp.LastReviewed+1, 0) }},
		{"x32 call", func() error { return call(1<<30|39, 0) }},
	}
	for _, ns := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		list = append(list, attempt{"setns " + ns, func() error {
			fd, err := unix.Open("/proc/self/ns/"+ns, unix.O_RDONLY, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Setns(fd, 0)
		}})
	}
	for name, flag := range map[string]int{"user": unix.CLONE_NEWUSER, "mnt": unix.CLONE_NEWNS, "pid": unix.CLONE_NEWPID, "net": unix.CLONE_NEWNET,
		"ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS, "cgroup": unix.CLONE_NEWCGROUP, "time": unix.CLONE_NEWTIME} {
		list = append(list, attempt{"unshare " + name, func() error { return unix.Unshare(flag) }})
		if flag == unix.CLONE_NEWTIME {
			continue // clone(2) has no room for it
		}
		list = append(list, attempt{"clone " + name, func() error {
			_, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Cloneflags: uintptr(flag)}})
			return err
		}})
	}
	return list
}

// netlinkAddress asks the kernel to change the loopback card, as CAP_NET_ADMIN
// may.
func netlinkAddress() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// tryFiles writes to paths.
func tryFiles(paths []string) []attempt {
	var list []attempt
	for _, path := range paths {
		list = append(list, attempt{path, func() error {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
			if err != nil {
				return errors.Unwrap(err)
			}
			defer f.Close()
			_, err = f.WriteString("mine")
			return err
		}})
	}
	return list
}
