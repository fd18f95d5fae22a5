package sdk

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/sluicenet/sluice"
	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/internal/sandbox"
)

// A Sandbox is a running sandbox that this program has created. Its methods may
// be called by several goroutines. The caller must Close it.
type Sandbox struct {
	name   string
	cfg    SandboxConfig
	info   control.Info
	client *control.Client
	host   host

	readers sync.WaitGroup // waitEnd and readEvents
	stopped chan struct{}  // closed by waitEnd when result is valid
	result  SandboxStopResult
}

// A host is where a sandbox runs: a process of its own, or this one.
type host interface {
	Ready() control.Ready
	Exited() <-chan struct{}
	Ended() *control.Ended // once Exited is closed; nil if it crashed
	Close() error
}

// CreateSandbox starts a sandbox and returns when its guest is ready for
// commands. The name must not be that of a running sandbox. ctx governs the
// creation only; the sandbox lives until it is stopped, its command ends, or
// this program does.
//
// The whole configuration is checked first. The error is an [*Error]: of kind
// ErrInvalidArgument, ErrInvalidConfig or ErrNetworkPolicy for a configuration
// that is wrong, naming each problem; ErrUnsupportedOperation for what this
// version, backend or host can't do; ErrSandboxAlreadyExists; ErrCancelled.
func CreateSandbox(ctx context.Context, name string, opts ...SandboxOption) (*Sandbox, error) {
	sb, err := create(ctx, name, opts)
	if err != nil {
		return nil, withOp(fmt.Sprintf("create sandbox %q", name), err)
	}
	return sb, nil
}

func create(ctx context.Context, name string, opts []SandboxOption) (*Sandbox, error) {
	var cfg SandboxConfig
	for _, o := range opts {
		if o != nil {
			o(&cfg)
		}
	}
	if cfg.Backend == "" {
		cfg.Backend = os.Getenv("SLUICE_BACKEND")
	}
	var c checker
	c.checkName(name)
	c.checkBackend(&cfg)
	c.compile(&cfg)
	if err := c.err(); err != nil {
		return nil, err
	}
	cfg, err := cfg.clone()
	if err != nil {
		return nil, err
	}
	cfg.resolvePaths()
	raw, err := wireOf(&cfg)
	if err != nil {
		return nil, err
	}
	dirs, err := sandbox.UserDirs(os.Getenv)
	if err != nil {
		return nil, &Error{Kind: ErrIO, Message: err.Error(), Hint: "set SLUICE_HOME"}
	}
	sb := &Sandbox{name: name, cfg: cfg, stopped: make(chan struct{})}
	if cfg.hypervisor != nil {
		sb.host, err = sandbox.Embed(ctx,
			control.Spec{Name: name, Home: dirs.Home, Runtime: dirs.Runtime, Config: raw},
			sandbox.Options{Compile: compileJSON, Open: cfg.open, Stdio: cfg.stdio, Logger: cfg.logger})
	} else {
		sb.host, err = sandbox.StartProcess(ctx,
			sandbox.Launch{Dirs: dirs, Name: name, Config: raw, Stdio: cfg.stdio, Executable: os.Getenv("SLUICE_EXECUTABLE")})
	}
	if err != nil {
		return nil, err
	}
	ready := sb.host.Ready()
	sb.info, sb.client = ready.Info, control.NewClient(ready.Socket)
	sb.readers.Go(sb.waitEnd)
	if cfg.events == nil && cfg.logger == nil {
		return sb, nil
	}
	// Once this has returned no event is missed, however short the rest is.
	events, err := sb.client.Events(context.Background(), 0) // its end ends the stream
	if err != nil {
		return nil, errors.Join(err, sb.Close())
	}
	sb.readers.Go(func() { sb.readEvents(events) })
	return sb, nil
}

// Name returns the sandbox's name.
func (s *Sandbox) Name() string { return s.name }

// Backend returns the name of the hypervisor that the sandbox runs on.
func (s *Sandbox) Backend() string { return s.info.Backend }

// Warnings returns what its user should think about in the configuration, as it
// was found at creation. They are events too.
func (s *Sandbox) Warnings() []string { return append([]string(nil), s.info.Warnings...) }

// EventsPath returns the path of the file with the sandbox's events, one JSON
// object per line. It is removed when the sandbox has ended.
func (s *Sandbox) EventsPath() string { return s.info.Events }

// A SandboxStatus is what a sandbox is doing.
type SandboxStatus string

const (
	SandboxStatusRunning  SandboxStatus = "running"
	SandboxStatusStopped  SandboxStatus = "stopped" // ended as it should
	SandboxStatusCrashed  SandboxStatus = "crashed" // its process died
	SandboxStatusDraining SandboxStatus = "draining"
	SandboxStatusPaused   SandboxStatus = "paused"
)

// A SandboxStopResult says how a sandbox ended.
type SandboxStopResult struct {
	Name       string
	Status     SandboxStatus // stopped or crashed
	ExitCode   *int          // of the guest's first process; nil if a signal ended it, or it isn't known
	Signal     *int          // that ended it; nil if none did
	ObservedAt time.Time
	Source     *string // stop, kill, creator, guest or signal; nil if it crashed
	// Denied counts the flows and queries that were denied, those too whose
	// events found no room; 0 if it crashed.
	Denied uint64
}

// WaitUntilStopped waits for the sandbox's end and says how it came. Its error
// is that of ctx.
func (s *Sandbox) WaitUntilStopped(ctx context.Context) (*SandboxStopResult, error) {
	select {
	case <-s.stopped:
		r := s.result
		return &r, nil
	case <-ctx.Done():
		return nil, withOp(fmt.Sprintf("wait for sandbox %q", s.name), context.Cause(ctx))
	}
}

// A StopOption changes how Stop ends a sandbox.
type StopOption func(*stopConfig)

type stopConfig struct{ timeout time.Duration }

// defaultStopTimeout is what container engines give a process before they kill
// it.
const defaultStopTimeout = 10 * time.Second

// WithStopTimeout sets how long the guest's command may take to end after it was
// asked to; without it 10 s, 0 doesn't ask.
func WithStopTimeout(d time.Duration) StopOption {
	return func(c *stopConfig) { c.timeout = d }
}

// Stop asks the guest's command to end (SIGTERM), then ends the sandbox, and
// returns when nothing of it is left. A sandbox that has ended is stopped.
func (s *Sandbox) Stop(ctx context.Context, opts ...StopOption) error {
	cfg := stopConfig{timeout: defaultStopTimeout}
	for _, o := range opts {
		o(&cfg)
	}
	_, err := s.client.Stop(ctx, max(cfg.timeout, 0))
	return s.awaitExit(ctx, "stop", err)
}

// A KillOption changes how Kill ends a sandbox.
type KillOption func(*killConfig)

type killConfig struct{ timeout time.Duration }

// WithKillTimeout bounds how long Kill waits for the sandbox to be gone; without
// it, ctx does.
func WithKillTimeout(d time.Duration) KillOption {
	return func(c *killConfig) { c.timeout = d }
}

// Kill ends the sandbox at once and returns when nothing of it is left. A
// sandbox that has ended is killed.
func (s *Sandbox) Kill(ctx context.Context, opts ...KillOption) error {
	var cfg killConfig
	for _, o := range opts {
		o(&cfg)
	}
	if cfg.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, cfg.timeout)
		defer cancel()
	}
	_, err := s.client.Kill(ctx)
	return s.awaitExit(ctx, "kill", err)
}

// awaitExit waits until nothing of the sandbox is left, after a call that told
// it to end.
func (s *Sandbox) awaitExit(ctx context.Context, verb string, err error) error {
	if err != nil && !errors.Is(err, control.ErrGone) {
		return s.failure(verb, err)
	}
	select {
	case <-s.host.Exited():
		return nil
	case <-ctx.Done():
		return s.failure(verb, context.Cause(ctx))
	}
}

// Close ends the sandbox, if it runs, and frees what this program holds of it.
// It returns after the last event was handed over, and is idempotent.
func (s *Sandbox) Close() error {
	err := s.host.Close()
	s.readers.Wait()
	s.client.Close()
	if err != nil {
		return withOp(fmt.Sprintf("close sandbox %q", s.name), err)
	}
	return nil
}

// waitEnd learns how the sandbox ended.
func (s *Sandbox) waitEnd() {
	defer close(s.stopped)
	<-s.host.Exited()
	s.result = SandboxStopResult{Name: s.name, Status: SandboxStatusCrashed, ObservedAt: time.Now()}
	ended := s.host.Ended()
	if ended == nil {
		return
	}
	s.result.Status, s.result.ObservedAt, s.result.Source = SandboxStatusStopped, ended.At, &ended.Source
	s.result.Denied = ended.Denied
	if ended.Exit.Signal != 0 {
		s.result.Signal = &ended.Exit.Signal
	} else if ended.Exit.Code >= 0 {
		s.result.ExitCode = &ended.Exit.Code
	}
}

// readEvents hands the sandbox's events over, from the first to the last.
func (s *Sandbox) readEvents(stream io.ReadCloser) {
	defer stream.Close()
	lines := bufio.NewReader(stream)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			if !errors.Is(err, io.EOF) && s.cfg.logger != nil {
				s.cfg.logger.Warn("events are cut off", "sandbox", s.name, "error", err)
			}
			return
		}
		e, err := parseEvent(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			continue // cut off by a crash
		}
		if s.cfg.logger != nil {
			e.log(s.cfg.logger)
		}
		if s.cfg.events != nil {
			s.cfg.events(e)
		}
	}
}

// failure is the error of a call that the sandbox, or its end, refused.
func (s *Sandbox) failure(verb string, err error) error {
	return withOp(fmt.Sprintf("%s sandbox %q", verb, s.name), err)
}

// open returns the hypervisor of WithHypervisor, whatever the name.
func (c *SandboxConfig) open(context.Context, string) (hv.Hypervisor, error) {
	return c.hypervisor, nil
}

// checkBackend reports a backend that this platform doesn't have.
func (c *checker) checkBackend(cfg *SandboxConfig) {
	name := backendName(cfg.Backend)
	if name == "" || cfg.hypervisor != nil {
		return
	}
	for _, b := range sluice.Backends() {
		if b.Name() == name {
			return
		}
	}
	c.fail(ErrInvalidArgument, "WithBackend", cfg.Backend, "no backend of this platform", "sluice doctor lists them")
}
