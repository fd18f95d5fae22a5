package sandbox

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/control"
)

var _ control.Sandbox = (*Sandbox)(nil)

// Info implements control.Sandbox.
func (s *Sandbox) Info() control.Info {
	info := s.info
	info.Denied = s.events.denied.Load()
	if s.activity.isDraining() {
		info.Status = control.StatusDraining
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	info.Detached = s.claim.state.Detached
	return info
}

// Touch implements control.Sandbox.
func (s *Sandbox) Touch() control.Touched {
	return control.Touched{ActivitySeq: s.activity.touch(time.Now())}
}

// Drain implements control.Sandbox.
func (s *Sandbox) Drain() {
	s.activity.drain()
	if err := s.note(func(st *Found) { st.Status = control.StatusDraining }); err != nil {
		s.log.Warn("write state", "error", err)
	}
}

// Detach implements control.Sandbox.
func (s *Sandbox) Detach() error {
	if s.leash == nil {
		return &control.Failure{Kind: control.KindUnsupported, Message: "the sandbox runs in its creator's process, and ends with it"}
	}
	if err := s.note(func(st *Found) { st.Detached = true }); err != nil {
		return ioFailure(err)
	}
	s.leash.cut()
	return nil
}

// note changes what the sandbox's directory says of it, unless it has ended.
func (s *Sandbox) note(change func(*Found)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.claim.lock == nil {
		return nil
	}
	return s.claim.update(time.Now(), change)
}

// Run implements control.Sandbox.
func (s *Sandbox) Run(ctx context.Context, cmd control.Command) (control.Exit, error) {
	if !s.inherits {
		return control.Exit{}, &control.Failure{Kind: control.KindUnsupported, Message: "the guest has no standard files of its creator's", Hint: "carry them by exec"}
	}
	g := guestCommand(cmd)
	g.TTY, g.Stdin, g.Inherit = nil, false, true
	s.main.expect()
	c, err := s.startCommand(ctx, g, false)
	if err != nil {
		s.main.fail()
		return control.Exit{}, err
	}
	defer c.Close()
	s.main.start(ctx, c)
	defer s.main.end(c)
	return c.Wait(ctx)
}

// Signal implements control.Sandbox.
func (s *Sandbox) Signal(signal int) error { return s.main.signal(signal) }

// gone is the failure of a call whose guest has ended, or doesn't do as agreed. If the
// sandbox ended it, why is worth more than how the call noticed.
func (s *Sandbox) gone(err error) error {
	if f := s.why.Load(); f != nil {
		return f
	}
	return &control.Failure{Kind: control.KindNotRunning, Message: fmt.Sprintf("sandbox %q has ended: %v", s.spec.Name, err)}
}

// Stop implements control.Sandbox.
func (s *Sandbox) Stop(timeout time.Duration) {
	s.asked.Store(true)
	if timeout <= 0 {
		s.end(control.SourceStop)
		return
	}
	s.background(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if s.agent.Shutdown(ctx) == nil { // and the guest ends with its agent
			select {
			case <-s.over:
			case <-ctx.Done():
			}
		}
		s.end(control.SourceStop)
	})
}

// background runs f beside everything else, unless the sandbox has ended. f must
// end when the agent's client is closed.
func (s *Sandbox) background(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.helpers.Go(f)
	}
}

// Kill implements control.Sandbox.
func (s *Sandbox) Kill() { s.end(control.SourceKill) }

// Wait implements control.Sandbox.
func (s *Sandbox) Wait(ctx context.Context) (control.Ended, error) {
	select {
	case <-s.over:
		return s.ended, nil
	case <-ctx.Done():
		return control.Ended{}, context.Cause(ctx)
	}
}

// Events implements control.Sandbox.
func (s *Sandbox) Events(ctx context.Context, q control.EventQuery, write func(lines []byte) error) error {
	return s.events.read(ctx, q, write)
}

// ioFailure is the failure of something on the host.
func ioFailure(err error) error {
	return &control.Failure{Kind: control.KindIO, Message: err.Error()}
}

// startFailure is the failure of a step of the start.
func startFailure(step string, err error) error {
	f := *control.AsFailure(err)
	f.Message = step + ": " + f.Message
	if f.Kind == control.KindUnsupported {
		f.Hint = cmp.Or(hv.HelpFor(err), "sluice doctor says what this machine lacks")
	}
	return &f
}
