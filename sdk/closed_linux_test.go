package sdk_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	m "github.com/sluicenet/sluice/sdk"
)

// TestFollowNothing checks that a log which nobody writes to can be followed:
// opening the stream doesn't wait for an entry, nor the end for another.
func TestFollowNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	sb := running(t, "follow-nothing")
	stream, err := sb.LogStream(ctx, m.LogStreamOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if _, err := sb.Shell(ctx, "echo later"); err != nil {
		t.Fatal(err)
	}
	if e, err := stream.Recv(ctx); err != nil || e == nil || e.Text() != "later\n" {
		t.Errorf("%+v, %v", e, err)
	}
	brief, err := sb.LogStream(ctx, m.LogStreamOptions{Follow: true, Since: time.Now(), Until: time.Now().Add(50 * time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	defer brief.Close()
	if e, err := brief.Recv(ctx); e != nil || err != nil {
		t.Errorf("until is over: %+v, %v", e, err)
	}
}

// TestCancelled checks that a context which ends is what is told, with nothing
// about how the process took it.
func TestCancelled(t *testing.T) {
	t.Parallel()
	over, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	_, err := m.CreateSandbox(over, "cancelled", inNamespace(t)...)
	if !m.IsKind(err, m.ErrCancelled) || !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "last words") {
		t.Errorf("create: %v", err)
	}
	if _, err := m.GetSandbox(t.Context(), "cancelled"); !m.IsKind(err, m.ErrSandboxNotFound) {
		t.Errorf("it is there: %v", err)
	}
	sb := running(t, "cancelled-calls")
	if _, err := m.CreateSandbox(over, sb.Name(), inNamespace(t, m.WithReplace())...); !m.IsKind(err, m.ErrCancelled) {
		t.Errorf("replace: %v", err)
	}
	if _, err := sb.Ping(t.Context()); err != nil {
		t.Errorf("replaced all the same: %v", err)
	}
	if _, err := sb.LogStream(over, m.LogStreamOptions{}); !m.IsKind(err, m.ErrCancelled) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("open log: %v", err)
	}
	if _, err := sb.LogStream(t.Context(), m.LogStreamOptions{FromCursor: "x"}); !m.IsKind(err, m.ErrInvalidArgument) || !strings.Contains(err.Error(), `FromCursor: "x": is no cursor; give the Cursor of a LogEntry`) {
		t.Errorf("no cursor: %v", err)
	}
}

// TestCancelledWithCause checks that a context's end is one, whatever its canceller
// gives as the cause.
func TestCancelledWithCause(t *testing.T) {
	t.Parallel()
	sb := running(t, "cause")
	events, logs, metrics := sb.Events, sb.LogStream, sb.MetricsStream
	why := errors.New("the user went home")
	for _, tt := range []struct {
		name   string
		midway bool // the context ends while it is called
		call   func(ctx context.Context) error
	}{
		{"create", false, func(ctx context.Context) error {
			_, err := m.CreateSandbox(ctx, "cause-2", inNamespace(t)...)
			return err
		}},
		{"wait", true, func(ctx context.Context) error { _, err := sb.WaitUntilStopped(ctx); return err }},
		{"exec", true, func(ctx context.Context) error { _, err := sb.Exec(ctx, "sleep", []string{"1000"}); return err }},
		{"ping", false, func(ctx context.Context) error { _, err := sb.Ping(ctx); return err }},
		{"files", false, func(ctx context.Context) error { _, err := sb.FS().Read(ctx, "/etc/hostname"); return err }},
		{"dial", false, func(ctx context.Context) error { _, err := sb.Dial(ctx, "tcp", ":80"); return err }},
		{"update", false, func(ctx context.Context) error { _, err := sb.UpdateNetwork(ctx, nil); return err }},
		{"events", true, func(ctx context.Context) error {
			for _, err := range events(ctx, m.EventFilter{}) {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"logs", false, func(ctx context.Context) error { _, err := logs(ctx, m.LogStreamOptions{}); return err }},
		{"metrics", false, func(ctx context.Context) error { _, err := metrics(ctx, time.Second); return err }},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		if tt.midway {
			time.AfterFunc(5*time.Millisecond, func() { cancel(why) })
		} else {
			cancel(why)
		}
		if err := tt.call(ctx); !m.IsKind(err, m.ErrCancelled) || !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestCloseFromEvents checks that the function which gets the events can end the
// sandbox, and still gets the rest of them.
func TestCloseFromEvents(t *testing.T) {
	t.Parallel()
	created, last := make(chan *m.Sandbox, 1), make(chan struct{})
	sb, err := m.CreateSandbox(t.Context(), "close-from-events", inNamespace(t, m.WithEvents(func(e m.Event) {
		switch e.Type {
		case m.EventSandboxStarted:
			sb := <-created
			for range 2 {
				if err := sb.Close(); err != nil {
					t.Error(err)
				}
			}
		case m.EventSandboxStopped:
			close(last)
		}
	}))...)
	if err != nil {
		t.Fatal(err)
	}
	created <- sb
	select {
	case <-last:
	case <-time.After(time.Minute):
		t.Fatal("the last event doesn't come")
	}
	if err := sb.Close(); err != nil { // waits for the goroutine that called it before
		t.Error(err)
	}
}

// TestClosedTwice checks that handles can be closed again, and what comes after
// says so, while the sandbox goes on.
func TestClosedTwice(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	sb := running(t, "closed-twice")
	fs := sb.FS()
	if err := fs.WriteString(ctx, "/tmp/f", "text"); err != nil {
		t.Fatal(err)
	}
	read, err := fs.ReadStream(ctx, "/tmp/f")
	if err != nil {
		t.Fatal(err)
	}
	write, err := fs.WriteStream(ctx, "/tmp/g")
	if err != nil {
		t.Fatal(err)
	}
	logs, err := sb.LogStream(ctx, m.LogStreamOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := sb.MetricsStream(ctx, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := metrics.Recv(ctx); err != nil {
		t.Error(err)
	}
	command, err := sb.ExecStream(ctx, "cat", nil, m.WithExecStdinPipe())
	if err != nil {
		t.Fatal(err)
	}
	stdin := command.TakeStdin()
	for range 2 {
		if err := errors.Join(read.Close(), write.Close(ctx), logs.Close(), metrics.Close(), stdin.Close(ctx)); err != nil {
			t.Error(err)
		}
	}
	after := map[string]error{}
	_, after["read"] = read.Recv(ctx)
	_, after["write"] = write.Write([]byte("x"))
	after["write with context"] = write.WriteCtx(ctx, []byte("x"))
	_, after["logs"] = logs.Recv(ctx)
	_, after["metrics"] = metrics.Recv(ctx)
	for what, err := range after {
		if !errors.Is(err, net.ErrClosed) || !m.IsKind(err, m.ErrInvalidHandle) || m.IsKind(err, m.ErrSandboxNotRunning) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
	if _, err := stdin.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("standard input after Close: %v", err)
	}
	if code, err := command.Wait(ctx); code != 0 || err != nil {
		t.Errorf("a command that was written to behind its input's end: %d, %v", code, err)
	}
	for err = nil; err == nil; { // until the sandbox has hung up
		err = command.Signal(ctx, 15)
	}
	if !errors.Is(err, os.ErrProcessDone) || m.IsKind(err, m.ErrSandboxNotRunning) {
		t.Errorf("signal for a command that has ended: %v", err)
	}
	for range 2 {
		if err := command.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestWaitAfterClose checks that how a sandbox ended is told after Close, every
// time, and that a command which was lost with it isn't one that didn't start.
func TestWaitAfterClose(t *testing.T) {
	t.Parallel()
	sb := running(t, "wait-after-close")
	command, err := sb.ExecStream(t.Context(), "sleep", []string{"1000"})
	if err != nil {
		t.Fatal(err)
	}
	defer command.Close()
	if err := sb.Close(); err != nil {
		t.Fatal(err)
	}
	if code, err := command.Wait(t.Context()); !m.IsKind(err, m.ErrSandboxNotRunning) {
		t.Errorf("a command that was lost with its sandbox: %d, %v", code, err)
	}
	for range 20 {
		r, err := sb.WaitUntilStopped(t.Context())
		if err != nil || r.Status != m.SandboxStatusStopped {
			t.Fatalf("%+v, %v", r, err)
		}
	}
}

// TestKilledStreams checks that what was under way in a sandbox whose process was
// killed is told as cut off, never as ended.
func TestKilledStreams(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	sb := mustCreate(t, "killed-streams", inNamespace(t)...)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(sb.EventsPath()), "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	var state struct{ PID int }
	if err := json.Unmarshal(text, &state); err != nil {
		t.Fatal(err)
	}
	command, err := sb.ExecStream(ctx, "sleep", []string{"1000"})
	if err != nil {
		t.Fatal(err)
	}
	defer command.Close()
	logs, err := sb.LogStream(ctx, m.LogStreamOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	var last error
	killed := false
	for _, err := range sb.Events(ctx, m.EventFilter{}) {
		last = err
		if killed {
			continue
		}
		killed = true
		if err := syscall.Kill(state.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	_, waited := command.Wait(ctx)
	_, logged := logs.Recv(ctx)
	for what, err := range map[string]error{"events": last, "command": waited, "log": logged} {
		if !m.IsKind(err, m.ErrSandboxNotRunning) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
