package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv/namespace"
	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/internal/netlab"
)

// launch starts a sandbox's process from this test binary.
func launch(ctx context.Context, dirs Dirs, name string, cfg testConfig) (*Process, error) {
	return StartProcess(ctx, Launch{Dirs: dirs, Name: name, Config: cfg.raw(), Stdio: [3]*os.File{nil, nil, os.Stderr}})
}

func needNamespaces(t *testing.T) {
	t.Helper()
	if r := namespace.New().Probe(t.Context()); !r.Usable {
		netlab.Skip(t, "namespace", r.Reason)
	}
}

// TestProcess follows a process from its start to its end.
func TestProcess(t *testing.T) {
	t.Parallel()
	needNamespaces(t)
	ctx, dirs := t.Context(), testDirs(t)
	p, err := launch(ctx, dirs, "process", public)
	if err != nil {
		t.Fatal(err)
	}
	info := p.Ready().Info
	if info.PID != p.cmd.Process.Pid || info.Backend != "namespace" || info.Block4 == "" {
		t.Errorf("info %+v", info)
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", info.PID))
	if err != nil || strings.TrimSpace(string(comm)) != Role {
		t.Errorf("the process is called %q, %v", comm, err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", info.PID))
	for _, want := range []string{"\nNoNewPrivs:\t1\n", "\nSeccomp:\t2\n"} {
		if err != nil || !strings.Contains(string(status), want) {
			t.Errorf("the process isn't confined: no %q, %v", want, err)
		}
	}
	session, err := syscall.Getpgid(info.PID)
	if err != nil || session != info.PID {
		t.Errorf("the process is of group %d, %v", session, err)
	}
	c := control.NewClient(p.Ready().Socket)
	defer c.Close()
	exit, err := c.Run(ctx, control.Command{Args: []string{"sh", "-c", "exit 9"}, Env: []string{"PATH=/bin:/usr/bin"}})
	if err != nil || exit.Code != 9 {
		t.Errorf("exit %+v, %v", exit, err)
	}
	if ended, err := c.Stop(ctx, 10*time.Second); err != nil || ended.Source != control.SourceStop || ended.Exit.Code != 0 {
		t.Errorf("stopped %+v, %v", ended, err)
	}
	<-p.Exited()
	if ended := p.Ended(); ended == nil || ended.Source != control.SourceStop {
		t.Errorf("ended %+v", ended)
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	checkEmpty(t, dirs)
}

// TestProcessEnds checks how a process ends for reasons from outside.
func TestProcessEnds(t *testing.T) {
	t.Parallel()
	needNamespaces(t)
	for _, tt := range []struct {
		name string
		end  func(*Process) error
		want string // source; "" is a crash
	}{
		{"release", func(p *Process) error { p.Release(); return nil }, control.SourceCreator},
		{"terminate", func(p *Process) error { return p.cmd.Process.Signal(syscall.SIGTERM) }, control.SourceSignal},
		{"hang-up", func(p *Process) error { return p.cmd.Process.Signal(syscall.SIGHUP) }, control.SourceSignal},
		{"kill", func(p *Process) error { return p.cmd.Process.Kill() }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dirs := testDirs(t)
			p, err := launch(t.Context(), dirs, tt.name, testConfig{})
			if err != nil {
				t.Fatal(err)
			}
			if err := tt.end(p); err != nil {
				t.Fatal(err)
			}
			<-p.Exited()
			got := ""
			if ended := p.Ended(); ended != nil {
				got = ended.Source
			}
			if got != tt.want {
				t.Errorf("ended by %q, want %q", got, tt.want)
			}
			checkEmpty(t, dirs)
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// script writes an executable shell script and returns its path.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestStartProcessFails checks what is said of processes that don't become a
// sandbox.
func TestStartProcessFails(t *testing.T) {
	t.Parallel()
	hello := func(text string) string { // on descriptor 3
		return fmt.Sprintf(`printf '\000\000\000\%03o%s' >&3`, len(text), text)
	}
	for _, tt := range []struct {
		name string
		exe  string // "" is this test binary
		cfg  testConfig
		want string // within the error
		kind string
	}{
		{"refuses", "", testConfig{Refuse: "not this"}, "not this; don't", control.KindInvalid},
		{"panics", "", testConfig{Panic: "oh no"}, "its last words:\npanic: oh no", ""},
		{"not there", "/none/sluice", testConfig{}, "no such file", ""},
		{"not executable", "/etc/passwd", testConfig{}, "permission denied", ""},
		{"ends at once", script(t, "exit 3"), testConfig{}, "says no hello", ""},
		{"says why", script(t, "echo cannot >&2"), testConfig{}, "its last words:\ncannot", ""},
		{"another version", script(t, hello(`{"build":"v9.9.9/1"}`)), testConfig{}, "is sluice v9.9.9/1, this program has devel/1", ""},
		{"garbage", script(t, `printf 'GET / HTTP/1.1' >&3`), testConfig{}, "bytes are more than", ""},
		{"no answer", script(t, hello(`{"build":"devel/1"}`)+"\nexec dd bs=1 count=4 of=/dev/null <&3 2>/dev/null"), testConfig{}, "the process ended before the sandbox had started", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dirs := testDirs(t)
			_, err := StartProcess(t.Context(), Launch{Dirs: dirs, Name: "x", Config: tt.cfg.raw(), Executable: tt.exe})
			if err == nil || !strings.Contains(err.Error(), tt.want) || kind(err) != tt.kind {
				t.Errorf("%v, want %q of kind %q", err, tt.want, tt.kind)
			}
			checkEmpty(t, dirs)
		})
	}
}

// TestStartProcessCancelled checks that a start that takes too long ends with its
// context, and the process with it.
func TestStartProcessCancelled(t *testing.T) {
	t.Parallel()
	dirs := testDirs(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := launch(ctx, dirs, "hangs", testConfig{Hang: true}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a start that hangs: %v", err)
	}
	checkEmpty(t, dirs)
}

// TestByHand checks that nobody becomes a sandbox's process by its name alone.
func TestByHand(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	out, err := namelessFile()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p, err := os.StartProcess(exe, []string{Role}, &os.ProcAttr{Files: []*os.File{null, out, out}})
	if err != nil {
		t.Fatal(err)
	}
	state, err := p.Wait()
	if err != nil || state.ExitCode() != 1 {
		t.Errorf("ended with %v, %v", state, err)
	}
	if words := (&Process{output: out}).lastWords(); words != "sluice: sluice:sandbox is not a program to start by hand" {
		t.Errorf("said %q", words)
	}
}

// TestDetached checks that a detached sandbox outlives who created it, and what
// it is found by, whether it was detached from the start or later.
func TestDetached(t *testing.T) {
	t.Parallel()
	needNamespaces(t)
	ctx := t.Context()
	for _, cfg := range []testConfig{{Detached: true}, {}} {
		dirs := testDirs(t)
		p, err := launch(ctx, dirs, "detached", cfg)
		if err != nil {
			t.Fatal(err)
		}
		if !cfg.Detached {
			if err := p.Detach(ctx); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
		st, err := Find(dirs, "detached")
		if err != nil || !st.Running() || !st.Detached {
			t.Fatalf("found %+v, %v", st, err)
		}
		c := control.NewClient(st.Socket)
		defer c.Close()
		if info, err := c.Info(ctx); err != nil || !info.Detached || info.Status != control.StatusRunning {
			t.Errorf("info %+v, %v", info, err)
		}
		if d, err := c.Ping(ctx); err != nil || d <= 0 {
			t.Errorf("ping: %v, %v", d, err)
		}
		if ended, err := c.Kill(ctx); err != nil || ended.Source != control.SourceKill {
			t.Errorf("ended %+v, %v", ended, err)
		}
		<-p.Exited()
		checkEmpty(t, dirs)
	}
}
