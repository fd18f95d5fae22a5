package sdk_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv/namespace"
	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// inNamespace are the options of a sandbox in a process of its own; it skips
// where there can be none.
func inNamespace(t *testing.T, opts ...m.SandboxOption) []m.SandboxOption {
	t.Helper()
	if r := namespace.New().Probe(t.Context()); !r.Usable {
		netlab.Skip(t, "namespace", r.Reason)
	}
	return append([]m.SandboxOption{m.WithBackend("namespace")}, opts...)
}

// testArch is this machine's processor, as images name it.
const testArch = runtime.GOARCH

// output runs a command, or the default one, in a sandbox of its own and returns its standard output
// and exit code.
func output(t *testing.T, name string, args []string, opts ...m.SandboxOption) (string, int) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sb := mustCreate(t, name, inNamespace(t, append(opts, m.WithStdio(nil, w, os.Stderr))...)...)
	w.Close()
	text := make(chan string, 1)
	go func() {
		b, err := io.ReadAll(r)
		if err != nil {
			t.Error(err)
		}
		text <- string(b)
	}()
	var code int
	if len(args) == 0 {
		code, err = sb.AttachDefault(t.Context())
	} else {
		code, err = sb.Attach(t.Context(), args[0], args[1:]...)
	}
	if err != nil {
		t.Error(err)
	}
	if err := sb.Close(); err != nil { // it holds the other end too
		t.Error(err)
	}
	return <-text, code
}

// TestProcess checks what a command in a sandbox of its own sees.
func TestProcess(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, script string
		opts         []m.SandboxOption
		want         string
		code         int
	}{
		{"output", "echo hello; exit 7", nil, "hello\n", 7},
		{"signal", "kill -15 $$", nil, "", 143},
		{"environment", "env | sort | grep -v ^PWD", []m.SandboxOption{m.WithEnv(map[string]string{"A": "b c"})}, "A=b c\nHOME=/tmp\nLOGNAME=root\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nUSER=root\n", 0},
		{"workdir", "pwd", []m.SandboxOption{m.WithWorkdir("/usr")}, "/usr\n", 0},
		{"hostname", "hostname", []m.SandboxOption{m.WithHostname("guest")}, "guest\n", 0},
		{"no input", "cat", nil, "", 0},
		{"no network", "ls /sys/class/net", []m.SandboxOption{m.WithNetwork(m.NetworkPolicy.None())}, "lo\n", 0},
		{"card", "cat /sys/class/net/eth0/mtu", []m.SandboxOption{m.WithNetwork(&m.NetworkConfig{MTU: 4000})}, "4000\n", 0},
		{"descriptors", "ls /proc/self/fd", nil, "0\n1\n2\n3\n", 0}, // 3 is the directory
		{"state", "ls $H $R 2>&1", []m.SandboxOption{m.WithEnv(map[string]string{"H": os.Getenv("SLUICE_HOME"), "R": os.Getenv("XDG_RUNTIME_DIR")})}, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, code := output(t, "process-"+strings.ReplaceAll(tt.name, " ", "-"), []string{"sh", "-c", tt.script}, tt.opts...)
			if tt.name == "state" {
				if strings.Contains(got, "sandboxes") || strings.Contains(got, ".sock") {
					t.Errorf("the guest sees %q", got)
				}
				return
			}
			if got != tt.want || code != tt.code {
				t.Errorf("%q and exit code %d, want %q and %d", got, code, tt.want, tt.code)
			}
		})
	}
}

// startCreator starts a creator and returns it with what it tells.
func startCreator(t *testing.T, name string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), creatorVar+"="+name)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewReader(out)
}

// A process as /proc shows it.
type process struct {
	pid, parent int
	start       string // tells a process from a later one of the same number
}

// processes returns all processes that run.
func processes() []process {
	var all []process
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		pid, rest, ok := bytes.Cut(text, []byte(" ("))
		i := bytes.LastIndexByte(rest, ')')
		if !ok || i < 0 {
			continue
		}
		fields := strings.Fields(string(rest[i+1:])) // state, parent, …, start time as the 20th
		if len(fields) < 20 || fields[0] == "Z" {
			continue
		}
		p := process{start: fields[19]}
		p.pid, _ = strconv.Atoi(string(pid))
		p.parent, _ = strconv.Atoi(fields[1])
		all = append(all, p)
	}
	return all
}

// descendants returns the processes below root.
func descendants(root int) []process {
	all := processes()
	var found []process
	parents := []int{root}
	for len(parents) > 0 {
		parent := parents[0]
		parents = parents[1:]
		for _, p := range all {
			if p.parent == parent {
				found = append(found, p)
				parents = append(parents, p.pid)
			}
		}
	}
	return found
}

// childNamed returns the child of parent whose argv[0] is name; 0 if there is
// none.
func childNamed(parent int, name string) int {
	for _, p := range descendants(parent) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
		if argv0, _, _ := bytes.Cut(text, []byte{0}); err == nil && string(argv0) == name {
			return p.pid
		}
	}
	return 0
}

// awaitGone waits until none of the processes runs any more.
func awaitGone(t *testing.T, gone []process) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		left := slices.DeleteFunc(processes(), func(p process) bool {
			return !slices.ContainsFunc(gone, func(g process) bool { return g.pid == p.pid && g.start == p.start })
		})
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still run: %+v", left)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// awaitName waits until the name can be used again, and uses it.
func awaitName(t *testing.T, name string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		sb, err := m.CreateSandbox(t.Context(), name, inNamespace(t)...)
		if err == nil {
			if err := sb.Close(); err != nil {
				t.Error(err)
			}
			return
		}
		if !m.IsKind(err, m.ErrSandboxAlreadyExists) || time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// checkNothingLeft checks that no file tells of the sandbox.
func checkNothingLeft(t *testing.T, name string) {
	t.Helper()
	for _, path := range leftovers(t) {
		if filepath.Base(path) == name {
			t.Errorf("left: %s", path)
		}
	}
}

// TestCreatorKilled checks that a sandbox ends with its creator, and that
// nothing of it stays: process, guest, listener, socket, lock, directory.
func TestCreatorKilled(t *testing.T) {
	t.Parallel()
	inNamespace(t)
	cmd, out := startCreator(t, "creator-killed")
	line, err := out.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var c created
	if err := json.Unmarshal(line, &c); err != nil {
		t.Fatal(err)
	}
	family := descendants(cmd.Process.Pid)
	for len(family) < 3 { // the sandbox, process 1, the command
		time.Sleep(time.Millisecond)
		family = descendants(cmd.Process.Pid)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	awaitGone(t, family)
	checkNothingLeft(t, "creator-killed")
	if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", c.Port)); err == nil {
		conn.Close()
		t.Error("its port still listens")
	}
	awaitName(t, "creator-killed")
}

// TestKilledAtRandomMoments kills creators, and in turn sandboxes' processes, at
// any moment of their lives.
func TestKilledAtRandomMoments(t *testing.T) {
	t.Parallel()
	inNamespace(t)
	rounds := 20
	if testing.Short() {
		rounds = 4
	}
	const name = "killed-at-random"
	for round := range rounds {
		cmd, _ := startCreator(t, name)
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		family := descendants(cmd.Process.Pid)
		victim := cmd.Process.Pid
		if sandbox := childNamed(victim, "sluice:sandbox"); round%2 == 1 && sandbox != 0 {
			victim = sandbox
		}
		// Who has just been forked, and is in no list, ends with its parent too.
		if err := syscall.Kill(victim, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
		if victim != cmd.Process.Pid {
			awaitGone(t, slices.DeleteFunc(slices.Clone(family), func(p process) bool { return p.pid == cmd.Process.Pid }))
			_ = cmd.Process.Kill() // the creator waits for ever otherwise
		}
		_ = cmd.Wait() // killed
		awaitGone(t, family)
		awaitName(t, name)
		checkNothingLeft(t, name)
	}
}

// TestBothKilled checks that what a creator and its sandbox left, killed
// together, goes with the next sandbox, whatever its name.
func TestBothKilled(t *testing.T) {
	t.Parallel()
	inNamespace(t)
	cmd, out := startCreator(t, "both-killed")
	if _, err := out.ReadBytes('\n'); err != nil {
		t.Fatal(err)
	}
	family := descendants(cmd.Process.Pid)
	sandbox := childNamed(cmd.Process.Pid, "sluice:sandbox")
	for _, pid := range []int{sandbox, cmd.Process.Pid} { // in this order neither cleans up
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	for _, pid := range []int{sandbox, cmd.Process.Pid} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Wait() // killed
	awaitGone(t, family)
	awaitName(t, "another")
	checkNothingLeft(t, "both-killed")
}

// TestSandboxKilled checks what its creator sees of a sandbox whose process was
// killed.
func TestSandboxKilled(t *testing.T) {
	t.Parallel()
	sb := mustCreate(t, "sandbox-killed", inNamespace(t)...)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(sb.EventsPath()), "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	var state struct{ PID int }
	if err := json.Unmarshal(text, &state); err != nil {
		t.Fatal(err)
	}
	family := descendants(state.PID)
	codes := make(chan error, 1)
	go func() {
		_, err := sb.Attach(t.Context(), "sleep", "1000")
		codes <- err
	}()
	if err := syscall.Kill(state.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r, err := sb.WaitUntilStopped(t.Context())
	if err != nil || r.Status != m.SandboxStatusCrashed || r.Source != nil || r.ExitCode != nil {
		t.Errorf("stopped as %+v, %v: want crashed", r, err)
	}
	if err := <-codes; !m.IsKind(err, m.ErrSandboxNotRunning) {
		t.Errorf("its command: %v", err)
	}
	awaitGone(t, family)
	checkNothingLeft(t, "sandbox-killed")
	if err := sb.Stop(t.Context()); err != nil {
		t.Errorf("stop after that: %v", err)
	}
	awaitName(t, "sandbox-killed")
}

// TestNotSluice checks what is said of an executable that is no sluice.
func TestNotSluice(t *testing.T) {
	t.Setenv("SLUICE_EXECUTABLE", netlab.Tool(t, "true"))
	_, err := m.CreateSandbox(t.Context(), "not-sluice", inNamespace(t)...)
	if !m.IsKind(err, m.ErrIO) || !strings.Contains(err.Error(), "says no hello") {
		t.Errorf("an executable that is no sluice: %v", err)
	}
	t.Setenv("SLUICE_EXECUTABLE", "/none")
	if _, err := m.CreateSandbox(t.Context(), "not-there", inNamespace(t)...); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an executable that isn't there: %v", err)
	}
}

// TestManyAtOnce checks that sandboxes started at once get blocks of their own
// and all end.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	opts := inNamespace(t)
	const n = 8
	errs := make(chan error, n)
	for i := range n {
		go func() {
			sb, err := m.CreateSandbox(t.Context(), fmt.Sprintf("many-%d", i), opts...)
			if err != nil {
				errs <- err
				return
			}
			code, err := sb.Attach(t.Context(), "true")
			if code != 0 {
				err = errors.Join(err, fmt.Errorf("exit code %d", code))
			}
			errs <- errors.Join(err, sb.Close())
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// TestLogLevel checks which of a sandbox's own remarks become events.
func TestLogLevel(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		opt  m.SandboxOption
		want bool
	}{
		{"default", m.WithLogLevel(""), true},
		{"errors", m.WithLogLevel(m.LogLevelError), false},
		{"quiet", m.WithQuietLogs(), false},
	} {
		// A namespace says that it limits no processors.
		sb := running(t, "log-level-"+tt.name, m.WithCPUs(2), tt.opt)
		got := false
		for e, err := range sb.Events(t.Context(), m.EventFilter{Types: []string{m.EventLog}, Past: true}) {
			if err != nil {
				t.Fatal(err)
			}
			got = got || e.Level == "INFO" || e.Level == "WARN"
		}
		if got != tt.want {
			t.Errorf("%s: remarks are there: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestNamespaceWarns checks that what a namespace doesn't do is said.
func TestNamespaceWarns(t *testing.T) {
	t.Parallel()
	sb := running(t, "warns", m.WithCPUs(2), m.WithMemory(512))
	for _, want := range []string{"a namespace doesn't limit processors", "in a namespace the memory's size"} {
		if !slices.ContainsFunc(sb.Warnings(), func(w string) bool { return strings.HasPrefix(w, want) }) {
			t.Errorf("%q isn't among %q", want, sb.Warnings())
		}
	}
}

// TestAttachAgain checks that a sandbox outlives its attached commands.
func TestAttachAgain(t *testing.T) {
	t.Parallel()
	sb := running(t, "attach-again", m.WithStdio(nil, nil, nil))
	for code := range 3 {
		if got, err := sb.Attach(t.Context(), "sh", "-c", fmt.Sprint("exit ", code)); got != code || err != nil {
			t.Errorf("exit code %d, %v, want %d", got, err, code)
		}
	}
	if out, err := sb.Shell(t.Context(), "echo alive"); err != nil || out.Stdout() != "alive\n" {
		t.Errorf("after that: %v, %v", out, err)
	}
}

// TestMounts checks what a guest sees of the host's files and of memory.
func TestMounts(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("of the host"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	load(t, "mounts.example/app")
	sb := running(t, "mounts", m.WithImage("mounts.example/app"), m.WithMounts(map[string]m.MountConfig{
		"/mnt/rw":   m.Mount.Bind(dir, m.MountOptions{}),
		"/mnt/ro":   m.Mount.Bind(dir, m.MountOptions{Readonly: true}),
		"/mnt/one":  m.Mount.Bind(filepath.Join(dir, "file"), m.MountOptions{Readonly: true}),
		"/mnt/mem":  m.Mount.Tmpfs(m.TmpfsOptions{SizeMiB: 1}),
		"/mnt/data": m.Mount.Tmpfs(m.TmpfsOptions{Noexec: true}),
	}))
	for _, tt := range []struct {
		script, want string
		ok           bool
	}{
		{"cat /mnt/ro/file /mnt/one", "of the hostof the host", true},
		{"echo x > /mnt/ro/new", "", false},
		{"echo x > /mnt/one", "", false},
		{"echo of the guest > /mnt/rw/new && cat /mnt/ro/new", "of the guest\n", true},
		{"head -c 500000 /dev/zero > /mnt/mem/a && wc -c < /mnt/mem/a", "500000\n", true},
		{"head -c 3000000 /dev/zero > /mnt/mem/b", "", false},
		{"cat /bin/true > /mnt/data/p; /mnt/data/p", "", false},
	} {
		out, err := sb.Shell(ctx, tt.script)
		if err != nil || out.Stdout() != tt.want || out.Success() != tt.ok {
			t.Errorf("%s: %q, %q, %d, %v", tt.script, out.Stdout(), out.Stderr(), out.ExitCode(), err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, "new")); string(text) != "of the guest\n" || err != nil {
		t.Errorf("the host sees %q, %v", text, err)
	}
}
