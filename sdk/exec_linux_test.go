package sdk_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	m "github.com/sluicenet/sluice/sdk"
)

// running returns a sandbox in a namespace, which ends with the test.
func running(t *testing.T, name string, opts ...m.SandboxOption) *m.Sandbox {
	t.Helper()
	return mustCreate(t, name, inNamespace(t, opts...)...)
}

// TestExec checks what commands see, write and end as.
func TestExec(t *testing.T) {
	t.Parallel()
	sb := running(t, "exec", m.WithEnv(map[string]string{"A": "sandbox", "B": "sandbox"}), m.WithWorkdir("/usr"))
	for _, tt := range []struct {
		name, script   string
		opts           []m.ExecOption
		stdout, stderr string
		code           int
	}{
		{"output", "echo out; echo err >&2; exit 3", nil, "out\n", "err\n", 3},
		{"success", "true", nil, "", "", 0},
		{"signal", "kill -9 $$", nil, "", "", 137},
		{"no input", "cat", nil, "", "", 0},
		{"workdir", "pwd", nil, "/usr\n", "", 0},
		{"own workdir", "pwd", []m.ExecOption{m.WithExecCwd("/etc")}, "/etc\n", "", 0},
		{"environment", "echo $A $B", []m.ExecOption{m.WithExecEnv(map[string]string{"B": "exec"})}, "sandbox exec\n", "", 0},
		{"user", "id -u; id -g", nil, "0\n0\n", "", 0},
		{"other user", "id -u; id -g", []m.ExecOption{m.WithExecUser("12:34")}, "12\n34\n", "", 0},
		{"terminal", "tty >/dev/null && echo yes >&2", []m.ExecOption{m.WithExecTTY(true)}, "yes\r\n", "", 0},
		{"bytes", `printf '\000\377'`, nil, "\x00\xff", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			out, err := sb.Shell(t.Context(), tt.script, tt.opts...)
			if err != nil {
				t.Fatal(err)
			}
			if out.Stdout() != tt.stdout || out.Stderr() != tt.stderr || out.ExitCode() != tt.code || out.Success() != (tt.code == 0) ||
				string(out.StdoutBytes()) != tt.stdout || string(out.StderrBytes()) != tt.stderr {
				t.Errorf("%q, %q, exit code %d, want %q, %q, %d", out.Stdout(), out.Stderr(), out.ExitCode(), tt.stdout, tt.stderr, tt.code)
			}
		})
	}
}

// TestExecRefused checks what is said of commands that don't run, or not to
// their end.
func TestExecRefused(t *testing.T) {
	t.Parallel()
	sb := running(t, "exec-refused")
	for _, tt := range []struct {
		name string
		cmd  []string
		opts []m.ExecOption
		kind m.ErrorKind
		code int // of the ExecFailure; 0 for none
	}{
		{"no program", []string{"no-such-program"}, nil, m.ErrExecFailed, 127},
		{"no file", []string{"/etc/passwd"}, nil, m.ErrExecFailed, 126},
		{"no user", []string{"true"}, []m.ExecOption{m.WithExecUser("nobody-has-this-name")}, m.ErrExecFailed, 125},
		{"empty", []string{""}, nil, m.ErrInvalidArgument, 0},
		{"relative directory", []string{"true"}, []m.ExecOption{m.WithExecCwd("tmp")}, m.ErrInvalidConfig, 0},
		{"bad user", []string{"true"}, []m.ExecOption{m.WithExecUser("a b")}, m.ErrInvalidArgument, 0},
		{"bad variable", []string{"true"}, []m.ExecOption{m.WithExecEnv(map[string]string{"A=": ""})}, m.ErrInvalidConfig, 0},
		{"bad timeout", []string{"true"}, []m.ExecOption{m.WithExecTimeout(-1)}, m.ErrInvalidArgument, 0},
		{"timeout", []string{"sleep", "100"}, []m.ExecOption{m.WithExecTimeout(100 * time.Millisecond)}, m.ErrExecTimeout, 0},
		{"too much", []string{"sh", "-c", "cat /dev/zero"}, []m.ExecOption{m.WithExecMaxOutput(1 << 20)}, m.ErrIO, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			out, err := sb.Exec(t.Context(), tt.cmd[0], tt.cmd[1:], tt.opts...)
			if !m.IsKind(err, tt.kind) {
				t.Fatalf("%v, %v, want %v", out, err, tt.kind)
			}
			var failure *m.ExecFailure
			if errors.As(err, &failure) != (tt.code != 0) || tt.code != 0 && failure.Code != tt.code {
				t.Errorf("failure %+v of %v, want code %d", failure, err, tt.code)
			}
		})
	}
	if _, err := sb.ExecDefault(t.Context()); !m.IsKind(err, m.ErrNoDefaultCommand) {
		t.Errorf("no default command: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := sb.Exec(ctx, "sleep", []string{"4321"}); !m.IsKind(err, m.ErrCancelled) {
		t.Errorf("cancelled: %v", err)
	}
	awaitNone(t, sb, "sleep 4321")
}

// TestLargeCommands checks that a command can have what Linux takes, and that more
// is refused before anything is sent.
func TestLargeCommands(t *testing.T) {
	t.Parallel()
	sb := running(t, "large-commands", m.WithEnv(largeEnv(8)))
	longest := strings.Repeat("y", 128<<10-1)
	out, err := sb.Exec(t.Context(), "sh", []string{"-c", `env | wc -c; echo $# ${#1}`, "sh", longest, longest, longest, longest, longest, longest, longest})
	if err != nil {
		t.Fatal(err)
	}
	var env, arguments, length int
	if _, err := fmt.Sscan(out.Stdout(), &env, &arguments, &length); err != nil || env < 8*125<<10 || arguments != 7 || length != len(longest) {
		t.Errorf("%q, %q, %v", out.Stdout(), out.Stderr(), err)
	}
	for _, tt := range []struct {
		name string
		args []string
		opts []m.ExecOption
		want string
	}{
		{"argument", []string{"a", longest + "y"}, nil, "argument 2: is 131072 bytes long"},
		{"variable", nil, []m.ExecOption{m.WithExecEnv(map[string]string{"B": longest})}, `Env["B"]: is 131073 bytes long`},
		{"all of them", slices.Repeat([]string{longest}, 9), nil, "arguments and environment: are 22"},
	} {
		if _, err := sb.Exec(t.Context(), "true", tt.args, tt.opts...); !m.IsKind(err, m.ErrInvalidArgument) && !m.IsKind(err, m.ErrInvalidConfig) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

// awaitNone waits until no process of the guest has a command line.
func awaitNone(t *testing.T, sb *m.Sandbox, line string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		out, err := sb.Shell(t.Context(), `for p in /proc/[0-9]*; do tr '\0' ' ' < $p/cmdline; echo; done 2>/dev/null`)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.Stdout(), line) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q still runs", line)
		}
	}
}

// TestExecStream checks a command's events, one by one, and that it can be
// spoken to.
func TestExecStream(t *testing.T) {
	t.Parallel()
	sb := running(t, "exec-stream")
	ctx := t.Context()
	h, err := sb.ShellStream(ctx, "read line; echo got $line; exit 4", m.WithExecStdinPipe())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if id, err := h.ID(); err != nil || id == "" {
		t.Errorf("ID %q, %v", id, err)
	}
	sink := h.TakeStdin()
	if sink == nil || h.TakeStdin() != nil {
		t.Error("standard input can't be taken once")
	}
	if _, err := io.WriteString(sink, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(ctx); err != nil {
		t.Fatal(err)
	}
	var kinds []m.ExecEventKind
	var text []byte
	for {
		e, err := h.Recv(ctx)
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, e.Kind)
		text = append(text, e.Data...)
		if e.Kind == m.ExecEventStarted && e.PID == 0 || e.Kind == m.ExecEventExited && e.ExitCode != 4 {
			t.Errorf("event %+v", e)
		}
		if e.Kind == m.ExecEventDone {
			break
		}
	}
	n := len(kinds)
	if kinds[0] != m.ExecEventStarted || kinds[n-2] != m.ExecEventExited || string(text) != "got hello\n" {
		t.Errorf("events %v with %q", kinds, text)
	}
	if e, err := h.Recv(ctx); err != nil || e.Kind != m.ExecEventDone {
		t.Errorf("behind the last: %+v, %v", e, err)
	}
	for range 2 {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestExecControl checks signals, sizes and ends of commands that run.
func TestExecControl(t *testing.T) {
	t.Parallel()
	sb := running(t, "exec-control")
	ctx := t.Context()
	for _, tt := range []struct {
		name string
		do   func(h *m.ExecHandle) error
		code int
	}{
		{"signal", func(h *m.ExecHandle) error { return h.Signal(ctx, 15) }, 143},
		{"kill", func(h *m.ExecHandle) error { return h.Kill(ctx) }, 137},
	} {
		h, err := sb.ExecStream(ctx, "sleep", []string{"100"})
		if err != nil {
			t.Fatal(err)
		}
		if err := tt.do(h); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if code, err := h.Wait(ctx); code != tt.code || err != nil {
			t.Errorf("%s: exit code %d, %v, want %d", tt.name, code, err, tt.code)
		}
		h.Close()
	}
	h, err := sb.ShellStream(ctx, "read x; stty size", m.WithExecTTY(true))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.Resize(ctx, 41, 123); err != nil {
		t.Fatal(err)
	}
	if err := h.TakeStdin().WriteCtx(ctx, []byte("\n")); err != nil {
		t.Fatal(err)
	}
	out, err := h.Collect(ctx)
	if err != nil || !strings.Contains(out.Stdout(), "41 123") {
		t.Errorf("size %q, %v", out.Stdout(), err)
	}
	failed, err := sb.ExecStream(ctx, "no-such-program", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer failed.Close()
	if e, err := failed.Recv(ctx); err != nil || e.Kind != m.ExecEventFailed || e.Failure.Code != 127 {
		t.Errorf("a failed start: %+v, %v", e, err)
	}
	if _, err := failed.ID(); !m.IsKind(err, m.ErrExecFailed) {
		t.Errorf("its ID: %v", err)
	}
	closed, err := sb.ExecStream(ctx, "sleep", []string{"8765"})
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	awaitNone(t, sb, "sleep 8765")
}

// TestExecKeep checks that a command goes on when it was left, and that its
// output is in the log.
func TestExecKeep(t *testing.T) {
	t.Parallel()
	sb := running(t, "exec-keep")
	ctx := t.Context()
	h, err := sb.ShellStream(ctx, "sleep 0.2; echo on and on", m.WithExecKeep())
	if err != nil {
		t.Fatal(err)
	}
	id, err := h.ID()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Detach(ctx); err != nil {
		t.Fatal(err)
	}
	log, err := sb.LogStream(ctx, m.LogStreamOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for {
		e, err := log.Recv(ctx)
		if err != nil || e == nil {
			t.Fatalf("the log ends: %v", err)
		}
		if e.Text() == "on and on\n" && e.SessionID != nil && fmt.Sprint(*e.SessionID) == id && e.Source == m.LogSourceStdout {
			break
		}
	}
	left, err := sb.ExecStream(ctx, "true", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer left.Close()
	if err := left.Detach(ctx); !m.IsKind(err, m.ErrInvalidArgument) {
		t.Errorf("leave what isn't to go on: %v", err)
	}
	kept, err := sb.ExecStream(ctx, "sleep", []string{"5432"}, m.WithExecKeep())
	if err != nil {
		t.Fatal(err)
	}
	if err := kept.Close(); err != nil {
		t.Fatal(err)
	}
	awaitNone(t, sb, "sleep 5432")
}

// TestExecMany checks many commands at once, each with its own output.
func TestExecMany(t *testing.T) {
	t.Parallel()
	sb := running(t, "exec-many")
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			want := strings.Repeat(fmt.Sprintln("line", i), 1000)
			out, err := sb.Shell(t.Context(), fmt.Sprintf("n=0; while [ $n -lt 1000 ]; do echo line %d; n=$((n+1)); done", i))
			if err != nil {
				t.Errorf("command %d: %v", i, err)
			} else if out.Stdout() != want {
				t.Errorf("command %d wrote %d bytes, want %d", i, len(out.Stdout()), len(want))
			}
		})
	}
	all.Wait()
}
