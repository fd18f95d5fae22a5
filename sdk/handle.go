package sdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"time"

	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/internal/sandbox"
)

// A SandboxHandle is a sandbox that was found by its name, running or not, as it
// was when it was looked at. Its methods may be called by several goroutines; it
// holds nothing, and is not closed.
type SandboxHandle struct {
	dirs  sandbox.Dirs
	found sandbox.Found
}

// GetSandbox finds the sandbox of a name: one that runs, or that has ended and was
// kept. The error has kind ErrSandboxNotFound if there is none.
func GetSandbox(ctx context.Context, name string) (*SandboxHandle, error) {
	op := fmt.Sprintf("get sandbox %q", name)
	if err := ctx.Err(); err != nil {
		return nil, withOp(op, err)
	}
	h, err := find(name)
	if err != nil {
		return nil, withOp(op, err)
	}
	return h, nil
}

// find looks for a sandbox.
func find(name string) (*SandboxHandle, error) {
	var c checker
	c.checkName(name)
	if err := c.err(); err != nil {
		return nil, err
	}
	dirs, err := userDirs()
	if err != nil {
		return nil, err
	}
	found, err := sandbox.Find(dirs, name)
	if err != nil {
		return nil, err
	}
	return &SandboxHandle{dirs: dirs, found: found}, nil
}

// A SandboxPage is a part of the list of sandboxes.
type SandboxPage struct {
	Sandboxes  []*SandboxHandle // by name
	NextCursor *string          // for WithListCursor; nil if there are no more
}

// A SandboxListOption changes what ListSandboxesWith lists.
type SandboxListOption func(*listConfig)

type listConfig struct {
	cursor string
	limit  uint32
	labels map[string]string
}

// WithListCursor goes on behind a page, with its NextCursor.
func WithListCursor(cursor string) SandboxListOption {
	return func(c *listConfig) { c.cursor = cursor }
}

// WithListLimit bounds the page; without it, and with 0, everything is on it.
func WithListLimit(n uint32) SandboxListOption {
	return func(c *listConfig) { c.limit = n }
}

// WithListLabels leaves out sandboxes that lack one of the labels.
func WithListLabels(labels map[string]string) SandboxListOption {
	labels = maps.Clone(labels)
	return func(c *listConfig) { c.labels = merged(c.labels, labels) }
}

// ListSandboxes returns all sandboxes of this user, running or kept.
func ListSandboxes(ctx context.Context) (*SandboxPage, error) { return ListSandboxesWith(ctx) }

// ListSandboxesWith is ListSandboxes with options.
func ListSandboxesWith(ctx context.Context, opts ...SandboxListOption) (*SandboxPage, error) {
	var cfg listConfig
	for _, o := range opts {
		o(&cfg)
	}
	const op = "list sandboxes"
	if err := ctx.Err(); err != nil {
		return nil, withOp(op, err)
	}
	dirs, err := userDirs()
	if err != nil {
		return nil, withOp(op, err)
	}
	all, err := sandbox.List(dirs)
	if err != nil {
		return nil, withOp(op, err)
	}
	page := &SandboxPage{}
	for _, found := range all {
		if found.Name <= cfg.cursor || !hasLabels(found.Labels, cfg.labels) {
			continue
		}
		if n := len(page.Sandboxes); cfg.limit > 0 && n == int(cfg.limit) {
			page.NextCursor = &page.Sandboxes[n-1].found.Name
			break
		}
		page.Sandboxes = append(page.Sandboxes, &SandboxHandle{dirs, found})
	}
	return page, nil
}

// hasLabels reports whether has holds all of want.
func hasLabels(has, want map[string]string) bool {
	for key, value := range want {
		if got, ok := has[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// RemoveSandbox removes all that is left of a sandbox that has ended: its files,
// logs and events. The error has kind ErrSandboxNotFound if there is none,
// ErrSandboxStillRunning if it runs.
func RemoveSandbox(ctx context.Context, name string) error {
	op := fmt.Sprintf("remove sandbox %q", name)
	if err := ctx.Err(); err != nil {
		return withOp(op, err)
	}
	h, err := find(name)
	if err != nil {
		return withOp(op, err)
	}
	return h.Remove(ctx)
}

// Name returns the sandbox's name.
func (h *SandboxHandle) Name() string { return h.found.Name }

// Status returns what the sandbox was doing.
func (h *SandboxHandle) Status() SandboxStatus { return SandboxStatus(h.found.Status) }

// Labels returns its labels.
func (h *SandboxHandle) Labels() map[string]string { return maps.Clone(h.found.Labels) }

// Backend returns the name of the hypervisor it runs on, or ran on last.
func (h *SandboxHandle) Backend() string { return h.found.Backend }

// CreatedAt returns when it was created.
func (h *SandboxHandle) CreatedAt() time.Time { return h.found.Created }

// UpdatedAt returns when its status changed last.
func (h *SandboxHandle) UpdatedAt() time.Time { return h.found.Updated }

// ConfigJSON returns its configuration, without secrets' values, as
// [SandboxConfig.UnmarshalJSON] reads it.
func (h *SandboxHandle) ConfigJSON() string {
	var k struct {
		Config json.RawMessage `json:"config"`
	}
	// What its process wrote can be read.
	_ = json.Unmarshal(h.found.Config, &k)
	return string(k.Config)
}

// Config returns its configuration, without secrets' values.
func (h *SandboxHandle) Config() (*SandboxConfig, error) {
	cfg, err := h.config()
	if err != nil {
		return nil, h.failure("read configuration of", err)
	}
	return &cfg, nil
}

func (h *SandboxHandle) config() (SandboxConfig, error) {
	cfg, _, err := parseWire(h.found.Config)
	if err != nil {
		return cfg, &Error{Kind: ErrInternal, Message: "its configuration can't be read", Cause: err}
	}
	return cfg, nil
}

// Refresh looks at the sandbox again.
func (h *SandboxHandle) Refresh(ctx context.Context) (*SandboxHandle, error) {
	return GetSandbox(ctx, h.found.Name)
}

// Connect connects to the sandbox, which must run. Closing the result leaves it
// alone. The error has kind ErrSandboxNotRunning if it has ended.
func (h *SandboxHandle) Connect(ctx context.Context) (*Sandbox, error) {
	sb, err := h.connect(ctx)
	if err != nil {
		return nil, h.failure("connect to", err)
	}
	return sb, nil
}

func (h *SandboxHandle) connect(ctx context.Context) (*Sandbox, error) {
	cfg, err := h.config()
	if err != nil {
		return nil, err
	}
	client := control.NewClient(h.found.Socket)
	info, err := client.Info(ctx)
	if err != nil {
		client.Close()
		return nil, err
	}
	r := &remote{
		client: client,
		handle: h,
		ready:  control.Ready{Socket: h.found.Socket, Info: info},
		exited: make(chan struct{}),
	}
	r.follow()
	return newSandbox(h.found.Name, cfg, r, false)
}

// A remote is a sandbox that somebody else has started.
type remote struct {
	client *control.Client
	handle *SandboxHandle
	ready  control.Ready
	letGo  context.CancelFunc // ends wait
	waited chan struct{}      // closed by wait when it has ended
	exited chan struct{}      // closed by wait when the sandbox has
	ended  *control.Ended     // valid once exited is closed
}

// follow begins to wait for the sandbox's end.
func (r *remote) follow() {
	ctx, cancel := context.WithCancel(context.Background()) // Close ends it
	r.letGo, r.waited = cancel, make(chan struct{})
	go r.wait(ctx)
}

// wait waits for the sandbox's end. If its process dies without an answer, its
// directory may still know how.
func (r *remote) wait(ctx context.Context) {
	defer close(r.waited)
	ended, err := r.client.Wait(ctx)
	switch {
	case ctx.Err() != nil:
		return
	case err == nil:
		r.ended = &ended
	default:
		if found, err := sandbox.Find(r.handle.dirs, r.handle.found.Name); err == nil && found.Created.Equal(r.handle.found.Created) {
			r.ended = found.Ended
		}
	}
	close(r.exited)
}

// Ready implements host.
func (r *remote) Ready() control.Ready { return r.ready }

// Exited implements host.
func (r *remote) Exited() <-chan struct{} { return r.exited }

// Ended implements host.
func (r *remote) Ended() *control.Ended { return r.ended }

// Detach implements host.
func (r *remote) Detach(ctx context.Context) error { return r.client.Detach(ctx) }

// Close implements host. The sandbox goes on.
func (r *remote) Close() error {
	r.letGo()
	<-r.waited
	r.client.Close()
	return nil
}

// Start is StartSandbox.
func (h *SandboxHandle) Start(ctx context.Context) (*Sandbox, error) {
	return StartSandbox(ctx, h.found.Name)
}

// StartDetached is StartSandboxDetached.
func (h *SandboxHandle) StartDetached(ctx context.Context) (*Sandbox, error) {
	return StartSandboxDetached(ctx, h.found.Name)
}

// Remove is RemoveSandbox.
func (h *SandboxHandle) Remove(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return h.failure("remove", err)
	}
	if err := sandbox.Remove(h.dirs, h.found.Name); err != nil {
		return h.failure("remove", err)
	}
	return nil
}

// Stop asks the guest's commands to end, then ends the sandbox, and returns when
// nothing of it runs. One that has ended is stopped.
func (h *SandboxHandle) Stop(ctx context.Context, opts ...StopOption) error {
	return h.end("stop", func(c *control.Client) error {
		_, err := c.Stop(ctx, stopTimeout(opts))
		return err
	})
}

// Kill ends the sandbox at once and returns when nothing of it runs. One that has
// ended is killed.
func (h *SandboxHandle) Kill(ctx context.Context, opts ...KillOption) error {
	ctx, cancel := killContext(ctx, opts)
	defer cancel()
	return h.end("kill", func(c *control.Client) error {
		_, err := c.Kill(ctx)
		return err
	})
}

// end is call for what ends the sandbox: that it has ended is no error.
func (h *SandboxHandle) end(verb string, do func(*control.Client) error) error {
	return h.call(verb, func(c *control.Client) error {
		if err := do(c); err != nil && !errors.Is(err, control.ErrGone) {
			return err
		}
		return nil
	})
}

// RequestStop is Stop, but doesn't wait: WaitUntilStopped does.
func (h *SandboxHandle) RequestStop(ctx context.Context) error {
	return h.call("stop", func(c *control.Client) error { return c.RequestStop(ctx, defaultStopTimeout) })
}

// RequestKill is Kill, but doesn't wait: WaitUntilStopped does.
func (h *SandboxHandle) RequestKill(ctx context.Context) error {
	return h.call("kill", func(c *control.Client) error { return c.RequestKill(ctx) })
}

// RequestDrain makes the sandbox refuse new commands, and end with the last one
// that runs. It doesn't wait: WaitUntilStopped does.
func (h *SandboxHandle) RequestDrain(ctx context.Context) error {
	return h.call("drain", func(c *control.Client) error { return c.Drain(ctx) })
}

// WaitUntilStopped waits for the sandbox's end and says how it came.
func (h *SandboxHandle) WaitUntilStopped(ctx context.Context) (*SandboxStopResult, error) {
	sb, err := h.Connect(ctx)
	if err == nil {
		defer sb.Close()
		return sb.WaitUntilStopped(ctx)
	}
	if !IsKind(err, ErrSandboxNotRunning) {
		return nil, err
	}
	now, err := h.Refresh(ctx)
	if err != nil {
		return nil, err
	}
	r := stopResult(h.found.Name, now.found.Ended, now.found.Updated)
	return &r, nil
}

// Ping asks the sandbox for an answer.
func (h *SandboxHandle) Ping(ctx context.Context) (*SandboxPingResult, error) {
	r := SandboxPingResult{Name: h.found.Name}
	err := h.call("ping", func(c *control.Client) (err error) {
		r.Latency, err = c.Ping(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// Touch counts as activity for WithIdleTimeout.
func (h *SandboxHandle) Touch(ctx context.Context) (*SandboxTouchResult, error) {
	r := SandboxTouchResult{Name: h.found.Name}
	err := h.call("touch", func(c *control.Client) error {
		touched, err := c.Touch(ctx)
		r.ActivitySeq = touched.ActivitySeq
		return err
	})
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// Metrics returns what the sandbox uses.
func (h *SandboxHandle) Metrics(ctx context.Context) (*Metrics, error) {
	var m control.Metrics
	err := h.call("measure", func(c *control.Client) (err error) {
		m, err = c.Metrics(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return metricsOf(m), nil
}

// Logs returns what the sandbox's commands have written, oldest first, as far as
// it is kept, whether or not it runs.
func (h *SandboxHandle) Logs(ctx context.Context, o LogOptions) ([]LogEntry, error) {
	if err := checkSources(o.Sources); err != nil {
		return nil, h.failure("read log of", err)
	}
	var entries []LogEntry
	err := sandbox.Logs(h.dirs, h.found.Name, o.query(), func(some []control.LogEntry) error {
		for _, e := range some {
			entries = append(entries, logEntryOf(e))
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, h.failure("read log of", err)
	}
	return entries, nil
}

// LogStream opens the log. Of a sandbox that has ended it doesn't follow: nothing
// is to come. ctx governs the opening only.
func (h *SandboxHandle) LogStream(ctx context.Context, o LogStreamOptions) (*LogStreamHandle, error) {
	client := control.NewClient(h.found.Socket)
	stream, err := openLog(ctx, h.found.Name, client, client.Close, o)
	if err == nil {
		return stream, nil
	}
	client.Close()
	if !errors.Is(err, control.ErrGone) {
		return nil, h.failure("read log of", err)
	}
	var entries []LogEntry
	err = sandbox.Logs(h.dirs, h.found.Name, o.query(), func(some []control.LogEntry) error {
		for _, e := range some {
			entries = append(entries, logEntryOf(e))
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, h.failure("read log of", err)
	}
	return &LogStreamHandle{name: h.found.Name, entries: entries}, nil
}

// Events returns the events that the sandbox has left, whether or not it runs,
// without those to come: Connect and Sandbox.Events have these.
func (h *SandboxHandle) Events(ctx context.Context, filter EventFilter) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if err := pastEvents(ctx, h.EventsPath(), filter, yield); err != nil {
			yield(Event{}, h.failure("read events of", err))
		}
	}
}

// EventsPath returns the path of the file with its events, one JSON object per
// line.
func (h *SandboxHandle) EventsPath() string { return h.dirs.Events(h.found.Name) }

// call asks the sandbox for something, over a connection of its own.
func (h *SandboxHandle) call(verb string, do func(*control.Client) error) error {
	client := control.NewClient(h.found.Socket)
	defer client.Close()
	if err := do(client); err != nil {
		return h.failure(verb, err)
	}
	return nil
}

// failure is the error of a call about the sandbox.
func (h *SandboxHandle) failure(verb string, err error) error {
	return withOp(fmt.Sprintf("%s sandbox %q", verb, h.found.Name), err)
}
