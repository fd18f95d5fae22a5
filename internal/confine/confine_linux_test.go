package confine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/seccomp"
)

// The role of this binary as a process that confines itself and tries things. It is
// argv[0], its arguments are the try and a directory.
const role = "confine:try"

func TestMain(m *testing.M) {
	if os.Args[0] == role {
		try(os.Args[1], os.Args[2])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A place is the directory of one test: what the confined process may read, what it
// may write, and what it may not see.
// mayEmpty holds directories of which the empty ones may go.
type place struct{ dir, readOnly, readWrite, hidden, mayEmpty string }

func placeIn(dir string) place {
	return place{dir, filepath.Join(dir, "ro"), filepath.Join(dir, "rw"), filepath.Join(dir, "hidden"), filepath.Join(dir, "me")}
}

func (p place) rules() Rules {
	return Rules{ReadOnly: append(System(), p.readOnly), ReadWrite: []string{p.readWrite}, RemoveEmpty: []string{p.mayEmpty}}
}

// run starts the role, with stdin, and returns its output and how it ended.
func run(t *testing.T, what string, stdin io.Reader) (out, stderr string, err error) {
	t.Helper()
	p := placeIn(t.TempDir())
	for _, dir := range []string{p.readOnly, p.readWrite, filepath.Join(p.readWrite, "a"), filepath.Join(p.readWrite, "b"), p.hidden, p.mayEmpty, filepath.Join(p.mayEmpty, "full")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var o, e bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Args = []string{role, what, p.dir}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &o, &e
	err = cmd.Run()
	return o.String(), e.String(), err
}

// needs skips a test where the kernel lacks a step.
func needs(t *testing.T, step string) {
	t.Helper()
	for _, s := range Probe() {
		if s.Name == step && !s.Done {
			t.Skip(s.Name, ": ", s.Detail)
		}
	}
}

// try is the confined process. It prints what it found as JSON.
func try(what, dir string) {
	p := placeIn(dir)
	found := make(map[string]string)
	switch what {
	case "forbidden", "allowed":
		tries := forbidden
		if what == "allowed" {
			tries = allowed
		}
		var before []func() error
		for _, a := range tries {
			before = append(before, a.prepare(p))
		}
		report, err := Process(p.rules())
		if err != nil {
			fatal(err)
		}
		found["report"] = report.String()
		for i, a := range tries {
			found[a.name] = fmt.Sprint(before[i]())
		}
	case "threads":
		found = confinedThreads(p)
	case "memory":
		rules := p.rules()
		rules.MemoryBytes = 256 << 20
		if _, err := Process(rules); err != nil {
			fatal(err)
		}
		fmt.Print("confined")
		var keep [][]byte
		for range 1024 {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			keep = append(keep, b)
		}
		fmt.Print("still here with ", len(keep))
		return
	case "replaced":
		replaced(p)
		return
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		fatal(err)
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(3)
}

// An attempt is something to try when confined.
type attempt struct {
	name string
	want string // the error's text; of what is allowed "<nil>"
	step string // without which it isn't refused
	// prepare is called before, and returns what is tried.
	prepare func(place) func() error
}

// now is the prepare of an attempt that needs nothing before.
func now(f func(place) error) func(place) func() error {
	return func(p place) func() error { return func() error { return f(p) } }
}

// call is the attempt of a system call.
func call(number uintptr, args ...uintptr) func(place) func() error {
	return now(func(place) error {
		var a [6]uintptr
		copy(a[:], args)
		if _, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
			return errno
		}
		return nil
	})
}

// open is the attempt to open a file.
func open(path func(place) string, flags int) func(place) func() error {
	return now(func(p place) error {
		fd, err := unix.Open(path(p), flags|unix.O_CLOEXEC, 0o600)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	})
}

const (
	denied  = "permission denied"
	refusal = "operation not permitted"
	family  = "address family not supported by protocol"
	missing = "function not implemented"
)

var forbidden = []attempt{
	{"execute", refusal, stepSeccomp, now(func(place) error { return unix.Exec("/bin/true", []string{"true"}, nil) })},
	{"start a program", "fork/exec /bin/true: " + refusal, stepSeccomp, now(func(place) error { return exec.Command("/bin/true").Run() })},
	{"execute a descriptor", refusal, stepSeccomp, call(unix.SYS_EXECVEAT, 0, 0, 0, 0, unix.AT_EMPTY_PATH)},
	{"clone", refusal, stepSeccomp, call(unix.SYS_CLONE, uintptr(unix.SIGCHLD))},
	{"clone into namespaces", refusal, stepSeccomp, call(unix.SYS_CLONE, unix.CLONE_NEWUSER)},
	{"clone3", missing, stepSeccomp, call(unix.SYS_CLONE3, 0, 0)},
	{"ptrace", refusal, stepSeccomp, now(func(place) error { return syscall.PtraceAttach(os.Getppid()) })},
	{"read another's memory", refusal, stepSeccomp, call(unix.SYS_PROCESS_VM_READV, uintptr(os.Getppid()))},
	{"write another's memory", refusal, stepSeccomp, call(unix.SYS_PROCESS_VM_WRITEV, uintptr(os.Getppid()))},
	{"take another's descriptor", refusal, stepSeccomp, call(unix.SYS_PIDFD_GETFD)},
	{"mount", refusal, stepSeccomp, now(func(p place) error { return unix.Mount("none", p.readWrite, "tmpfs", 0, "") })},
	{"unmount", refusal, stepSeccomp, now(func(p place) error { return unix.Unmount(p.readWrite, 0) })},
	{"open a mount", refusal, stepSeccomp, call(unix.SYS_OPEN_TREE)},
	{"change root", refusal, stepSeccomp, now(func(p place) error { return unix.Chroot(p.hidden) })},
	{"new namespaces", refusal, stepSeccomp, call(unix.SYS_UNSHARE, unix.CLONE_NEWNS)},
	{"enter namespaces", refusal, stepSeccomp, call(unix.SYS_SETNS)},
	{"io_uring", refusal, stepSeccomp, call(unix.SYS_IO_URING_SETUP)},
	{"bpf", refusal, stepSeccomp, call(unix.SYS_BPF)},
	{"perf", refusal, stepSeccomp, call(unix.SYS_PERF_EVENT_OPEN)},
	{"userfaultfd", refusal, stepSeccomp, call(unix.SYS_USERFAULTFD)},
	{"keys", refusal, stepSeccomp, call(unix.SYS_KEYCTL)},
	{"modules", refusal, stepSeccomp, call(unix.SYS_INIT_MODULE)},
	{"reboot", refusal, stepSeccomp, call(unix.SYS_REBOOT)},
	{"the kernel's log", refusal, stepSeccomp, call(unix.SYS_SYSLOG)},
	{"set the clock", refusal, stepSeccomp, call(unix.SYS_CLOCK_SETTIME)},
	{"open by handle", refusal, stepSeccomp, call(unix.SYS_OPEN_BY_HANDLE_AT)},
	{"make a device", refusal, stepSeccomp, now(func(p place) error { return unix.Mknod(p.readWrite+"/null", unix.S_IFCHR|0o600, 0x103) })},
	{"a call of tomorrow", missing, stepSeccomp, call(seccomp.LastReviewed + 1)},
	{"packet socket", family, stepSeccomp, call(unix.SYS_SOCKET, unix.AF_PACKET, unix.SOCK_RAW)},
	{"VM socket", family, stepSeccomp, call(unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM)},
	{"crypto socket", family, stepSeccomp, call(unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET)},
	{"netlink audit", family, stepSeccomp, call(unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT)},
	{"dump core again", refusal, stepSeccomp, now(func(place) error { return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}) })},
	{"be dumpable again", refusal, stepSeccomp, now(func(place) error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) })},
	{"type into a terminal", refusal, stepSeccomp, call(unix.SYS_IOCTL, 0, unix.TIOCSTI)},
	{"read elsewhere", denied, stepLandlock, open(func(p place) string { return p.hidden + "/file" }, unix.O_RDONLY)},
	{"write elsewhere", denied, stepLandlock, open(func(p place) string { return p.hidden + "/file" }, unix.O_WRONLY)},
	{"make elsewhere", denied, stepLandlock, open(func(p place) string { return p.hidden + "/new" }, unix.O_WRONLY|unix.O_CREAT)},
	{"list elsewhere", denied, stepLandlock, open(func(p place) string { return p.hidden }, unix.O_RDONLY)},
	{"read by another way", denied, stepLandlock, open(func(p place) string { return p.readOnly + "/../hidden/file" }, unix.O_RDONLY)},
	{"read by a link", denied, stepLandlock, func(p place) func() error {
		link := p.readOnly + "/link"
		if err := os.Symlink(p.hidden+"/file", link); err != nil {
			fatal(err)
		}
		return open(func(place) string { return link }, unix.O_RDONLY)(p)
	}},
	{"read by /proc", denied, stepLandlock, open(func(p place) string { return "/proc/self/root" + p.hidden + "/file" }, unix.O_RDONLY)},
	{"write what may be read", denied, stepLandlock, open(func(p place) string { return p.readOnly + "/file" }, unix.O_WRONLY)},
	{"make where may be read", denied, stepLandlock, open(func(p place) string { return p.readOnly + "/new" }, unix.O_WRONLY|unix.O_CREAT)},
	{"truncate what may be read", denied, stepLandlock, now(func(p place) error { return unix.Truncate(p.readOnly+"/file", 0) })},
	{"make where only the empty may go", denied, stepLandlock, now(func(p place) error { return unix.Mkdir(p.mayEmpty+"/new", 0o700) })},
	{"remove a file where only the empty may go", denied, stepLandlock, now(func(p place) error { return unix.Unlink(p.mayEmpty + "/full/file") })},
	{"list where only the empty may go", denied, stepLandlock, open(func(p place) string { return p.mayEmpty }, unix.O_RDONLY)},
	{"remove what may be read", denied, stepLandlock, now(func(p place) error { return unix.Unlink(p.readOnly + "/file") })},
	{"write /etc", denied, stepLandlock, open(func(place) string { return "/etc/hosts" }, unix.O_WRONLY|unix.O_APPEND)},
	{"write /proc", denied, stepLandlock, open(func(place) string { return "/proc/sys/kernel/hostname" }, unix.O_WRONLY)},
	{"write a setting of the process", denied, stepLandlock, open(func(place) string { return "/proc/self/oom_score_adj" }, unix.O_WRONLY)},
	{"look into another process", denied, stepLandlock, now(func(place) error {
		_, err := unix.Readlink(fmt.Sprintf("/proc/%d/ns/pid", os.Getppid()), make([]byte, 64))
		return err
	})},
	{"move out", denied, stepLandlock, now(func(p place) error { return unix.Rename(p.readWrite+"/file", p.hidden+"/moved") })},
	{"an abstract socket of others", refusal, stepLandlock, func(p place) func() error {
		// Made by this process before it was confined, and so another's.
		name := "@" + p.dir
		if _, err := net.Listen("unix", name); err != nil {
			fatal(err)
		}
		return func() error {
			c, err := net.Dial("unix", name)
			if err == nil {
				return c.Close()
			}
			return errors.Unwrap(errors.Unwrap(err))
		}
	}},
}

var allowed = []attempt{
	{"read", "<nil>", "", open(func(p place) string { return p.readOnly + "/file" }, unix.O_RDONLY)},
	{"read tables", "<nil>", "", open(func(place) string { return "/etc/hosts" }, unix.O_RDONLY)},
	{"read itself", "<nil>", "", now(func(place) error { _, err := os.ReadFile("/proc/self/status"); return err })},
	{"read what all may know of a process", "<nil>", "", now(func(place) error {
		_, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", os.Getppid()))
		return err
	})},
	{"watch tables", "<nil>", "", now(func(place) error {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if err != nil {
			return err
		}
		_, err = unix.InotifyAddWatch(fd, "/etc", unix.IN_MOVED_TO)
		return errors.Join(err, unix.Close(fd))
	})},
	{"list descriptors", "<nil>", "", now(func(place) error { _, err := os.ReadDir("/proc/self/fd"); return err })},
	{"write to nowhere", "<nil>", "", open(func(place) string { return os.DevNull }, unix.O_RDWR)},
	{"write", "<nil>", "", now(func(p place) error { return os.WriteFile(p.readWrite+"/new", []byte("x"), 0o600) })},
	{"move between directories", "<nil>", "", now(func(p place) error { return os.Rename(p.readWrite+"/a/file", p.readWrite+"/b/moved") })},
	{"make and remove directories", "<nil>", "", now(func(p place) error {
		return errors.Join(os.MkdirAll(p.readWrite+"/x/y", 0o700), os.RemoveAll(p.readWrite+"/x"))
	})},
	{"remove an empty directory", "<nil>", "", func(p place) func() error {
		if err := os.Mkdir(p.mayEmpty+"/empty", 0o700); err != nil {
			fatal(err)
		}
		return func() error { return os.Remove(p.mayEmpty + "/empty") }
	}},
	{"go on with an open file", "<nil>", "", func(p place) func() error {
		f, err := os.OpenFile(p.hidden+"/file", os.O_RDWR, 0)
		if err != nil {
			fatal(err)
		}
		return func() error { _, err := f.WriteString("more"); return errors.Join(err, f.Truncate(0)) }
	}},
	{"lock a file", "<nil>", "", now(func(p place) error {
		f, err := os.OpenFile(p.readWrite+"/lock", os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		return unix.Flock(int(f.Fd()), unix.LOCK_EX)
	})},
	{"publish a port", "<nil>", "", now(func(place) error { return echo("tcp", "127.0.0.1:0") })},
	{"publish a port of IPv6", "<nil>", "", now(func(place) error {
		if c, err := net.Listen("tcp", "[::1]:0"); err == nil {
			return errors.Join(c.Close(), echo("tcp", "[::1]:0"))
		}
		return nil // not on this host
	})},
	{"serve a socket file", "<nil>", "", now(func(p place) error { return echo("unix", p.readWrite+"/s") })},
	{"datagrams", "<nil>", "", now(func(place) error {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.WriteTo([]byte("x"), c.LocalAddr())
		return err
	})},
	{"follow routes", "<nil>", "", now(func(place) error { _, err := net.Interfaces(); return err })},
	{"a socket pair", "<nil>", "", now(func(place) error { _, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err })},
	{"read limits", "<nil>", "", now(func(place) error { return unix.Getrlimit(unix.RLIMIT_NOFILE, new(unix.Rlimit)) })},
	{"threads", "<nil>", "", now(func(place) error { return manyThreads(func() error { return nil }) })},
	{"end a child of before", "<nil>", "", func(place) func() error {
		cmd := exec.Command("sleep", "60")
		if err := cmd.Start(); err != nil {
			fatal(err)
		}
		return func() error {
			if err := cmd.Process.Kill(); err != nil {
				return err
			}
			if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
				return fmt.Errorf("child ended with %v", err)
			}
			return nil
		}
	}},
}

// echo listens, connects and passes a byte.
func echo(network, address string) error {
	l, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := net.Dial(network, l.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err = io.ReadFull(s, make([]byte, 1))
	return err
}

// manyThreads runs f on 20 threads at once.
func manyThreads(f func() error) error {
	var wg sync.WaitGroup
	ready, errs := make(chan struct{}), make(chan error, 20)
	for range 20 {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			errs <- f()
			<-ready
		})
	}
	var all []error
	for range 20 {
		all = append(all, <-errs)
	}
	close(ready)
	wg.Wait()
	return errors.Join(all...)
}

// TestForbidden tries each forbidden thing from inside.
func TestForbidden(t *testing.T) {
	t.Parallel()
	compare(t, "forbidden", forbidden)
}

// TestAllowed does what a sandbox's process does.
func TestAllowed(t *testing.T) {
	t.Parallel()
	compare(t, "allowed", allowed)
}

func compare(t *testing.T, what string, tries []attempt) {
	out, stderr, err := run(t, what, nil)
	var found map[string]string
	if err != nil || json.Unmarshal([]byte(out), &found) != nil {
		t.Fatalf("%v: %s%s", err, out, stderr)
	}
	t.Log(found["report"])
	lacks := make(map[string]bool)
	for _, s := range Probe() {
		lacks[s.Name] = !s.Done
	}
	for _, a := range tries {
		if got := found[a.name]; got != a.want && !lacks[a.step] {
			t.Errorf("%s: %s, want %s", a.name, got, a.want)
		}
	}
}

// confinedThreads returns the states in which the process's threads are: of those that
// were there before and of those that came after.
func confinedThreads(p place) map[string]string {
	stop := make(chan struct{})
	var started sync.WaitGroup
	for range 8 {
		started.Add(1)
		go func() {
			runtime.LockOSThread()
			started.Done()
			<-stop
		}()
	}
	started.Wait()
	if _, err := Process(p.rules()); err != nil {
		fatal(err)
	}
	found := make(map[string]string)
	err := manyThreads(func() error {
		_, err := os.Open(p.hidden + "/file")
		if !errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("a thread opened a hidden file: %w", err)
		}
		return nil
	})
	found["open"] = fmt.Sprint(err)
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		fatal(err)
	}
	for _, task := range tasks {
		status, err := os.ReadFile(task)
		if err != nil {
			continue // ended
		}
		var lines []string
		for line := range strings.Lines(string(status)) {
			if strings.HasPrefix(line, "Seccomp:") || strings.HasPrefix(line, "NoNewPrivs:") {
				lines = append(lines, strings.Join(strings.Fields(line), " "))
			}
		}
		found[task] = strings.Join(lines, ", ")
	}
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil {
		fatal(err)
	}
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	found["core"], found["dumpable"] = fmt.Sprint(core), fmt.Sprint(dumpable, err)
	return found
}

// TestThreads: all threads are confined, those of before too.
func TestThreads(t *testing.T) {
	t.Parallel()
	needs(t, stepSeccomp)
	out, stderr, err := run(t, "threads", nil)
	var found map[string]string
	if err != nil || json.Unmarshal([]byte(out), &found) != nil {
		t.Fatalf("%v: %s%s", err, out, stderr)
	}
	threads := 0
	for name, got := range found {
		want := map[string]string{"core": "{0 0}", "dumpable": "0 <nil>", "open": "<nil>"}[name]
		if want == "" {
			threads++
			want = "NoNewPrivs: 1, Seccomp: 2"
		}
		if got != want && !(name == "open" && slices.ContainsFunc(Probe(), func(s Step) bool { return s.Name == stepLandlock && !s.Done })) {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if threads < 9 {
		t.Errorf("only %d threads looked at", threads)
	}
}

// TestMemory: a process that grows beyond its limit ends, by an end of its own.
func TestMemory(t *testing.T) {
	t.Parallel()
	out, stderr, err := run(t, "memory", nil)
	said := slices.ContainsFunc([]string{"out of memory", "cannot allocate memory", "failed to allocate"}, // the last by the race detector
		func(text string) bool { return strings.Contains(stderr, text) })
	if err == nil || out != "confined" || !said {
		t.Errorf("%v: %q, %.500s", err, out, stderr)
	}
}

// replaced prints a file's text again for each line of its input.
func replaced(p place) {
	if _, err := Process(p.rules()); err != nil {
		fatal(err)
	}
	for b := make([]byte, 1); ; {
		text, err := os.ReadFile(p.readOnly + "/resolv.conf")
		fmt.Println(string(text), err)
		if _, err := os.Stdin.Read(b); err != nil {
			return
		}
	}
}

// TestReplaced: a file that somebody else replaces by a rename, as resolvers' tables
// are, can still be read.
func TestReplaced(t *testing.T) {
	t.Parallel()
	p := placeIn(t.TempDir())
	for _, dir := range []string{p.readOnly, p.readWrite} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	table, next := p.readOnly+"/resolv.conf", p.dir+"/next"
	replace := func(text string) {
		if err := errors.Join(os.WriteFile(next, []byte(text), 0o644), os.Rename(next, table)); err != nil {
			t.Fatal(err)
		}
	}
	replace("first")
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Args, cmd.WaitDelay = []string{role, "replaced", p.dir}, 10*time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"first", "second", "third"} {
		if text != "first" {
			replace(text)
			if _, err := in.Write([]byte("\n")); err != nil {
				t.Fatal(err)
			}
		}
		b := make([]byte, 100)
		n, err := out.Read(b)
		if got := string(b[:n]); got != text+" <nil>\n" {
			t.Errorf("read %q, %v, want %q", got, err, text)
		}
	}
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		t.Error(err)
	}
}

// TestDescribeABI names what older kernels can't restrict.
func TestDescribeABI(t *testing.T) {
	t.Parallel()
	for abi, want := range map[int]string{
		1: "ABI 1, no renames between directories, truncating isn't restricted, requests to devices aren't, abstract sockets aren't",
		4: "ABI 4, requests to devices aren't, abstract sockets aren't",
		6: "ABI 6",
		9: "ABI 9",
	} {
		if got := describeABI(abi); got != want {
			t.Errorf("ABI %d: %q, want %q", abi, got, want)
		}
	}
}

// TestRulesRefused: a path that can't be looked at is an error, one that isn't there
// is not. Nothing is restricted by either.
func TestRulesRefused(t *testing.T) {
	t.Parallel()
	needs(t, stepLandlock)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := restrictFiles(Rules{ReadOnly: []string{file + "/below"}}); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("below a file: %v", err)
	}
}
