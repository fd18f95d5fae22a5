package sdk_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	m "github.com/sluicenet/sluice/sdk"
)

// TestEverythingAtOnce calls all that a sandbox can do from many goroutines, and
// closes it while they do. The race detector looks on; each call has to come back, and
// none may say that sluice itself is at fault.
func TestEverythingAtOnce(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	sb := running(t, "at-once", m.WithEvents(func(m.Event) {}), m.WithNetwork(&m.NetworkConfig{DefaultEgress: m.PolicyActionDeny}))
	fs := sb.FS()
	calls := map[string]func() error{
		"exec":   func() error { _, err := sb.Exec(ctx, "true", nil); return err },
		"shell":  func() error { _, err := sb.Shell(ctx, "echo $$; echo $$ >&2"); return err },
		"stream": func() error { return streamAndLeave(ctx, sb) },
		"attach": func() error { _, err := sb.Attach(ctx, "true"); return err },
		"write":  func() error { return fs.WriteString(ctx, "/tmp/file", "text") },
		"read":   func() error { _, err := fs.Read(ctx, "/etc/passwd"); return err },
		"list":   func() error { _, err := fs.List(ctx, "/tmp"); return err },
		"stat":   func() error { _, err := fs.Stat(ctx, "/"); return err },
		"ping":   func() error { _, err := sb.Ping(ctx); return err },
		"touch":  func() error { _, err := sb.Touch(ctx); return err },
		"metric": func() error { _, err := sb.Metrics(ctx); return err },
		"logs":   func() error { _, err := sb.Logs(ctx, m.LogOptions{Tail: 5}); return err },
		"follow": func() error { return followAndLeave(ctx, sb) },
		"events": func() error {
			for _, err := range sb.Events(ctx, m.EventFilter{Past: true}) {
				if err != nil {
					return err
				}
			}
			return nil
		},
		"flows":   func() error { _, err := sb.Flows(ctx); return err },
		"explain": func() error { _, err := sb.Explain(ctx, "tcp://9.9.9.9:443"); return err },
		"update":  func() error { _, err := sb.UpdateNetwork(ctx, nil); return err },
		"ports":   func() error { return publishAndWithdraw(ctx, sb) },
		"dial": func() error {
			c, err := sb.Dial(ctx, "tcp", "127.0.0.1:9")
			if err == nil {
				return c.Close()
			}
			return err
		},
		"owns": func() error { _, err := sb.OwnsLifecycle(); return err },
		"find": func() error { _, err := m.GetSandbox(ctx, sb.Name()); return err },
		"all":  func() error { _, err := m.AllSandboxMetrics(ctx); return err },
	}
	var running sync.WaitGroup
	closing := make(chan struct{})
	for name, call := range calls {
		for range 2 {
			running.Go(func() {
				for {
					err := call()
					if m.IsKind(err, m.ErrInternal) || m.IsKind(err, m.ErrUnknown) {
						t.Errorf("%s: %v", name, err)
					}
					select {
					case <-closing:
						if err != nil || name == "find" || name == "all" {
							return // it knows
						}
					default:
					}
				}
			})
		}
	}
	time.Sleep(2 * time.Second)
	close(closing)
	for range 3 { // and that, too, from many
		running.Go(func() {
			if err := sb.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	if ctx.Err() != nil {
		t.Error("some had to be cancelled")
	}
	if _, err := sb.Exec(ctx, "true", nil); !m.IsKind(err, m.ErrSandboxNotRunning) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("afterwards: %v", err)
	}
}

// streamAndLeave starts a command that would go on for ever, and lets go of it.
func streamAndLeave(ctx context.Context, sb *m.Sandbox) error {
	h, err := sb.ExecStream(ctx, "cat", nil, m.WithExecStdinPipe())
	if err != nil {
		return err
	}
	defer h.Close()
	if _, err := io.WriteString(h.TakeStdin(), "text"); err != nil {
		return err
	}
	_, err = h.Recv(ctx)
	return errors.Join(err, h.Signal(ctx, 10))
}

// followAndLeave follows the log for an entry.
func followAndLeave(ctx context.Context, sb *m.Sandbox) error {
	h, err := sb.LogStream(ctx, m.LogStreamOptions{Follow: true})
	if err != nil {
		return err
	}
	defer h.Close()
	_, err = h.Recv(ctx)
	return err
}

// publishAndWithdraw publishes a port and takes that back.
func publishAndWithdraw(ctx context.Context, sb *m.Sandbox) error {
	p, err := sb.Ports().Add(ctx, m.PortBinding{GuestPort: 80})
	if err != nil {
		return err
	}
	if _, err := sb.Ports().List(ctx); err != nil {
		return err
	}
	return sb.Ports().Remove(ctx, p)
}
