package sdk

import (
	"context"
	"errors"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

// A StopOption changes how Stop ends a sandbox.
type StopOption func(*stopConfig)

type stopConfig struct{ timeout time.Duration }

// defaultStopTimeout is what container engines give a process before they kill
// it.
const defaultStopTimeout = 10 * time.Second

// WithStopTimeout sets how long commands may take to end after they were asked
// to; without it 10 s, 0 doesn't ask.
func WithStopTimeout(d time.Duration) StopOption {
	return func(c *stopConfig) { c.timeout = max(d, 0) }
}

// stopTimeout returns what the options add up to.
func stopTimeout(opts []StopOption) time.Duration {
	cfg := stopConfig{timeout: defaultStopTimeout}
	for _, o := range opts {
		o(&cfg)
	}
	return cfg.timeout
}

// A KillOption changes how Kill ends a sandbox.
type KillOption func(*killConfig)

type killConfig struct{ timeout time.Duration }

// WithKillTimeout bounds how long Kill waits for the sandbox to be gone; without
// it, ctx does.
func WithKillTimeout(d time.Duration) KillOption {
	return func(c *killConfig) { c.timeout = d }
}

// killContext returns ctx with what the options add up to.
func killContext(ctx context.Context, opts []KillOption) (context.Context, context.CancelFunc) {
	var cfg killConfig
	for _, o := range opts {
		o(&cfg)
	}
	if cfg.timeout > 0 {
		return context.WithTimeout(ctx, cfg.timeout)
	}
	return ctx, func() {}
}

// Stop asks the guest's commands to end (SIGTERM), then ends the sandbox, and
// returns when nothing of it runs. A sandbox that has ended is stopped.
func (s *Sandbox) Stop(ctx context.Context, opts ...StopOption) error {
	if err := s.usable("stop"); IsKind(err, ErrInvalidHandle) { // an owned one has ended with Close
		return err
	}
	_, err := s.client.Stop(ctx, stopTimeout(opts))
	return s.awaitExit(ctx, "stop", err)
}

// Kill ends the sandbox at once and returns when nothing of it runs. A sandbox
// that has ended is killed.
func (s *Sandbox) Kill(ctx context.Context, opts ...KillOption) error {
	ctx, cancel := killContext(ctx, opts)
	defer cancel()
	if err := s.usable("kill"); IsKind(err, ErrInvalidHandle) { // an owned one has ended with Close
		return err
	}
	_, err := s.client.Kill(ctx)
	return s.awaitExit(ctx, "kill", err)
}

// awaitExit waits until nothing of the sandbox runs, after a call that told it to
// end.
func (s *Sandbox) awaitExit(ctx context.Context, verb string, err error) error {
	if err != nil && !errors.Is(err, control.ErrGone) {
		return s.failure(verb, err)
	}
	select {
	case <-s.host.Exited():
		return nil
	case <-ctx.Done():
		return s.failure(verb, control.Cause(ctx))
	case <-s.leave.Done():
		return nil // and it has answered that it has ended
	}
}

// RequestStop is Stop, but doesn't wait: WaitUntilStopped does.
func (s *Sandbox) RequestStop(ctx context.Context) error {
	return tell(ctx, s, "stop", func(ctx context.Context) error { return s.client.RequestStop(ctx, defaultStopTimeout) })
}

// RequestKill is Kill, but doesn't wait: WaitUntilStopped does.
func (s *Sandbox) RequestKill(ctx context.Context) error {
	return tell(ctx, s, "kill", s.client.RequestKill)
}

// RequestDrain makes the sandbox refuse new commands, and end with the last one
// that runs. It doesn't wait: WaitUntilStopped does.
func (s *Sandbox) RequestDrain(ctx context.Context) error {
	return tell(ctx, s, "drain", s.client.Drain)
}

// A SandboxPingResult says that a sandbox answers.
type SandboxPingResult struct {
	Name    string
	Latency time.Duration
}

// Ping asks the sandbox for an answer.
func (s *Sandbox) Ping(ctx context.Context) (*SandboxPingResult, error) {
	latency, err := ask(ctx, s, "ping", s.client.Ping)
	if err != nil {
		return nil, err
	}
	return &SandboxPingResult{Name: s.name, Latency: latency}, nil
}

// A SandboxTouchResult says that a sandbox counts as being used.
type SandboxTouchResult struct {
	Name        string
	ActivitySeq uint64 // counts what WithIdleTimeout waits for
}

// Touch counts as activity for WithIdleTimeout.
func (s *Sandbox) Touch(ctx context.Context) (*SandboxTouchResult, error) {
	touched, err := ask(ctx, s, "touch", s.client.Touch)
	if err != nil {
		return nil, err
	}
	return &SandboxTouchResult{Name: s.name, ActivitySeq: touched.ActivitySeq}, nil
}
