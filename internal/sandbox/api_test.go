package sandbox

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/hvtest"
	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/internal/guest"
)

// public is a configuration with a network.
var public = testConfig{Policy: "public-only"}

// tryEmbed starts a sandbox on a fake.
func tryEmbed(t *testing.T, dirs Dirs, name string, fake *hvtest.Fake, cfg testConfig) (*Embedded, error) {
	return Embed(t.Context(), control.Spec{Name: name, Home: dirs.Home, Runtime: dirs.Runtime, Config: cfg.raw()}, Options{
		Open:    func(context.Context, string) (hv.Hypervisor, error) { return fake, nil },
		Compile: testCompile,
		Stdio:   [3]*os.File{nil, os.Stdout, nil},
	})
}

// embed starts a sandbox on a fake, which ends with the test.
func embed(t *testing.T, dirs Dirs, name string, fake *hvtest.Fake, cfg testConfig) *Embedded {
	t.Helper()
	e, err := tryEmbed(t, dirs, name, fake, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// kind returns the kind of an error's failure, "" if it has none.
func kind(err error) string {
	var f *control.Failure
	if errors.As(err, &f) {
		return f.Kind
	}
	return ""
}

// TestInfo checks what a sandbox says of itself, and that it serves.
func TestInfo(t *testing.T) {
	t.Parallel()
	dirs := testDirs(t)
	e := embed(t, dirs, "info", &hvtest.Fake{}, public)
	info := e.Ready().Info
	if info.Name != "info" || info.PID != os.Getpid() || info.Backend != "fake" || info.Block4 != "10.77.0.0/30" || info.Block6 != "fd77::/64" || info.Created.IsZero() {
		t.Errorf("info %+v", info)
	}
	if len(info.Warnings) != 1 || info.Warnings[0] != "a warning" {
		t.Errorf("warnings %q", info.Warnings)
	}
	if !strings.HasPrefix(info.Events, dirs.Home) {
		t.Errorf("events in %s", info.Events)
	}
	c := control.NewClient(e.Ready().Socket)
	defer c.Close()
	if got, err := c.Info(t.Context()); err != nil || got.Name != "info" || got.Block4 != info.Block4 {
		t.Errorf("over the socket: %+v, %v", got, err)
	}
	none := embed(t, dirs, "none", &hvtest.Fake{}, testConfig{})
	if info := none.Ready().Info; info.Block4 != "" || info.Ports != nil {
		t.Errorf("without a network: %+v", info)
	}
}

// TestRun checks commands with the creator's files: their ends, their signals, and
// that the sandbox outlives them.
func TestRun(t *testing.T) {
	t.Parallel()
	ctx, dirs := t.Context(), testDirs(t)
	begun := make(chan struct{})
	fake := &hvtest.Fake{Programs: map[string]hvtest.Program{
		"obey": func(ctx context.Context, _ *hvtest.Process) guest.Exit {
			close(begun)
			<-ctx.Done()
			return guest.Exit{}
		},
	}}
	s := embed(t, dirs, "run", fake, testConfig{}).s
	for _, tt := range []struct {
		args []string
		code int
		kind string // of the error
	}{
		{[]string{"true"}, 0, ""},
		{[]string{"false"}, 1, ""},
		{[]string{"nosuch"}, 0, control.KindExecFailed},
		{[]string{"sh", "-c", "exit 42"}, 42, ""},
	} {
		if err := s.Signal(1); kind(err) != control.KindNotRunning {
			t.Errorf("%s: a signal to no command: %v", tt.args, err)
		}
		exit, err := s.Run(ctx, control.Command{Args: tt.args})
		if exit.Code != tt.code || kind(err) != tt.kind {
			t.Errorf("%s: %+v, %v", tt.args, exit, err)
		}
	}
	exits := make(chan control.Exit, 1)
	go func() {
		exit, err := s.Run(ctx, control.Command{Args: []string{"obey"}})
		if err != nil {
			t.Error(err)
		}
		exits <- exit
	}()
	<-begun
	for s.Signal(15) != nil { // until Run knows that it has begun
	}
	if exit := <-exits; exit.Signal != 15 {
		t.Errorf("a signal: %+v", exit)
	}
	none, err := Embed(ctx, control.Spec{Name: "none", Home: dirs.Home, Runtime: dirs.Runtime, Config: testConfig{}.raw()}, Options{
		Open:    func(context.Context, string) (hv.Hypervisor, error) { return fake, nil },
		Compile: testCompile,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer none.Close()
	if _, err := none.s.Run(ctx, control.Command{Args: []string{"true"}}); kind(err) != control.KindUnsupported {
		t.Errorf("without files: %v", err)
	}
}

// TestForeground checks whom signals reach.
func TestForeground(t *testing.T) {
	t.Parallel()
	var f foreground
	f.expect()
	for range 2 * maxEarly {
		if err := f.signal(2); err != nil {
			t.Errorf("while a command is being started: %v", err)
		}
	}
	if len(f.early) != maxEarly {
		t.Errorf("%d signals wait", len(f.early))
	}
	f.fail()
	if err := f.signal(2); kind(err) != control.KindNotRunning || len(f.early) != 0 {
		t.Errorf("after that failed: %v, %d signals wait", err, len(f.early))
	}
}

// TestEnds checks each reason to end, and that the first counts.
func TestEnds(t *testing.T) {
	t.Parallel()
	ctx, dirs := t.Context(), testDirs(t)
	started := make(chan struct{})
	fake := &hvtest.Fake{Programs: map[string]hvtest.Program{
		"obey": func(ctx context.Context, _ *hvtest.Process) guest.Exit {
			started <- struct{}{}
			<-ctx.Done()
			return guest.Exit{}
		},
	}}
	for _, tt := range []struct {
		name    string
		program string // that runs; "" is none
		end     func(*Sandbox)
		want    string
	}{
		{"kill", "", (*Sandbox).Kill, control.SourceKill},
		{"kill-command", "obey", (*Sandbox).Kill, control.SourceKill},
		{"stop-idle", "", func(s *Sandbox) { s.Stop(time.Hour) }, control.SourceStop},
		{"stop-now", "obey", func(s *Sandbox) { s.Stop(0) }, control.SourceStop},
		{"stop-obeyed", "obey", func(s *Sandbox) { s.Stop(time.Hour) }, control.SourceStop},
		{"creator", "", func(s *Sandbox) { s.end(control.SourceCreator) }, control.SourceCreator},
		{"first-counts", "", func(s *Sandbox) { s.end(control.SourceSignal); s.end(control.SourceCreator) }, control.SourceSignal},
	} {
		e := embed(t, dirs, tt.name, fake, testConfig{})
		if tt.program != "" {
			go func() { _, _ = e.s.Run(ctx, control.Command{Args: []string{tt.program}}) }() // ends with the sandbox
			<-started
		}
		tt.end(e.s)
		ended, err := e.s.Wait(ctx)
		if err != nil || ended.Source != tt.want {
			t.Errorf("%s: ended %+v, %v, want %s", tt.name, ended, err, tt.want)
		}
		<-e.Exited()
		if got := *e.Ended(); got != ended {
			t.Errorf("%s: the creator is told %+v, callers %+v", tt.name, got, ended)
		}
		if _, err := os.Stat(e.Ready().Socket); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the socket is left: %v", tt.name, err)
		}
	}
	e := embed(t, dirs, "waits", fake, testConfig{})
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if _, err := e.s.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait with a short context: %v", err)
	}
}

// TestPorts checks the API of ports on a running sandbox.
func TestPorts(t *testing.T) {
	t.Parallel()
	dirs := testDirs(t)
	s := embed(t, dirs, "ports", &hvtest.Fake{}, public).s
	free := netip.MustParseAddrPort("127.0.0.1:0")
	bound, err := s.Publish(control.Port{Protocol: "tcp", Host: free, GuestPort: 80})
	if err != nil || bound.Host.Port() == 0 {
		t.Fatalf("published %+v, %v", bound, err)
	}
	c, err := net.Dial("tcp", bound.Host.String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	for _, tt := range []struct {
		name string
		port control.Port
		want string
	}{
		{"taken", bound, control.KindIO},
		{"protocol", control.Port{Protocol: "icmp", Host: free, GuestPort: 1}, control.KindArgument},
		{"no address", control.Port{Protocol: "tcp", GuestPort: 1}, control.KindArgument},
	} {
		if _, err := s.Publish(tt.port); kind(err) != tt.want {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
	if got := s.Ports(); len(got) != 1 || got[0] != bound {
		t.Errorf("ports %+v", got)
	}
	if err := s.Unpublish(bound); err != nil {
		t.Error(err)
	}
	if err := s.Unpublish(bound); kind(err) != control.KindArgument {
		t.Errorf("removed twice: %v", err)
	}
	if err := s.Unpublish(control.Port{}); kind(err) != control.KindArgument {
		t.Errorf("removed nothing: %v", err)
	}
	none := embed(t, dirs, "none", &hvtest.Fake{}, testConfig{}).s
	if _, err := none.Publish(bound); kind(err) != control.KindUnsupported || len(none.Ports()) != 0 {
		t.Errorf("without a network: %v", err)
	}
}

// TestStartFails checks that each step of a start may fail, is told, and leaves
// nothing.
func TestStartFails(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		fake *hvtest.Fake
		cfg  testConfig
		kind string
		text string // within the message
	}{
		{"compile", &hvtest.Fake{}, testConfig{Refuse: "no"}, control.KindInvalid, "no"},
		{"start", &hvtest.Fake{StartError: errors.New("oh")}, public, control.KindInternal, "start guest: oh"},
		{"start-unsupported", &hvtest.Fake{StartError: errors.ErrUnsupported}, public, control.KindUnsupported, "start guest"},
		{"boot", &hvtest.Fake{BootError: errors.New("oh")}, public, control.KindInternal, "set up guest: boot: agent: oh"},
		{"files", &hvtest.Fake{}, testConfig{Policy: "public-only", TCP: 1 << 30}, control.KindArgument, "does not fit"},
	} {
		dirs := testDirs(t)
		e, err := tryEmbed(t, dirs, tt.name, tt.fake, tt.cfg)
		if err == nil {
			e.Close()
			t.Errorf("%s: was started", tt.name)
			continue
		}
		if kind(err) != tt.kind || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v, want %s with %q", tt.name, err, tt.kind, tt.text)
		}
		checkEmpty(t, dirs)
	}
	dirs := testDirs(t)
	one := testConfig{Policy: "public-only", Pool4: "10.1.0.0/30"}
	embed(t, dirs, "first", &hvtest.Fake{}, one)
	if _, err := tryEmbed(t, dirs, "second", &hvtest.Fake{}, one); kind(err) != control.KindArgument || !strings.Contains(err.Error(), "10.1.0.0/30") {
		t.Errorf("a full pool: %v", err)
	}
	if _, err := tryEmbed(t, dirs, "first", &hvtest.Fake{}, testConfig{}); kind(err) != control.KindExists {
		t.Errorf("a name that is taken: %v", err)
	}
	if _, err := tryEmbed(t, Dirs{Home: "/dev/null/x", Runtime: dirs.Runtime}, "x", &hvtest.Fake{}, testConfig{}); kind(err) != control.KindIO {
		t.Errorf("a home that can't be: %v", err)
	}
	if _, err := tryEmbed(t, Dirs{Home: dirs.Home, Runtime: "/" + strings.Repeat("x", 120)}, "x", &hvtest.Fake{}, testConfig{}); err == nil {
		t.Error("a socket's path may be as long as it likes")
	} else if err := os.RemoveAll("/" + strings.Repeat("x", 120)); err != nil {
		t.Error(err)
	}
}

// checkEmpty checks that no sandbox left anything in the directories.
func checkEmpty(t *testing.T, dirs Dirs) {
	t.Helper()
	for _, dir := range []string{dirs.sandboxes(), dirs.blocks(), dirs.Runtime} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range entries {
			t.Errorf("left: %s/%s", dir, e.Name())
		}
	}
}
