package sandbox

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/hvtest"
	"github.com/sluicenet/sluice/internal/control"
)

// again starts a sandbox that was kept.
func again(t *testing.T, dirs Dirs, name string, fake *hvtest.Fake, cfg testConfig) (*Embedded, error) {
	t.Helper()
	return Embed(t.Context(), control.Spec{Name: name, Home: dirs.Home, Runtime: dirs.Runtime, Again: true, Config: cfg.raw()}, Options{
		Open:    func(context.Context, string) (hv.Hypervisor, error) { return fake, nil },
		Compile: testCompile,
	})
}

// TestKept follows a sandbox that is kept through its lives.
func TestKept(t *testing.T) {
	t.Parallel()
	dirs, fake := testDirs(t), &hvtest.Fake{}
	cfg := testConfig{Keep: true, Labels: map[string]string{"team": "net"}}
	if _, err := again(t, dirs, "kept", fake, cfg); kind(err) != control.KindNotFound {
		t.Errorf("start what never was: %v", err)
	}
	checkEmpty(t, dirs)
	e := embed(t, dirs, "kept", fake, cfg)
	first, err := Find(dirs, "kept")
	if err != nil || first.Status != control.StatusRunning || first.PID != os.Getpid() || first.Labels["team"] != "net" || string(first.Config) != string(cfg.raw()) {
		t.Errorf("running: %+v, %v", first, err)
	}
	if first.Socket != e.Ready().Socket || first.Ended != nil {
		t.Errorf("running: %+v", first)
	}
	if err := Remove(dirs, "kept"); kind(err) != control.KindStillRunning {
		t.Errorf("remove a running one: %v", err)
	}
	e.s.Kill()
	<-e.Exited()
	st, err := Find(dirs, "kept")
	if err != nil || st.Status != control.StatusStopped || st.Ended == nil || st.Ended.Source != control.SourceKill || !st.Updated.After(st.Created) {
		t.Errorf("stopped: %+v, %v", st, err)
	}
	if _, err := os.Stat(st.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its socket: %v", err)
	}
	if _, err := tryEmbed(t, dirs, "kept", fake, cfg); kind(err) != control.KindExists {
		t.Errorf("create over it: %v", err)
	}
	if _, err := again(t, dirs, "kept", &hvtest.Fake{StartError: errors.New("no")}, cfg); err == nil {
		t.Error("started on a broken hypervisor")
	}
	if st, err := Find(dirs, "kept"); err != nil || st.Status != control.StatusStopped {
		t.Errorf("after a start that failed: %+v, %v", st, err)
	}
	second, err := again(t, dirs, "kept", fake, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := Find(dirs, "kept"); err != nil || !st.Created.Equal(first.Created) || st.Status != control.StatusRunning || st.Ended != nil {
		t.Errorf("started again: %+v, %v", st, err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if err := Remove(dirs, "kept"); err != nil {
		t.Error(err)
	}
	if err := Remove(dirs, "kept"); kind(err) != control.KindNotFound {
		t.Errorf("removed twice: %v", err)
	}
	checkEmpty(t, dirs)
}

// TestCrashed checks what is found of sandboxes whose process died.
func TestCrashed(t *testing.T) {
	t.Parallel()
	dirs, now := testDirs(t), time.Now()
	for _, keep := range []bool{true, false} {
		name := map[bool]string{true: "kept", false: "gone"}[keep]
		c, err := dirs.claimName(Found{Name: name, Status: control.StatusDraining, Created: now, Updated: now, Keep: keep}, false)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := Find(dirs, name); err != nil || st.Status != control.StatusDraining {
			t.Errorf("%s: alive: %+v, %v", name, st, err)
		}
		if err := os.WriteFile(c.socket, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		c.die(t)
	}
	check := func(when string) {
		t.Helper()
		all, err := List(dirs)
		if err != nil || len(all) != 1 || all[0].Name != "kept" || all[0].Status != control.StatusCrashed || all[0].Running() {
			t.Errorf("%s: %+v, %v", when, all, err)
		}
		if _, err := Find(dirs, "gone"); kind(err) != control.KindNotFound {
			t.Errorf("%s: one that isn't kept: %v", when, err)
		}
	}
	check("dead")
	if swept, err := dirs.Sweep(); err != nil || len(swept) != 2 {
		t.Errorf("swept %q, %v", swept, err)
	}
	check("swept")
	if swept, err := dirs.Sweep(); err != nil || len(swept) != 0 {
		t.Errorf("swept again: %q, %v", swept, err)
	}
	for _, name := range []string{"kept", "gone"} {
		if _, err := os.Stat(dirs.socket(name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the socket is left: %v", name, err)
		}
	}
	if err := Remove(dirs, "kept"); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"", ".", "..", "a/b", "../kept", "none"} {
		if _, err := Find(dirs, name); kind(err) != control.KindNotFound {
			t.Errorf("%q: %v", name, err)
		}
	}
	if all, err := List(Dirs{Home: t.TempDir()}); err != nil || all != nil {
		t.Errorf("nowhere: %v, %v", all, err)
	}
}

// TestReplace checks that whatever has a name makes room.
func TestReplace(t *testing.T) {
	t.Parallel()
	ctx, dirs, fake := t.Context(), testDirs(t), &hvtest.Fake{}
	if err := Replace(ctx, dirs, "a", 0); err != nil {
		t.Errorf("nobody: %v", err)
	}
	for _, tt := range []struct {
		name    string
		cfg     testConfig
		running bool
	}{
		{"running", testConfig{}, true},
		{"running, kept", testConfig{Keep: true}, true},
		{"stopped, kept", testConfig{Keep: true}, false},
	} {
		e := embed(t, dirs, "a", fake, tt.cfg)
		if !tt.running {
			e.s.Kill()
			<-e.Exited()
		}
		if err := Replace(ctx, dirs, "a", time.Second); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		<-e.Exited()
		checkEmpty(t, dirs)
	}
	c, err := dirs.claimName(Found{Name: "mute", Status: control.StatusRunning}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.remove()
	short, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
	defer cancel()
	if err := Replace(short, dirs, "mute", time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one that doesn't answer: %v", err)
	}
	e := embed(t, dirs, "a", fake, testConfig{Keep: true})
	e.s.Kill()
	<-e.Exited()
	why := errors.New("changed my mind")
	ended, end := context.WithCancelCause(ctx)
	end(why)
	if err := Replace(ended, dirs, "a", time.Second); !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
		t.Errorf("a context that has ended: %v", err)
	}
	if _, err := Find(dirs, "a"); err != nil {
		t.Errorf("it is gone all the same: %v", err)
	}
}

// TestEndsItself checks that idle, old and drained sandboxes end.
func TestEndsItself(t *testing.T) {
	t.Parallel()
	dirs, fake := testDirs(t), &hvtest.Fake{}
	for _, tt := range []struct {
		name string
		cfg  testConfig
		do   func(*Sandbox)
		want string
	}{
		{"idle", testConfig{Idle: 20 * time.Millisecond, Limit: time.Hour}, func(s *Sandbox) { s.Touch() }, control.SourceIdle},
		{"old", testConfig{Limit: 20 * time.Millisecond}, func(s *Sandbox) { s.activity.begin() }, control.SourceLimit},
		{"drained", testConfig{}, (*Sandbox).Drain, control.SourceDrain},
	} {
		e := embed(t, dirs, tt.name, fake, tt.cfg)
		tt.do(e.s)
		if ended, err := e.s.Wait(t.Context()); err != nil || ended.Source != tt.want {
			t.Errorf("%s: %+v, %v", tt.name, ended, err)
		}
	}
	e := embed(t, dirs, "draining", fake, testConfig{Keep: true})
	e.s.activity.begin()
	e.s.Drain()
	if st, err := Find(dirs, "draining"); err != nil || st.Status != control.StatusDraining || e.s.Info().Status != st.Status {
		t.Errorf("draining: %+v, %v", st, err)
	}
	if err := e.s.Detach(); kind(err) != control.KindUnsupported {
		t.Errorf("detached from its own process: %v", err)
	}
}
