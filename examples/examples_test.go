package examples_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
)

// programs is the directory that the examples, and sluice, are built into.
var programs string

func TestMain(m *testing.M) {
	netlab.Enter()
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "examples:", err)
		code = 1
	}
	os.Exit(code)
}

// runTests runs the tests with directories of their own.
func runTests(m *testing.M) (code int, err error) {
	if programs, err = netlab.Build("./agent", "./ask", "./serve", "../cmd/sluice"); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(programs)) }()
	state, err := os.MkdirTemp("", "sluice-examples-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(state)) }()
	err = errors.Join(
		os.Setenv("SLUICE_HOME", filepath.Join(state, "home")),
		os.Setenv("XDG_RUNTIME_DIR", state),
		os.Setenv("PATH", programs+":"+os.Getenv("PATH")),
	)
	if err != nil {
		return 0, err
	}
	return netlab.Run(m), nil
}

// program returns the command of an example, and what it will have written.
func program(t *testing.T, argv ...string) (cmd *exec.Cmd, stdout, stderr *bytes.Buffer) {
	t.Helper()
	netlab.Tool(t, "curl")
	cmd = exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	stdout, stderr = new(bytes.Buffer), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd, stdout, stderr
}

// exitCode returns what a command that ran ended with.
func exitCode(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return exit.ExitCode()
}

// TestAgent gives an agent's command a key for one API, and sees it try another.
func TestAgent(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	lab.Host(t, "api.agent.example").HTTPS(443, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "key:", r.Header.Get("Authorization") == "Bearer sesame-open")
	}))
	elsewhere := lab.Host(t, "elsewhere.agent.example")
	elsewhere.HTTPS(443, http.NotFoundHandler())
	sent := lab.Watch(t)
	cmd, stdout, stderr := program(t, "agent", "api.agent.example", "sh", "-c",
		`echo $API_KEY; curl -sS -H "Authorization: Bearer $API_KEY" https://api.agent.example/
		curl -sS -H "Authorization: Bearer $API_KEY" https://elsewhere.agent.example/; exit 3`)
	cmd.Env = append(os.Environ(), "API_KEY=sesame-open")
	if code := exitCode(t, cmd.Run()); code != 3 {
		t.Errorf("exit code %d, want the command's, 3", code)
	}
	if want := "$MSB_API_KEY\nkey: true\n"; stdout.String() != want {
		t.Errorf("the command wrote %q, want %q", stdout, want)
	}
	if want := `agent: tried to look up "elsewhere.agent.example", `; !strings.Contains(stderr.String(), want) {
		t.Errorf("no %q in\n%s", want, stderr)
	}
	sent.None(t, elsewhere.To())
}

// TestAsk answers the question that a command's first try makes, and lets it try
// again.
func TestAsk(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	lab.Host(t, "site.ask.example").HTTP(80, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") }))
	for _, tt := range []struct {
		answer, command, stdout string
		code                    int
	}{
		{"y", "until curl -sS http://site.ask.example/; do sleep 0.1; done", "hello\n", 0},
		{"n", "curl -sS http://site.ask.example/; curl -sS http://site.ask.example/; exit 4", "", 4},
	} {
		cmd, stdout, stderr := program(t, "ask", "sh", "-c", tt.command)
		cmd.Stdin = strings.NewReader(tt.answer + "\n")
		if code := exitCode(t, cmd.Run()); code != tt.code {
			t.Errorf("%s: exit code %d, want %d", tt.answer, code, tt.code)
		}
		if stdout.String() != tt.stdout {
			t.Errorf("%s: the command wrote %q, want %q", tt.answer, stdout, tt.stdout)
		}
		if got := strings.Count(stderr.String(), "ask: allow egress site.ask.example? [y/N]"); got != 1 {
			t.Errorf("%s: asked %d times:\n%s", tt.answer, got, stderr)
		}
	}
}

// TestServe reaches a server where its example says, and interrupts that.
func TestServe(t *testing.T) {
	t.Parallel()
	netlab.New(t)
	netlab.Tool(t, "python3")
	cmd, _, stderr := program(t, "serve", "8000", "python3", "-m", "http.server", "8000")
	cmd.Dir, cmd.Stdout = "/usr", nil // what the server shows
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	url, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("%v; it said\n%s", errors.Join(err, cmd.Wait()), stderr)
	}
	switch answer, err := http.Get(strings.TrimSpace(url)); {
	case err != nil:
		t.Error(err)
	default:
		if err := answer.Body.Close(); err != nil || answer.StatusCode != http.StatusOK {
			t.Errorf("%s: %s, %v", url, answer.Status, err)
		}
	}
	if err := errors.Join(cmd.Process.Signal(os.Interrupt), cmd.Wait()); err != nil {
		t.Errorf("interrupted: %v\n%s", err, stderr)
	}
}

// TestServeEnds checks that a server that ends is no success.
func TestServeEnds(t *testing.T) {
	t.Parallel()
	netlab.New(t)
	cmd, stdout, stderr := program(t, "serve", "8000", "sh", "-c", "echo broken >&2; exit 5")
	if code := exitCode(t, cmd.Run()); code != 1 || stdout.Len() > 0 {
		t.Errorf("exit code %d, and it said it was at %s", code, stdout)
	}
	if want := "broken\nserve: the server ended with 5\n"; stderr.String() != want {
		t.Errorf("said %q, want %q", stderr, want)
	}
}

// TestStep runs the step of a CI, with a command that keeps to its policy and one
// that doesn't.
func TestStep(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	step, err := filepath.Abs("ci/step.sh")
	if err != nil {
		t.Fatal(err)
	}
	lab.Host(t, "packages.example.com").HTTPS(443, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "a package") }))
	for _, tt := range []struct {
		command, row string
		code         int
	}{
		{"curl -sS https://packages.example.com/", "| allowed | 1 | tcp | `packages.example.com:443` |", 0},
		{"curl -sS https://packages.example.com/; curl -sS http://198.51.100.7/; true", "| denied | 1 | tcp | `198.51.100.7:80` |", 77},
		{"exit 9", "0 flows allowed, 0 denied", 9},
	} {
		cmd, stdout, stderr := program(t, "sh", step, "sh", "-c", tt.command)
		cmd.Dir = t.TempDir()
		if code := exitCode(t, cmd.Run()); code != tt.code {
			t.Errorf("%s: exit code %d, want %d", tt.command, code, tt.code)
		}
		if !strings.Contains(stderr.String(), tt.row) {
			t.Errorf("%s: no %q in\n%s%s", tt.command, tt.row, stdout, stderr)
		}
		if _, err := os.Stat(filepath.Join(cmd.Dir, "flows.jsonl")); err != nil {
			t.Error(err)
		}
	}
}

// TestUsage checks that every program says how it is called.
func TestUsage(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"agent", "ask", "serve"} {
		cmd, _, stderr := program(t, name)
		if code := exitCode(t, cmd.Run()); code != 2 || !strings.HasPrefix(stderr.String(), "usage: ") {
			t.Errorf("%s: exit code %d, said %q", name, code, stderr)
		}
	}
}
