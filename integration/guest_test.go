package integration

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// A guest is a sandbox that the command sluice runs, with a shell in it.
type guest struct {
	console
	events string // path of the file
}

// startGuest starts a namespace sandbox with the given flags of sluice run, for
// the time of a test.
func startGuest(t *testing.T, flags ...string) *guest {
	t.Helper()
	return startGuestBehind(t, "true", flags...)
}

// startGuestBehind is startGuest with a host whose mounts a command line of sh has
// changed first, for this sandbox only.
func startGuestBehind(t *testing.T, line string, flags ...string) *guest {
	t.Helper()
	if err := netlab.Outside(); err != nil {
		netlab.Skip(t, "netlab", err.Error())
	}
	g := &guest{console: console{t: t}, events: filepath.Join(t.TempDir(), "events")}
	argv := []string{"unshare", "--mount", "sh", "-c", line + ` && exec "$0" "$@"`, sluice, "run", "--backend", "namespace", "--events", g.events}
	// t.Context ends before the cleanup, and with it a sandbox that shall end in
	// its own way.
	ctx, cancel := context.WithCancel(context.Background())
	shell, err := netlab.StartShell(ctx, append(append(argv, flags...), "--", "sh")...)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	g.shell = shell
	t.Cleanup(func() {
		g.close()
		cancel()
	})
	return g
}

// close ends the sandbox; a test that wants its summary calls it early.
func (g *guest) close() {
	g.t.Helper()
	if g.shell == nil {
		return
	}
	if err := g.shell.Close(); err != nil {
		g.t.Errorf("sluice run: %v\n%s", err, g.shell.Stderr())
	}
	g.shell = nil
}

// told returns the events of a type so far.
func (g *guest) told(typ string) []m.Event {
	g.t.Helper()
	data, err := os.ReadFile(g.events)
	if err != nil {
		g.t.Fatal(err)
	}
	var all []m.Event
	for line := range strings.Lines(string(data)) {
		if !strings.HasSuffix(line, "\n") || !strings.Contains(line, `"`+typ+`"`) {
			continue // it is being written, or another
		}
		var e m.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			g.t.Fatalf("event %q: %v", line, err)
		}
		if e.Type == typ {
			all = append(all, e)
		}
	}
	return all
}

// tells waits for an event of a type of which ok is true, and returns it.
func (g *guest) tells(typ string, ok func(m.Event) bool) m.Event {
	g.t.Helper()
	var found m.Event
	eventually(g.t, "an event "+typ, func() bool {
		all := g.told(typ)
		i := slices.IndexFunc(all, ok)
		if i >= 0 {
			found = all[i]
		}
		return i >= 0
	})
	return found
}

// denials returns the events of denied flows so far.
func (g *guest) denials() []m.Event {
	g.t.Helper()
	return g.told(m.EventFlowDeny)
}

// runSluice runs the command and returns its output and exit code.
func runSluice(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), sluice, args...)
	out, err := cmd.CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// large reports whether the sizes of the specification are wanted, which take
// minutes; else a tenth of them is tried.
func large() bool { return os.Getenv("SLUICE_LARGE") == "1" }
