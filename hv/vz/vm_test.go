//go:build linux || darwin

package vz

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/vnet/link"
)

// start starts a guest that ends with the test.
func start(t *testing.T, h *Hypervisor, cfg hv.Config) *vm {
	t.Helper()
	v, err := h.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v.(*vm)
}

// wait waits for a guest's end.
func wait(t *testing.T, v hv.VM) hv.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	exit, err := v.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return exit
}

func TestStartPlugsAll(t *testing.T) {
	t.Parallel()
	f := new(fake)
	f.guest = func(m *fakeMachine) {
		io.WriteString(m.plan.console, "hello\n")
		m.sayReady()
	}
	var console bytes.Buffer
	cfg := diskConfig()
	cfg.NIC, cfg.Console = &hv.NIC{}, &console
	v := start(t, f.hypervisor(t), cfg)
	m := f.machine(t)
	if m.plan.kernel != "/kernel" || m.plan.initrd != "/initramfs" || len(m.plan.ports) != 2 {
		t.Errorf("plan %+v", m.plan)
	}

	nic, format := v.NIC()
	if nic == nil || format != link.Datagram {
		t.Fatalf("%v, %v", nic, format)
	}
	defer nic.Close()
	if _, err := m.plan.card.file.Write(make([]byte, 65549)); err != nil { // the largest frame
		t.Fatal(err)
	}
	buf := make([]byte, link.MaxFrame)
	if n, err := nic.Read(buf); err != nil || n != 65549 {
		t.Errorf("%d, %v", n, err)
	}

	agent := v.Agent()
	if _, err := io.WriteString(agent, "ping"); err != nil {
		t.Fatal(err)
	}
	if n, err := m.port("sluice.agent").Read(buf); err != nil || string(buf[:n]) != "ping" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	dir := v.dir
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, v); got != (hv.Exit{Code: -1, Signal: 9}) {
		t.Errorf("exit %+v", got)
	}
	if console.String() != "hello\n" {
		t.Errorf("the console has %q", console.String())
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left", dir)
	}
}

// Each way to fail leaves nothing behind, and says what failed.
func TestStartFails(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for _, call := range []string{"limits", "create", "start"} {
		f := &fake{fails: map[string]error{call: boom}}
		if _, err := f.hypervisor(t).Start(t.Context(), diskConfig()); !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "start vz guest: ") {
			t.Errorf("%s fails: %v", call, err)
		}
		for _, m := range f.made {
			if n := m.closed(); n != 1 {
				t.Errorf("%s fails: the machine was closed %d times", call, n)
			}
		}
	}
	h := new(fake).hypervisor(t)
	h.boot = func(context.Context, hv.Config, string) (bootFiles, error) { return bootFiles{}, boom }
	if _, err := h.Start(t.Context(), diskConfig()); !errors.Is(err, boom) {
		t.Errorf("no kernel: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Start(ctx, diskConfig()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := h.Start(t.Context(), hv.Config{}); err == nil || !strings.Contains(err.Error(), "needs an image") {
		t.Errorf("no disk: %v", err)
	}
}

// A guest that doesn't come to serve is an error that says what it told.
func TestBootFails(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		guest func(*fakeMachine)
		want  string
	}{
		{"gives up", func(m *fakeMachine) { m.say("failed no root"); m.become(stopped) }, "gave up: no root"},
		{"switched off", func(m *fakeMachine) { m.become(stopped) }, "ended before its agent served"},
		{"panics", func(m *fakeMachine) {
			io.WriteString(m.plan.console, "[1.0] booting\r\n[1.1] Kernel panic - not syncing: no root\r\n[1.2] CPU: 0\r\n")
			m.become(stopped)
		}, `its console ends: "[1.1] Kernel panic - not syncing: no root"`},
		{"prints what a terminal acts on", func(m *fakeMachine) {
			io.WriteString(m.plan.console, "\x1b]0;title\a\x1b[2Jfirst\nlast")
			m.become(failed)
		}, `its console ends: "]0;title[2Jfirst; last"`},
		{"the framework fails", func(m *fakeMachine) { m.become(failed) }, "ended before its agent served"},
		{"not our process 1", func(m *fakeMachine) { m.say("login:") }, "ended before its agent served"},
	} {
		f := &fake{guest: row.guest}
		if _, err := f.hypervisor(t).Start(t.Context(), diskConfig()); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v; want %q", row.name, err, row.want)
		}
	}
	f := &fake{guest: func(*fakeMachine) {}} // silent
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := f.hypervisor(t).Start(ctx, diskConfig()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silent: %v", err)
	}
}

func TestExits(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		end  func(*vm, *fakeMachine)
		want hv.Exit
	}{
		{"its agent's", func(_ *vm, m *fakeMachine) { m.say("exit 3"); m.become(stopped) }, hv.Exit{Code: 3}},
		{"killed", func(v *vm, _ *fakeMachine) { v.Kill() }, hv.Exit{Code: -1, Signal: 9}},
		{"killed while it ends", func(v *vm, m *fakeMachine) { m.say("exit 0"); waitTold(v); v.Kill() }, hv.Exit{}},
		{"without a word", func(_ *vm, m *fakeMachine) { m.become(stopped) }, hv.Exit{Code: 125}},
		{"the framework's", func(_ *vm, m *fakeMachine) { m.become(failed) }, hv.Exit{Code: -1}},
		{"a panic", func(_ *vm, m *fakeMachine) { m.sayReady() }, hv.Exit{Code: -1, Signal: 9}},
		{"killed while paused", func(v *vm, _ *fakeMachine) { v.Pause(context.Background()); v.Kill() }, hv.Exit{Code: -1, Signal: 9}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			f := new(fake)
			v := start(t, f.hypervisor(t), diskConfig())
			row.end(v, f.machine(t))
			if got := wait(t, v); got != row.want {
				t.Errorf("%+v, want %+v", got, row.want)
			}
			v.Close()
			if n := f.machine(t).closed(); n != 1 {
				t.Errorf("the machine was closed %d times", n)
			}
		})
	}
}

// waitTold waits until the guest's exit was heard.
func waitTold(v *vm) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		v.mu.Lock()
		told := v.told.Exited
		v.mu.Unlock()
		if told {
			return
		}
	}
}

// A guest whose agent lost its host, or that said it ends, is ended if it doesn't.
func TestParting(t *testing.T) {
	t.Parallel()
	f := new(fake)
	v := start(t, f.hypervisor(t), diskConfig())
	agent := v.Agent()
	agent.Close()
	agent.Close() // tells once
	if got := wait(t, v); got != (hv.Exit{Code: -1, Signal: 9}) {
		t.Errorf("%+v", got)
	}
}

// A machine that is on its way to a state is stopped when it is there.
func TestKillWaitsForAState(t *testing.T) {
	t.Parallel()
	f := new(fake)
	v := start(t, f.hypervisor(t), diskConfig())
	m := f.machine(t)
	m.become(pausing)
	v.Kill()
	m.become(paused)
	wait(t, v)
	if calls := m.called(); !slices.Equal(calls, []string{"start", "stop"}) {
		t.Errorf("calls %q", calls)
	}
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	f := new(fake)
	v := start(t, f.hypervisor(t), diskConfig())
	var p Pauser = v
	if err := p.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := f.machine(t).state(); s != paused {
		t.Errorf("%v", s)
	}
	if err := p.Pause(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "pause guest: ") {
		t.Errorf("a second pause: %v", err)
	}
	if err := p.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Pause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	v.Close()
	if err := p.Resume(t.Context()); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("after the end: %v", err)
	}
}

func TestSaveAndRestore(t *testing.T) {
	t.Parallel()
	f := new(fake)
	h := f.hypervisor(t)
	v := start(t, h, diskConfig())
	path := filepath.Join(t.TempDir(), "state")
	if err := v.Save(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if calls := f.machine(t).called(); !slices.Equal(calls, []string{"start", "pause", "save", "resume"}) {
		t.Errorf("calls %q", calls)
	}
	if err := v.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := v.Save(t.Context(), path); err != nil || f.machine(t).state() != paused {
		t.Errorf("%v; want it saved, and paused as it was", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := v.Save(t.Context(), path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}

	g := new(fake)
	r, err := g.hypervisor(t).Restore(t.Context(), diskConfig(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if calls := g.machine(t).called(); !slices.Equal(calls, []string{"restore", "resume"}) {
		t.Errorf("calls %q", calls)
	}
	boom := errors.New("boom")
	if s := f.machine(t).state(); s != paused {
		t.Errorf("%v", s)
	}
	if _, err := (&fake{fails: map[string]error{"restore": boom}}).hypervisor(t).Restore(t.Context(), diskConfig(), path); !errors.Is(err, boom) {
		t.Errorf("%v; want boom", err)
	}
}

// Where the framework can't keep states the errors say so: as a machine without the
// methods, or by the version of macOS.
func TestSaveUnsupported(t *testing.T) {
	t.Parallel()
	old := &fake{fails: map[string]error{"save": tooOld(errors.New("unsupported macOS version"), 14)}}
	err := start(t, old.hypervisor(t), diskConfig()).Save(t.Context(), "/nowhere")
	if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "it takes macOS 14") {
		t.Errorf("save: %v", err)
	}
	f := &fake{noKeep: true}
	v := start(t, f.hypervisor(t), diskConfig())
	if err := v.Save(t.Context(), "/nowhere"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("save: %v", err)
	}
	g := &fake{noKeep: true}
	if _, err := g.hypervisor(t).Restore(t.Context(), diskConfig(), "/nowhere"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("restore: %v", err)
	}
}

// News of the card, which come at every reset of it, are no reason to end.
func TestUnplugged(t *testing.T) {
	t.Parallel()
	f := new(fake)
	v := start(t, f.hypervisor(t), diskConfig())
	f.machine(t).lost <- errors.New("reset")
	if err := v.Pause(t.Context()); err != nil { // the owner goes on
		t.Error(err)
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	f := &fake{guest: func(m *fakeMachine) { m.say("failed the disk has no file system"); m.become(stopped) }}
	h := f.hypervisor(t)
	if r := h.Probe(t.Context()); !r.Usable {
		t.Errorf("%+v", r)
	}
	if r := h.Probe(t.Context()); !r.Usable || len(f.made) != 1 {
		t.Errorf("%+v, with %d boots; want one that is remembered", r, len(f.made))
	}
	h = (&fake{guest: func(m *fakeMachine) { m.become(failed) }}).hypervisor(t)
	if r := h.Probe(t.Context()); r.Usable || !strings.Contains(r.Reason, "ended before") {
		t.Errorf("%+v", r)
	}
	h = (&fake{fails: map[string]error{"limits": &unusableError{errors.New("no"), "try"}}}).hypervisor(t)
	if r := h.Probe(t.Context()); r != (hv.Report{Reason: "no", Fix: "try"}) {
		t.Errorf("%+v", r)
	}
}

// A program that isn't signed asks a copy of itself that is.
func TestProbeAsksACopy(t *testing.T) {
	t.Parallel()
	m := new(mac)
	h := new(fake).hypervisor(t)
	var asked string
	h.signer = signer{cache: t.TempDir(), start: func(ctx context.Context, path string, args ...string) ([]byte, error) {
		if args[0] == Role {
			asked = path
			return []byte(`{"Usable":true,"Reason":"it did"}`), nil
		}
		return m.start(ctx, path, args...)
	}}
	if r := h.Probe(t.Context()); !r.Usable || r.Reason != "it did" || !strings.HasPrefix(asked, h.signer.cache) {
		t.Errorf("%+v of %q", r, asked)
	}
	h = new(fake).hypervisor(t)
	h.signer = signer{cache: t.TempDir(), start: (&mac{fails: true}).start}
	if r := h.Probe(t.Context()); r.Usable || r.Fix == "" {
		t.Errorf("%+v; want what to do", r)
	}
}
