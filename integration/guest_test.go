package integration

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// A guest is a sandbox that the command sluice runs, with a shell in it.
type guest struct {
	t      *testing.T
	shell  *netlab.Shell
	events string // path of the file
}

// startGuest starts a namespace sandbox with the given flags of sluice run, for
// the time of a test.
func startGuest(t *testing.T, flags ...string) *guest {
	t.Helper()
	if err := netlab.Outside(); err != nil {
		netlab.Skip(t, "netlab", err.Error())
	}
	g := &guest{t: t, events: filepath.Join(t.TempDir(), "events")}
	argv := append([]string{sluice, "run", "--backend", "namespace", "--events", g.events}, flags...)
	// t.Context ends before the cleanup, and with it a sandbox that shall end in
	// its own way.
	ctx, cancel := context.WithCancel(context.Background())
	shell, err := netlab.StartShell(ctx, append(argv, "--", "sh")...)
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

// run runs a command line in the guest and returns its output, standard error
// included, and exit code.
func (g *guest) run(line string) (string, int) {
	g.t.Helper()
	out, code, err := g.shell.Run("timeout 60 sh -c '" + strings.ReplaceAll(line, "'", `'\''`) + "' 2>&1")
	if err != nil {
		g.t.Fatalf("%v\n%s", err, g.shell.Stderr())
	}
	return out, code
}

// want runs a command line and checks that it succeeds with an output that holds
// what is wanted.
func (g *guest) want(line, want string) {
	g.t.Helper()
	if out, code := g.run(line); code != 0 || !strings.Contains(out, want) {
		g.t.Errorf("%s: exit code %d, want %q in\n%s", line, code, want, out)
	}
}

// fails runs a command line and checks that it fails with the exit code; 0 is any
// but success.
func (g *guest) fails(line string, code int) {
	g.t.Helper()
	if out, got := g.run(line); got == 0 || code != 0 && got != code {
		g.t.Errorf("%s: exit code %d, want %d\n%s", line, got, code, out)
	}
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
