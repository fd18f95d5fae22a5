package sdk_test

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	m "github.com/sluicenet/sluice/sdk"
)

// TestDetached checks a sandbox that nobody holds: that it is found, used, ended,
// started again and removed by its name.
func TestDetached(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	const name = "detached"
	created := running(t, name, m.WithDetached(), m.WithLabel("of", "test"), m.WithEnv(map[string]string{"A": "kept"}))
	if owns, err := created.OwnsLifecycle(); owns || err != nil {
		t.Errorf("owns %v, %v", owns, err)
	}
	if err := created.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := created.Shell(ctx, "true"); !m.IsKind(err, m.ErrInvalidHandle) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := created.Stop(ctx); !m.IsKind(err, m.ErrInvalidHandle) {
		t.Errorf("stop after Close: %v", err)
	}
	if _, err := created.WaitUntilStopped(ctx); !m.IsKind(err, m.ErrInvalidHandle) {
		t.Errorf("wait after Close: %v", err)
	}
	h, err := m.GetSandbox(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // whatever fails below
		ctx := context.WithoutCancel(ctx)
		_ = h.Kill(ctx)
		_ = h.Remove(ctx)
	})
	if h.Name() != name || h.Status() != m.SandboxStatusRunning || h.Backend() != "namespace" || h.Labels()["of"] != "test" || h.CreatedAt().IsZero() || h.UpdatedAt().IsZero() {
		t.Errorf("found %+v", h)
	}
	cfg, err := h.Config()
	if err != nil || cfg.Env["A"] != "kept" || !cfg.Detached || !strings.Contains(h.ConfigJSON(), `"A":"kept"`) {
		t.Errorf("configuration %+v, %v: %s", cfg, err, h.ConfigJSON())
	}
	if p, err := h.Ping(ctx); err != nil || p.Name != name || p.Latency <= 0 {
		t.Errorf("ping %+v, %v", p, err)
	}
	if r, err := h.Touch(ctx); err != nil || r.ActivitySeq == 0 {
		t.Errorf("touch %+v, %v", r, err)
	}
	if mt, err := h.Metrics(ctx); err != nil || mt.Uptime <= 0 {
		t.Errorf("metrics %+v, %v", mt, err)
	}
	if _, err := m.StartSandbox(ctx, name); !m.IsKind(err, m.ErrSandboxStillRunning) {
		t.Errorf("start what runs: %v", err)
	}
	if err := m.RemoveSandbox(ctx, name); !m.IsKind(err, m.ErrSandboxStillRunning) {
		t.Errorf("remove what runs: %v", err)
	}
	sb, err := h.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out, err := sb.Shell(ctx, "echo $A")
	if err != nil || out.Stdout() != "kept\n" {
		t.Errorf("%v, %v", out, err)
	}
	if err := h.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	r, err := sb.WaitUntilStopped(ctx)
	if err != nil || r.Status != m.SandboxStatusStopped || r.Source == nil || *r.Source != "stop" {
		t.Errorf("stopped as %+v, %v", r, err)
	}
	if err := sb.Close(); err != nil {
		t.Error(err)
	}
	checkKept(t, h)

	again, err := m.StartSandbox(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if !again.OwnsLifecycleOrFalse() {
		t.Error("a sandbox that was started isn't owned")
	}
	if out, err := again.Shell(ctx, "echo $A"); err != nil || out.Stdout() != "kept\n" {
		t.Errorf("again: %v, %v", out, err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	if err := m.RemoveSandbox(ctx, name); err != nil {
		t.Error(err)
	}
	if _, err := h.Refresh(ctx); !m.IsKind(err, m.ErrSandboxNotFound) {
		t.Errorf("after its removal: %v", err)
	}
	if err := m.RemoveSandbox(ctx, name); !m.IsKind(err, m.ErrSandboxNotFound) {
		t.Errorf("remove it again: %v", err)
	}
}

// checkKept checks what is left of a sandbox that was stopped.
func checkKept(t *testing.T, h *m.SandboxHandle) {
	t.Helper()
	ctx := t.Context()
	now, err := h.Refresh(ctx)
	if err != nil || now.Status() != m.SandboxStatusStopped {
		t.Fatalf("kept as %+v, %v", now, err)
	}
	if r, err := now.WaitUntilStopped(ctx); err != nil || r.Source == nil || *r.Source != "stop" {
		t.Errorf("it ended as %+v, %v", r, err)
	}
	if _, err := now.Connect(ctx); !m.IsKind(err, m.ErrSandboxNotRunning) {
		t.Errorf("connect to it: %v", err)
	}
	if err := now.Stop(ctx); err != nil {
		t.Errorf("stop it again: %v", err)
	}
	entries, err := now.Logs(ctx, m.LogOptions{})
	if err != nil || len(entries) != 1 || entries[0].Text() != "kept\n" {
		t.Errorf("its log is %+v, %v", entries, err)
	}
	stream, err := now.LogStream(ctx, m.LogStreamOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for i, want := range []string{"kept\n", ""} {
		if e, err := stream.Recv(ctx); err != nil || (e == nil) != (want == "") || e != nil && e.Text() != want {
			t.Errorf("entry %d of its log is %+v, %v", i, e, err)
		}
	}
	var types []string
	for e, err := range now.Events(ctx, m.EventFilter{Types: []string{"sandbox"}}) {
		if err != nil {
			t.Fatal(err)
		}
		types = append(types, e.Type)
	}
	if len(types) < 2 || types[0] != m.EventSandboxStarted || types[len(types)-1] != m.EventSandboxStopped {
		t.Errorf("its events are %q", types)
	}
	if _, err := m.CreateSandbox(ctx, h.Name(), inNamespace(t)...); !m.IsKind(err, m.ErrSandboxAlreadyExists) {
		t.Errorf("create another of its name: %v", err)
	}
}

// TestReplace checks that a sandbox of the same name goes first.
func TestReplace(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	old := running(t, "replaced")
	next := running(t, "replaced", m.WithReplaceWithTimeout(0))
	if r, err := old.WaitUntilStopped(ctx); err != nil || r.Status != m.SandboxStatusStopped {
		t.Errorf("the old one is %+v, %v", r, err)
	}
	if out, err := next.Shell(ctx, "echo new"); err != nil || out.Stdout() != "new\n" {
		t.Errorf("the new one: %v, %v", out, err)
	}
}

// TestList checks pages, labels, and that what has ended without a trace is on
// none.
func TestList(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, name := range []string{"list-c", "list-a", "list-b"} {
		running(t, name, m.WithLabels(map[string]string{"list": "yes", "name": name}))
	}
	var got []string
	var cursor string
	for {
		page, err := m.ListSandboxesWith(ctx, m.WithListLabels(map[string]string{"list": "yes"}), m.WithListLimit(2), m.WithListCursor(cursor))
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range page.Sandboxes {
			got = append(got, h.Name())
		}
		if page.NextCursor == nil {
			break
		}
		if len(page.Sandboxes) != 2 {
			t.Errorf("a page of %d", len(page.Sandboxes))
		}
		cursor = *page.NextCursor
	}
	if want := []string{"list-a", "list-b", "list-c"}; !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
	page, err := m.ListSandboxesWith(ctx, m.WithListLabels(map[string]string{"list": "yes", "name": "list-b"}))
	if err != nil || len(page.Sandboxes) != 1 || page.Sandboxes[0].Name() != "list-b" {
		t.Errorf("by two labels: %+v, %v", page, err)
	}
	all, err := m.ListSandboxes(ctx)
	if err != nil || len(all.Sandboxes) < 3 || all.NextCursor != nil {
		t.Errorf("all: %+v, %v", all, err)
	}
	metrics, err := m.AllSandboxMetrics(ctx)
	if err != nil || metrics["list-a"] == nil || metrics["list-b"].Uptime <= 0 {
		t.Errorf("metrics %+v, %v", metrics, err)
	}
	if _, err := m.GetSandbox(ctx, "list-d"); !m.IsKind(err, m.ErrSandboxNotFound) {
		t.Errorf("get what isn't there: %v", err)
	}
	if _, err := m.GetSandbox(ctx, "../x"); !m.IsKind(err, m.ErrInvalidConfig) {
		t.Errorf("get no name: %v", err)
	}
}

// TestDetach checks that a sandbox outlives Close when it was detached.
func TestDetach(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	sb := running(t, "to-detach", m.WithEphemeral(false))
	if err := sb.Detach(ctx); err != nil {
		t.Fatal(err)
	}
	if sb.OwnsLifecycleOrFalse() {
		t.Error("it is still owned")
	}
	if err := sb.Close(); err != nil {
		t.Fatal(err)
	}
	h, err := m.GetSandbox(ctx, "to-detach")
	if err != nil || h.Status() != m.SandboxStatusRunning {
		t.Fatalf("%+v, %v", h, err)
	}
	if err := h.RequestKill(ctx); err != nil {
		t.Error(err)
	}
	if r, err := h.WaitUntilStopped(ctx); err != nil || r.Status != m.SandboxStatusStopped {
		t.Errorf("%+v, %v", r, err)
	}
	if err := h.Remove(ctx); err != nil {
		t.Error(err)
	}
}

// TestLife checks what ends a sandbox beside Stop and Kill.
func TestLife(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, source string
		opt          m.SandboxOption
		do           func(*m.Sandbox) error
	}{
		{"max duration", "limit", m.WithMaxDuration(300 * time.Millisecond), nil},
		{"idle timeout", "idle", m.WithIdleTimeout(300 * time.Millisecond), nil},
		{"drain", "drain", m.WithHostname("x"), func(sb *m.Sandbox) error { return sb.RequestDrain(t.Context()) }},
		{"request stop", "stop", m.WithHostname("x"), func(sb *m.Sandbox) error { return sb.RequestStop(t.Context()) }},
		{"request kill", "kill", m.WithHostname("x"), func(sb *m.Sandbox) error { return sb.RequestKill(t.Context()) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			sb := running(t, "life-"+strings.ReplaceAll(tt.name, " ", "-"), tt.opt)
			if tt.do != nil {
				if err := tt.do(sb); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			r, err := sb.WaitUntilStopped(ctx)
			if err != nil || r.Source == nil || *r.Source != tt.source {
				t.Errorf("%+v, %v, want source %s", r, err, tt.source)
			}
			if _, err := sb.Ping(t.Context()); !m.IsKind(err, m.ErrSandboxNotRunning) {
				t.Errorf("ping after its end: %v", err)
			}
		})
	}
}

// TestSecretsAreNotKept checks that a sandbox with secrets can't be started again
// without them, and that no value is on the disk.
func TestSecretsAreNotKept(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	const name, value = "kept-secret", "correct-horse-battery-staple"
	sb := running(t, name, m.WithEphemeral(false), m.WithSecrets(m.Secret.Env("KEY", value, only)))
	if out, err := sb.Shell(ctx, "echo $KEY"); err != nil || out.Stdout() != "$MSB_KEY\n" {
		t.Errorf("the guest sees %v, %v", out, err)
	}
	if err := sb.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	h, err := m.GetSandbox(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(h.ConfigJSON(), value) || !strings.Contains(h.ConfigJSON(), "KEY") {
		t.Errorf("the configuration that is kept: %s", h.ConfigJSON())
	}
	if _, err := h.Start(ctx); !m.IsKind(err, m.ErrInvalidConfig) {
		t.Errorf("start it without its secret: %v", err)
	}
	if err := h.Remove(ctx); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(h.EventsPath()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is left: %v", err)
	}
}
