package sdk

import (
	"context"
	"maps"
	"os"
	"slices"
	"syscall"

	"github.com/sluicenet/sluice/internal/control"
)

// An AttachOption changes how a command is attached.
type AttachOption func(*attachConfig)

type attachConfig struct {
	cwd     string
	env     map[string]string
	signals <-chan os.Signal
}

// WithAttachCwd sets the directory that the command starts in, instead of
// WithWorkdir's.
func WithAttachCwd(dir string) AttachOption {
	return func(c *attachConfig) { c.cwd = dir }
}

// WithAttachEnv adds to the command's environment; a later call wins, name by
// name, and each over WithEnv.
func WithAttachEnv(env map[string]string) AttachOption {
	return func(c *attachConfig) { c.env = merged(c.env, env) }
}

// WithAttachSignals passes on the signals that arrive on the channel, as
// signal.Notify fills it, to the command.
func WithAttachSignals(signals <-chan os.Signal) AttachOption {
	return func(c *attachConfig) { c.signals = signals }
}

// Attach runs a command with the files of WithStdio and returns its exit code,
// or 128 and the signal's number if a signal ended it. When ctx ends first, the
// command is killed. This version runs one command per sandbox, which ends with
// it.
//
// If the command could not be started, the error has kind ErrExecFailed and
// holds an [*ExecFailure].
func (s *Sandbox) Attach(ctx context.Context, cmd string, args ...string) (int, error) {
	return s.AttachWith(ctx, cmd, args)
}

// AttachDefault is Attach with the command of WithEntrypoint and WithCmd; without
// one its error has kind ErrNoDefaultCommand.
func (s *Sandbox) AttachDefault(ctx context.Context, opts ...AttachOption) (int, error) {
	command := s.cfg.command()
	if len(command) == 0 {
		return 0, s.failure("attach to", &Error{Kind: ErrNoDefaultCommand, Message: "there is no default command", Hint: "give one by WithCmd"})
	}
	return s.AttachWith(ctx, command[0], command[1:], opts...)
}

// AttachWith is Attach with options.
func (s *Sandbox) AttachWith(ctx context.Context, cmd string, args []string, opts ...AttachOption) (int, error) {
	cfg := attachConfig{cwd: s.cfg.Workdir}
	for _, o := range opts {
		o(&cfg)
	}
	var c checker
	c.checkGuest(&SandboxConfig{Workdir: cfg.cwd, Env: cfg.env, Cmd: append([]string{cmd}, args...)})
	if err := c.err(); err != nil {
		return 0, s.failure("attach to", err)
	}
	if cfg.signals != nil {
		done := make(chan struct{})
		passed := make(chan struct{})
		go s.passSignals(ctx, cfg.signals, done, passed)
		defer func() { close(done); <-passed }()
	}
	exit, err := s.client.Run(ctx, control.Command{
		Args: append([]string{cmd}, args...),
		Env:  s.environment(cfg.env),
		Dir:  cfg.cwd,
	})
	if err != nil {
		return 0, s.failure("attach to", err)
	}
	if exit.Signal != 0 {
		return 128 + exit.Signal, nil
	}
	return exit.Code, nil
}

// passSignals sends signals to the command until done is closed, then closes
// passed.
func (s *Sandbox) passSignals(ctx context.Context, signals <-chan os.Signal, done <-chan struct{}, passed chan<- struct{}) {
	defer close(passed)
	for {
		select {
		case <-done:
			return
		case sig, ok := <-signals:
			if !ok {
				return
			}
			if n, ok := sig.(syscall.Signal); ok {
				// A command that isn't there yet, or no longer, misses it; its
				// user repeats it.
				_ = s.client.Signal(ctx, int(n))
			}
		}
	}
}

// An ExecFailure says why a command was not started.
type ExecFailure struct {
	// Code is what shells exit with then: 125 where nothing could be tried, 126
	// where the program can't be run, 127 where there is none.
	Code    int
	Message string
}

// Error returns the message.
func (f *ExecFailure) Error() string { return f.Message }

// environment returns a command's environment: a small default, the sandbox's,
// then extra, sorted by name.
func (s *Sandbox) environment(extra map[string]string) []string {
	env := merged(defaultEnvironment(s.cfg.BindRootfs != ""), s.cfg.Env)
	maps.Copy(env, extra)
	list := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

// defaultEnvironment is what a command gets without being told. The caller's own
// is never passed on: it holds keys. In a guest that shows the host's files,
// root's home may not be readable, which programs such as git fail on.
func defaultEnvironment(ownRoot bool) map[string]string {
	home := "/tmp"
	if ownRoot {
		home = "/root"
	}
	return map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME": home,
	}
}
