package namespace

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
)

// The tests of this file are the rows of "Backend escapes" in the threat model.
// Each asserts on the guest's side that the attempt fails, on the host's that
// nothing arrived, and that what a program may do works.

// visibleDir returns a new directory of the host's that a guest sees: one that
// is outside of the places that are hidden anyway.
func visibleDir(t *testing.T) string {
	t.Helper()
	base := os.Getenv(visibleEnv) // made by root for the tests as nobody
	if base == "" && os.Geteuid() == 0 {
		base = "/mnt" // whoever can read it, wherever the source is
	}
	if base == "" {
		var err error
		if base, err = os.Getwd(); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp(base, "testdata-visible-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A listener is a host's unix socket that counts what reaches it.
type listener struct {
	path    string
	reached atomic.Int32
}

// listen listens at path, for anyone; network is unix, unixgram or unixpacket.
func listen(t *testing.T, network, path string) *listener {
	t.Helper()
	l := &listener{path: path}
	if network == "unixgram" {
		c, err := net.ListenUnixgram(network, &net.UnixAddr{Name: path, Net: network})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			for buf := make([]byte, 64); ; {
				if _, _, err := c.ReadFrom(buf); err != nil {
					return
				}
				l.reached.Add(1)
			}
		}()
	} else {
		s, err := net.Listen(network, path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		go func() {
			for {
				c, err := s.Accept()
				if err != nil {
					return
				}
				l.reached.Add(1)
				c.Close()
			}
		}()
	}
	if !strings.HasPrefix(path, "@") {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// shortPath returns a path to file in dir that fits into a socket's address.
func shortPath(t *testing.T, dir, file string) string {
	t.Helper()
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, file)
	if rel, err := filepath.Rel(wd, path); err == nil && len(rel) < len(path) {
		return rel
	}
	return path
}

func TestB01HostSocketsAreUnreachable(t *testing.T) {
	t.Parallel()
	visible, temp := visibleDir(t), t.TempDir()
	runDir, err := os.MkdirTemp("/dev/shm", "sluice-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(runDir) })
	hidden := filepath.Join(visible, "hidden")
	if err := os.Mkdir(hidden, 0o755); err != nil {
		t.Fatal(err)
	}
	abstract := fmt.Sprintf("@sluice-test-%d", os.Getpid())
	listeners := map[string]*listener{}
	add := func(network, dir, file string) {
		listeners[filepath.Join(dir, file)] = listen(t, network, shortPath(t, dir, file))
	}
	add("unix", visible, "docker.sock")
	add("unixgram", visible, "log")
	add("unixpacket", visible, "packet")
	add("unix", hidden, "control.sock")
	add("unix", temp, "x.sock")
	add("unix", runDir, "bus")
	listeners[abstract] = listen(t, "unix", abstract)
	fifo := filepath.Join(visible, "initctl.fifo")
	if err := unix.Mkfifo(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	reader, err := unix.Open(fifo, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(reader)

	paths := []string{fifo}
	for path := range listeners {
		paths = append(paths, path)
	}
	paths = append(paths, hostSockets(t)...)
	for name, result := range inside(t, hv.Config{Hide: []string{hidden}}, "connect", paths...) {
		if result == "done" {
			t.Errorf("the guest reached %s", name)
		}
	}
	for path, l := range listeners {
		if n := l.reached.Load(); n != 0 {
			t.Errorf("%s was reached %d times", path, n)
		}
	}
	if n, err := unix.Read(reader, make([]byte, 8)); n > 0 || err != nil {
		t.Errorf("the FIFO's reader got %d bytes, %v", n, err)
	}
	// The host itself gets through: the sockets were there.
	for name, result := range map[string]*listener{"stream": listeners[filepath.Join(visible, "docker.sock")], "abstract": listeners[abstract]} {
		c, err := net.Dial("unix", result.path)
		if err != nil {
			t.Fatalf("%s: the host can't connect: %v", name, err)
		}
		_, _ = c.Read(make([]byte, 1)) // until it is accepted and closed
		c.Close()
		if result.reached.Load() != 1 {
			t.Errorf("%s: the listener doesn't count", name)
		}
	}
}

// hostSockets returns the paths of all unix sockets that the host has now.
func hostSockets(t *testing.T) []string {
	t.Helper()
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var paths []string
	for s := bufio.NewScanner(f); s.Scan(); {
		// Num RefCount Protocol Flags Type St Inode Path
		if field := strings.Fields(s.Text()); len(field) == 8 && (field[7][0] == '/' || field[7][0] == '@') {
			paths = append(paths, field[7])
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

func TestB01SocketMadeLaterIsUnreachable(t *testing.T) {
	t.Parallel()
	visible := visibleDir(t)
	made := make(chan *listener, 1)
	time.AfterFunc(50*time.Millisecond, func() { made <- listen(t, "unix", shortPath(t, visible, "late.sock")) })
	path := filepath.Join(visible, "late.sock")
	if result := inside(t, hv.Config{}, "patience", path)[path]; result == "done" {
		t.Error("the guest reached a socket that was made after its start")
	}
	if l := <-made; l.reached.Load() != 0 {
		t.Error("the socket was reached")
	}
}

func TestB01SocketBelowRootIsUnreachable(t *testing.T) {
	t.Parallel()
	root := guestRoot(t)
	l := listen(t, "unix", shortPath(t, root, "host.sock"))
	if result := inside(t, hv.Config{Root: root}, "connect", "/host.sock")["/host.sock"]; !strings.Contains(result, "refused") {
		t.Errorf("the guest's connect came to %q; want refused", result)
	}
	if l.reached.Load() != 0 {
		t.Error("the socket was reached")
	}
}

func TestB02SocketFamilies(t *testing.T) {
	t.Parallel()
	results := inside(t, hv.Config{NIC: &hv.NIC{}}, "families")
	for name, result := range results {
		kind, number, _ := strings.Cut(name, " ")
		n, _ := strconv.Atoi(number)
		want := unix.EAFNOSUPPORT.Error()
		switch {
		case kind == "socket" && slices.Contains([]int{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}, n), name == "raw":
			want = "done"
		case kind == "io_uring":
			want = unix.EPERM.Error()
		}
		if result != want {
			t.Errorf("%s: %s; want %s", name, result, want)
		}
	}
	if len(results) < 80 {
		t.Errorf("only %d attempts were made", len(results))
	}
}

func TestB03ProcessOneIsOutOfReach(t *testing.T) {
	t.Parallel()
	before := hashOf(t, "/proc/self/exe")
	for name, result := range inside(t, hv.Config{NIC: &hv.NIC{}}, "process1") {
		if result == "done" {
			t.Errorf("%s: succeeded", name)
		}
	}
	if after := hashOf(t, "/proc/self/exe"); after != before {
		t.Error("the executable has changed")
	}
}

// hashOf returns the hash of a file.
func hashOf(t *testing.T, path string) [sha256.Size]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func TestB03ExecutableIsSealed(t *testing.T) {
	t.Parallel()
	f, err := New().sealedExecutable()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("the executable can be written")
	}
	if err := f.Truncate(0); err == nil {
		t.Error("the executable can be cut")
	}
	if hashOf(t, fmt.Sprintf("/proc/self/fd/%d", f.Fd())) != hashOf(t, "/proc/self/exe") {
		t.Error("the copy differs")
	}
}

func TestB04NothingToEscapeBy(t *testing.T) {
	t.Parallel()
	for name, result := range inside(t, hv.Config{}, "escape") {
		if result == "done" {
			t.Errorf("%s: succeeded", name)
		}
		if want := unix.ENOSYS.Error(); (name == "clone3" || strings.HasSuffix(name, " call")) && result != want {
			t.Errorf("%s: %s; want %s", name, result, want)
		}
		if strings.HasPrefix(name, "clone ") && result != unix.EPERM.Error() {
			t.Errorf("%s: %s; want %s", name, result, unix.EPERM)
		}
	}
}

func TestB05InheritsNoDescriptors(t *testing.T) {
	t.Parallel()
	// A descriptor without close-on-exec, as a library in C may leave one.
	file, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	leaked, err := unix.Dup(int(file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leaked)
	out, _ := run(t, hv.Config{NIC: &hv.NIC{}}, "exec ls /proc/self/fd")
	if out != "0\n1\n2\n3\n" { // 3 is ls's own, of the directory
		t.Errorf("descriptors are %q; want 0, 1, 2", out)
	}
	// Nor does process 1 keep it, in whose table a flaw would find it.
	vm, err := New().Start(t.Context(), hv.Config{Name: "test", NIC: &hv.NIC{}})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	client := guest.NewClient(vm.Agent())
	defer client.Close()
	if err := client.Boot(t.Context(), guest.Bootstrap{}); err != nil { // past its last step
		t.Fatal(err)
	}
	for _, target := range descriptorsOf(t, vm) {
		if strings.HasPrefix(target, "/") && target != "/dev/null" {
			t.Errorf("process 1 has %s open", target)
		}
	}
}

// descriptorsOf returns what the descriptors of a guest's process 1 are. It
// returns nothing where the host's user may not look: process 1 is hidden.
func descriptorsOf(t *testing.T, v hv.VM) []string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", v.(*vm).cmd.Process.Pid)
	entries, err := os.ReadDir(dir)
	if os.IsPermission(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err == nil {
			targets = append(targets, target)
		}
	}
	if len(targets) == 0 {
		t.Error("process 1 shows no descriptors")
	}
	return targets
}

func TestHiddenPlacesAreEmpty(t *testing.T) {
	visible := visibleDir(t)
	secret := filepath.Join(visible, "home", "secret")
	if err := os.MkdirAll(secret, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{secret + "/key", visible + "/token"} {
		if err := os.WriteFile(file, []byte("k"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("home/secret", visible+"/link"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SLUICE_HOME", visible+"/home")
	t.Setenv("XDG_RUNTIME_DIR", visible+"/gone")
	cfg := hv.Config{Hide: []string{visible + "/link", visible + "/token", visible + "/no/such", "/tmp/x"}}
	line := fmt.Sprintf("ls -A /run /tmp /var/tmp /dev/shm %s/home; cat %s/token %s/home/secret/key", visible, visible, visible)
	out, _ := run(t, cfg, line)
	if strings.Contains(out, "key\n") && !strings.Contains(out, "No such file") || strings.Contains(out, "k\n") {
		t.Errorf("hidden files show:\n%s", out)
	}
	for _, name := range []string{"/run", "/tmp", "/var/tmp", "/dev/shm", visible + "/home"} {
		_, after, _ := strings.Cut(out, name+":\n")
		if first, _, _ := strings.Cut(after, "\n"); first != "" && !strings.HasSuffix(first, ":") && !strings.HasPrefix(first, "cat:") {
			t.Errorf("%s has %q", name, first)
		}
	}
}

func TestDevicesAreTheKnownOnes(t *testing.T) {
	t.Parallel()
	out, _ := run(t, hv.Config{}, "ls /dev | tr '\\n' ' '; head -c3 /dev/zero | od -An -tx1; echo x > /dev/null && echo x > /dev/full; chmod 600 /dev/null; rm /dev/zero")
	want := "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero  00 00 00\n"
	if !strings.HasPrefix(out, want) {
		t.Errorf("got %q; want %q", out, want)
	}
	for _, refusal := range []string{"sh: 1: echo:", "chmod:", "rm:"} {
		if !strings.Contains(out, refusal) {
			t.Errorf("got %q; want a refusal with %q", out, refusal)
		}
	}
}

func TestKernelFilesAreMaskedAndTheGuestsOwn(t *testing.T) {
	t.Parallel()
	out, _ := run(t, hv.Config{NIC: &hv.NIC{}}, `ls -d /proc/[0-9]* | wc -l; cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c; ls /sys/firmware | wc -l; ls /sys/class/net | tr '\n' ' '; wc -l < /proc/net/unix`)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 4 {
		t.Fatalf("got %q", out)
	}
	if n, _ := strconv.Atoi(lines[0]); n > 6 {
		t.Errorf("%d processes show", n)
	}
	if lines[1] != "0" || lines[2] != "0" {
		t.Errorf("masked files have %s bytes, /sys/firmware %s entries", lines[1], lines[2])
	}
	if !strings.HasPrefix(lines[3], "eth0 lo") && !strings.HasPrefix(lines[3], "0") {
		t.Errorf("cards are %q; want the guest's own, or no sysfs", lines[3])
	}
}

func TestCommandsHaveFewCapabilities(t *testing.T) {
	t.Parallel()
	var keep uint64
	for _, c := range commandCapabilities {
		keep |= 1 << c
	}
	out, _ := run(t, hv.Config{}, "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp:' /proc/self/status")
	want := fmt.Sprintf("CapInh:\t%016x\nCapPrm:\t%016x\nCapEff:\t%016x\nCapBnd:\t%016x\nCapAmb:\t%016x\nNoNewPrivs:\t1\nSeccomp:\t2\n", 0, keep, keep, keep, 0)
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

func TestEnvironmentOfTheHostIsNotPassedOn(t *testing.T) {
	t.Setenv("SLUICE_TEST_SECRET", "hunter2")
	out, _ := run(t, hv.Config{}, "env; tr '\\0' '\\n' < /proc/self/environ")
	if bytes.Contains([]byte(out), []byte("hunter2")) {
		t.Errorf("the guest's environment has the host's:\n%s", out)
	}
}
