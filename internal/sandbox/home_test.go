package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

// TestUserDirs checks where the directories are, by what is set.
func TestUserDirs(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the rows are Linux's")
	}
	tmp := filepath.Join(os.TempDir(), "sluice-"+strconv.Itoa(os.Getuid()))
	for _, tt := range []struct {
		env           map[string]string
		home, runtime string // "" is an error
	}{
		{map[string]string{"HOME": "/home/u"}, "/home/u/.local/state/sluice", tmp},
		{map[string]string{"HOME": "/home/u", "XDG_STATE_HOME": "/state"}, "/state/sluice", tmp},
		{map[string]string{"HOME": "/home/u", "XDG_STATE_HOME": "relative"}, "/home/u/.local/state/sluice", tmp},
		{map[string]string{"HOME": "/home/u", "SLUICE_HOME": "/s", "XDG_STATE_HOME": "/state"}, "/s", tmp},
		{map[string]string{"SLUICE_HOME": "/s", "XDG_RUNTIME_DIR": "/run/user/1"}, "/s", "/run/user/1/sluice"},
		{map[string]string{"SLUICE_HOME": "/s", "XDG_RUNTIME_DIR": "run"}, "/s", tmp},
		{map[string]string{"SLUICE_HOME": "/s", "XDG_RUNTIME_DIR": "/" + strings.Repeat("x", maxRuntime)}, "/s", "/tmp/" + filepath.Base(tmp)},
		{nil, "", ""},
	} {
		got, err := UserDirs(func(name string) string { return tt.env[name] })
		if got.Home != tt.home || got.Runtime != tt.runtime || (err != nil) != (tt.home == "") {
			t.Errorf("%v: %+v, %v", tt.env, got, err)
		}
	}
}

// TestCreatePrivate checks that directories that others could have put there, or
// may write to, are refused.
func TestCreatePrivate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		make func(path string) error
		want string // within the error; "" is success
	}{
		{"none yet", func(string) error { return nil }, ""},
		{"ours", func(p string) error { return os.Mkdir(p, 0o700) }, ""},
		{"readable", func(p string) error { return os.Mkdir(p, 0o755) }, ""},
		{"writable", func(p string) error { return errors.Join(os.Mkdir(p, 0o700), os.Chmod(p, 0o777)) }, "may be written by others"},
		{"a link", func(p string) error { return os.Symlink(t.TempDir(), p) }, "is not a directory but L"},
		{"a file", func(p string) error { return os.WriteFile(p, nil, 0o600) }, "not a directory"},
	} {
		d := Dirs{Home: t.TempDir(), Runtime: filepath.Join(t.TempDir(), "run")}
		if err := tt.make(d.Runtime); err != nil {
			t.Fatal(err)
		}
		err := d.Create()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	d := Dirs{Home: t.TempDir(), Runtime: t.TempDir()}
	if err := os.Chown(d.Runtime, 1234, 1234); err != nil {
		t.Fatal(err)
	}
	if err := d.Create(); err == nil || !strings.Contains(err.Error(), "belongs to another user") {
		t.Errorf("another user's: %v", err)
	}
}

// TestSocketIsShort checks that the longest name gives a path that a socket may
// have, and that names and homes don't meet.
func TestSocketIsShort(t *testing.T) {
	t.Parallel()
	d := Dirs{Home: "/a", Runtime: "/run/user/1000/sluice"}
	if path := d.socket(strings.Repeat("x", 63)); len(path) > 104 {
		t.Errorf("%q has %d bytes", path, len(path))
	}
	other := Dirs{Home: "/b", Runtime: d.Runtime}
	if d.socket("x") == d.socket("y") || d.socket("x") == other.socket("x") {
		t.Error("two sandboxes have one socket")
	}
}

// TestClaimName checks that a name has one holder, and what a holder leaves.
func TestClaimName(t *testing.T) {
	t.Parallel()
	d := testDirs(t)
	now := time.Now()
	c, err := d.claimName(Found{Name: "a", Status: control.StatusRunning, PID: 1, Updated: now}, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.claimName(Found{Name: "a", PID: 2, Updated: now}, false); !errors.Is(err, errHeld) {
		t.Errorf("the same name: %v", err)
	}
	b, err := d.claimName(Found{Name: "b", PID: 3, Updated: now}, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{c.path("events.jsonl"), c.socket} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := c.remove(); err != nil {
			t.Error(err)
		}
	}
	for _, path := range []string{c.dir, c.socket} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
	if again, err := d.claimName(Found{Name: "a", PID: 4, Updated: now}, false); err != nil {
		t.Error(err)
	} else if err := errors.Join(again.remove(), b.remove()); err != nil {
		t.Error(err)
	}
}

// TestClaimWaitsForSweep checks that who sweeps a name for a moment is not taken
// for its holder.
func TestClaimWaitsForSweep(t *testing.T) {
	t.Parallel()
	d := testDirs(t)
	lock, err := lockIn(d.dir("a")) // as a sweep finds a directory just made
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, func() { lock.Close() })
	c, err := d.claimName(Found{Name: "a", Status: control.StatusRunning}, false)
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if _, err := d.claimName(Found{Name: "a"}, false); !errors.Is(err, errHeld) || time.Since(begun) > sweepTime/2 {
		t.Errorf("a running sandbox's name: %v after %v", err, time.Since(begun))
	}
	if err := c.remove(); err != nil {
		t.Error(err)
	}
}

// die ends a claim as the end of its process does: the lock goes, the files
// stay.
func (c *claim) die(t *testing.T) {
	t.Helper()
	if err := c.lock.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestDeadSandbox checks that what a dead sandbox left is no obstacle, and is
// swept, and that the living are left alone.
func TestDeadSandbox(t *testing.T) {
	t.Parallel()
	d := testDirs(t)
	for _, name := range []string{"dead", "reused", "alive"} {
		c, err := d.claimName(Found{Name: name, PID: 1, Updated: time.Now()}, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{c.path("events.jsonl"), c.socket} {
			if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if name != "alive" {
			c.die(t)
		} else {
			defer c.remove()
		}
	}
	c, err := d.claimName(Found{Name: "reused", PID: 2, Updated: time.Now()}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.remove()
	if _, err := os.Stat(c.path("events.jsonl")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the dead sandbox's events are its successor's: %v", err)
	}
	swept, err := d.Sweep()
	if err != nil || !slices.Equal(swept, []string{"dead"}) {
		t.Errorf("swept %q, %v", swept, err)
	}
	for name, left := range map[string]bool{"dead": false, "alive": true} {
		for _, path := range []string{filepath.Join(d.sandboxes(), name), d.socket(name)} {
			if _, err := os.Stat(path); (err == nil) != left {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	if swept, err := (Dirs{Home: t.TempDir()}).Sweep(); err != nil || swept != nil {
		t.Errorf("nothing to sweep: %q, %v", swept, err)
	}
}

// TestClaimsRace checks that a name never has two holders, however claims,
// releases, deaths and sweeps meet.
func TestClaimsRace(t *testing.T) {
	t.Parallel()
	d := testDirs(t)
	var holders, claims atomic.Int32
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 200 {
				c, err := d.claimName(Found{Name: "a", PID: worker, Updated: time.Now()}, false)
				if errors.Is(err, errHeld) {
					if _, err := d.Sweep(); err != nil {
						t.Error(err)
					}
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				claims.Add(1)
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d holders", n)
				}
				if _, err := os.Stat(c.path("state.json")); err != nil {
					t.Errorf("swept under its holder: %v", err)
				}
				holders.Add(-1)
				if i%3 == 0 {
					c.die(t)
				} else if err := c.remove(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d claims", claims.Load())
}

// TestHeldAt checks that asking takes nothing.
func TestHeldAt(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	if held, err := heldAt(path); held || err != nil {
		t.Errorf("no file: %v, %v", held, err)
	}
	f, err := lockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if held, err := heldAt(path); !held || err != nil {
		t.Errorf("held: %v, %v", held, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if held, err := heldAt(path); held || err != nil {
		t.Errorf("let go: %v, %v", held, err)
	}
}
