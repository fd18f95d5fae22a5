package sdk

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

// A Sandbox is a sandbox that runs, or has run: one that this program has created
// or started, or found with GetSandbox and connected to. Its methods may be called
// by several goroutines. The caller must Close it.
type Sandbox struct {
	name   string
	cfg    SandboxConfig
	info   control.Info
	client *control.Client
	host   host

	owned   atomic.Bool        // it ends with Close, and with this program
	closed  atomic.Bool        // Close was called
	leave   context.Context    // ends when Close lets go of a sandbox that goes on
	letGo   context.CancelFunc // ends leave
	readers sync.WaitGroup     // waitEnd and readEvents
	reading atomic.Uint64      // goroutine that calls the user's functions for events; 0 before and after
	stopped chan struct{}      // closed by waitEnd when result is valid
	result  SandboxStopResult
}

// A host is where a sandbox runs: a process of its own, this one, or one that
// somebody else has started.
type host interface {
	Ready() control.Ready
	Exited() <-chan struct{}
	Ended() *control.Ended // once Exited is closed; nil if it crashed
	Close() error
	Detach(ctx context.Context) error
}

// newSandbox begins to follow a sandbox that runs on h.
func newSandbox(name string, cfg SandboxConfig, h host, owned bool) (*Sandbox, error) {
	s := &Sandbox{name: name, cfg: cfg, host: h, stopped: make(chan struct{})}
	s.owned.Store(owned)
	s.leave, s.letGo = context.WithCancel(context.Background()) // Close's end, or the sandbox's, is its own
	ready := h.Ready()
	s.info, s.client = ready.Info, control.NewClient(ready.Socket)
	s.readers.Go(s.waitEnd)
	if cfg.events == nil && cfg.logger == nil {
		return s, nil
	}
	// Once this has returned no event is missed, however short the rest is.
	events, err := s.client.Events(s.leave, control.EventQuery{Types: cfg.handedTypes(), Follow: true})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.readers.Go(func() { s.readEvents(events) })
	return s, nil
}

// Name returns the sandbox's name.
func (s *Sandbox) Name() string { return s.name }

// Backend returns the name of the hypervisor that the sandbox runs on.
func (s *Sandbox) Backend() string { return s.info.Backend }

// Warnings returns what its user should think about in the configuration, as it
// was found at creation. They are events too.
func (s *Sandbox) Warnings() []string { return slices.Clone(s.info.Warnings) }

// EventsPath returns the path of the file with the sandbox's events, one JSON
// object per line. It goes with what else the sandbox leaves.
func (s *Sandbox) EventsPath() string { return s.info.Events }

// OwnsLifecycle reports whether the sandbox ends with Close, and with this
// program: whether it was created or started attached, by this Sandbox, and not
// detached since. The error has kind ErrInvalidHandle after Close.
func (s *Sandbox) OwnsLifecycle() (bool, error) {
	if err := s.usable("look at"); err != nil {
		return false, err
	}
	return s.owned.Load(), nil
}

// OwnsLifecycleOrFalse is OwnsLifecycle, false after Close.
func (s *Sandbox) OwnsLifecycleOrFalse() bool {
	owns, err := s.OwnsLifecycle()
	return owns && err == nil
}

// A SandboxStatus is what a sandbox is doing.
type SandboxStatus string

const (
	SandboxStatusRunning  SandboxStatus = "running"
	SandboxStatusStopped  SandboxStatus = "stopped"  // ended as it should
	SandboxStatusCrashed  SandboxStatus = "crashed"  // its process died
	SandboxStatusDraining SandboxStatus = "draining" // ends with the last command
	SandboxStatusPaused   SandboxStatus = "paused"   // never: sluice doesn't pause
)

// A SandboxStopResult says how a sandbox ended.
type SandboxStopResult struct {
	Name       string
	Status     SandboxStatus // stopped or crashed
	ExitCode   *int          // of the guest's first process; nil if a signal ended it, or it isn't known
	Signal     *int          // that ended it; nil if none did
	ObservedAt time.Time
	// Source is what ended it: stop, kill, creator, guest, signal, drain, limit,
	// idle or violation (of a secret); nil if it crashed.
	Source *string
	// Allowed counts the flows that were allowed, and Denied the flows and queries
	// that were denied, those too whose events found no room; 0 if it crashed.
	Allowed, Denied uint64
}

// stopResult returns how a sandbox ended; a nil e means that it crashed.
func stopResult(name string, e *control.Ended, now time.Time) SandboxStopResult {
	r := SandboxStopResult{Name: name, Status: SandboxStatusCrashed, ObservedAt: now}
	if e == nil {
		return r
	}
	r.Status, r.ObservedAt, r.Source = SandboxStatusStopped, e.At, &e.Source
	r.Allowed, r.Denied = e.Allowed, e.Denied
	if e.Exit.Signal != 0 {
		r.Signal = &e.Exit.Signal
	} else if e.Exit.Code >= 0 {
		r.ExitCode = &e.Exit.Code
	}
	return r
}

// WaitUntilStopped waits for the sandbox's end and says how it came. The error has
// kind ErrCancelled if ctx ends first, ErrInvalidHandle after Close of a sandbox
// that went on.
func (s *Sandbox) WaitUntilStopped(ctx context.Context) (*SandboxStopResult, error) {
	select { // what is known is told, also after Close
	case <-s.stopped:
		r := s.result
		return &r, nil
	default:
	}
	select {
	case <-s.stopped:
		r := s.result
		return &r, nil
	case <-ctx.Done():
		return nil, s.failure("wait for", control.Cause(ctx))
	case <-s.leave.Done():
		return nil, s.usable("wait for")
	}
}

// waitEnd learns how the sandbox ended, unless Close lets go of it before.
func (s *Sandbox) waitEnd() {
	select {
	case <-s.host.Exited():
		s.result = stopResult(s.name, s.host.Ended(), time.Now())
		close(s.stopped)
	case <-s.leave.Done():
	}
}

// Close ends the sandbox if OwnsLifecycle, and frees what this program holds of
// it. It returns after the last event was handed over, and is idempotent. The
// function of WithEvents may call it, too, and gets what is left of the events when
// it has returned.
func (s *Sandbox) Close() error {
	s.closed.Store(true)
	if !s.owned.Load() {
		s.letGo()
	}
	err := s.host.Close()
	if s.reading.Load() != goroutineID() { // else the rest is readEvents' to do
		s.readers.Wait()
		s.free()
	}
	if err != nil {
		return withOp(fmt.Sprintf("close sandbox %q", s.name), err)
	}
	return nil
}

// free lets go of what the sandbox's end, or Close's, leaves. It is idempotent.
func (s *Sandbox) free() {
	s.letGo()
	s.client.Close()
}

// Detach lets the sandbox outlive this program. Close only lets go of it then.
func (s *Sandbox) Detach(ctx context.Context) error {
	if err := s.usable("detach"); err != nil {
		return err
	}
	if err := s.host.Detach(ctx); err != nil {
		return s.failure("detach", err)
	}
	s.owned.Store(false)
	return nil
}

// readEvents hands the sandbox's events over, from the first to the last.
func (s *Sandbox) readEvents(stream io.ReadCloser) {
	s.reading.Store(goroutineID())
	defer s.reading.Store(0)
	defer stream.Close()
	wanted := EventFilter{Types: s.cfg.eventTypes}
	err := eachEvent(stream, func(e Event) bool {
		if s.cfg.logger != nil {
			e.log(s.cfg.logger)
		}
		if s.cfg.events != nil && wanted.matches(e) {
			s.cfg.events(e)
		}
		return true
	})
	if err != nil && s.leave.Err() == nil && s.cfg.logger != nil {
		s.cfg.logger.Warn("events are cut off", "sandbox", s.name, "error", err)
	}
	if s.closed.Load() { // perhaps from within, which couldn't wait for this
		s.free()
	}
}

// goroutineID returns the number of the calling goroutine: package runtime tells it
// at the head of a stack only, "goroutine 7 [running]:". Close compares it, to tell
// whether it is called by the goroutine that it would wait for.
func goroutineID() uint64 {
	var buf [64]byte
	head := strings.Fields(string(buf[:runtime.Stack(buf[:], false)]))
	id, err := strconv.ParseUint(head[1], 10, 64)
	if err != nil {
		panic("sdk: internal error: stack begins with " + strings.Join(head, " "))
	}
	return id
}

// eachEvent calls do with each event of a stream, until do returns false or the
// stream ends.
func eachEvent(stream io.Reader, do func(Event) bool) error {
	lines := bufio.NewReader(stream)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		e, err := parseEvent(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			continue // cut off by a crash
		}
		if !do(e) {
			return nil
		}
	}
}

// usable returns the error of a call that comes after Close, else nil.
func (s *Sandbox) usable(verb string) error {
	if !s.closed.Load() {
		return nil
	}
	kind := ErrInvalidHandle
	if s.owned.Load() { // and so it has ended
		kind = ErrSandboxNotRunning
	}
	return s.failure(verb, &Error{Kind: kind, Message: "it was closed", Cause: net.ErrClosed})
}

// failure is the error of a call that the sandbox, or its end, refused; nil if
// err is.
func (s *Sandbox) failure(verb string, err error) error {
	if err == nil {
		return nil
	}
	return withOp(fmt.Sprintf("%s sandbox %q", verb, s.name), err)
}

// ask asks the sandbox for something.
func ask[T any](ctx context.Context, s *Sandbox, verb string, call func(context.Context) (T, error)) (T, error) {
	var none T
	if err := s.usable(verb); err != nil {
		return none, err
	}
	v, err := call(ctx)
	if err != nil {
		return none, s.failure(verb, err)
	}
	return v, nil
}

// tell tells the sandbox to do something.
func tell(ctx context.Context, s *Sandbox, verb string, call func(context.Context) error) error {
	_, err := ask(ctx, s, verb, func(ctx context.Context) (struct{}, error) { return struct{}{}, call(ctx) })
	return err
}
