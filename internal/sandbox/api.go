package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/internal/guest"
)

var (
	_ control.Sandbox = (*Sandbox)(nil)
	_ control.Life    = (*Sandbox)(nil)
)

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

// Touch implements control.Life.
func (s *Sandbox) Touch() control.Touched {
	return control.Touched{ActivitySeq: s.activity.touch(time.Now())}
}

// Drain implements control.Life.
func (s *Sandbox) Drain() {
	s.activity.drain()
	if err := s.note(func(st *Found) { st.Status = control.StatusDraining }); err != nil {
		s.log.Warn("write state", "error", err)
	}
}

// Detach implements control.Life.
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

// Run implements control.Sandbox. The guest runs one command in its life, and
// ends with it.
func (s *Sandbox) Run(ctx context.Context, cmd control.Command) (control.Exit, error) {
	s.mu.Lock()
	if s.running {
		s.mu.Unlock()
		return control.Exit{}, &control.Failure{Kind: control.KindUnsupported, Message: "this version of sluice runs one command per sandbox", Hint: "create another sandbox"}
	}
	s.running = true
	s.mu.Unlock()
	exit, err := s.runInherited(ctx, guest.Command{Args: cmd.Args, Env: cmd.Env, Dir: cmd.Dir, Inherit: true})
	if err == nil {
		return exit, nil
	}
	var refused *guest.StartError
	switch {
	case errors.As(err, &refused):
		return control.Exit{}, &control.Failure{Kind: control.KindExecFailed, Message: refused.Message, Code: refused.Code}
	case ctx.Err() != nil:
		s.end(control.SourceKill) // the guest need not obey
		return control.Exit{}, context.Cause(ctx)
	}
	return control.Exit{}, s.gone(err)
}

// runInherited runs a command with the standard files of the guest's first
// process, and ends the guest with it.
func (s *Sandbox) runInherited(ctx context.Context, cmd guest.Command) (control.Exit, error) {
	p, err := s.agent.Start(ctx, cmd)
	if err != nil {
		return control.Exit{}, err
	}
	defer p.Close()
	s.mu.Lock()
	s.process = p
	early := s.early
	s.mu.Unlock()
	for _, signal := range early {
		_ = p.Signal(ctx, signal) // an error says that it has ended
	}
	ended, err := p.Wait(ctx)
	if err != nil {
		return control.Exit{}, err
	}
	exit := control.Exit{Code: ended.Code, Signal: ended.Signal}
	s.mu.Lock()
	s.ran = &control.Exit{Code: ended.Status()}
	s.mu.Unlock()
	if s.asked.Load() { // and the command did as it was told
		s.end(control.SourceStop)
	} else {
		s.end(control.SourceGuest)
	}
	return exit, nil
}

// Signal implements control.Sandbox. The command gets one that comes before it
// has started when it has.
func (s *Sandbox) Signal(signal int) error {
	s.mu.Lock()
	running, process := s.running, s.process
	if running && process == nil {
		s.early = append(s.early, signal)
	}
	s.mu.Unlock()
	if !running {
		return &control.Failure{Kind: control.KindNotRunning, Message: "no command runs"}
	}
	if process == nil {
		return nil
	}
	if err := process.Signal(context.Background(), signal); err != nil { // it doesn't wait
		return s.gone(err)
	}
	return nil
}

// gone is the failure of a call whose guest has ended, or doesn't do as agreed.
func (s *Sandbox) gone(err error) error {
	return &control.Failure{Kind: control.KindNotRunning, Message: fmt.Sprintf("sandbox %q has ended: %v", s.spec.Name, err)}
}

// sigterm asks a command to end (signal(7)). It is Linux's number, whatever the
// host is.
const sigterm = 15

// Stop implements control.Sandbox.
func (s *Sandbox) Stop(timeout time.Duration) {
	s.asked.Store(true)
	if timeout <= 0 || s.Signal(sigterm) != nil {
		s.end(control.SourceStop)
		return
	}
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case <-s.over:
	case <-t.C:
		s.end(control.SourceStop)
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
func (s *Sandbox) Events(ctx context.Context, from int64, write func(lines []byte) error) error {
	return s.events.read(ctx, from, write)
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
		f.Hint = "sluice doctor says what this machine lacks"
	}
	return &f
}
