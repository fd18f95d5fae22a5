package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/sluicenet/sluice/internal/control"
)

// An AttachOption changes how a command is attached.
type AttachOption func(*attachConfig)

type attachConfig struct {
	ExecConfig
	signals    <-chan os.Signal
	detachKeys string
}

// WithAttachCwd sets the directory that the command starts in, instead of
// WithWorkdir's.
func WithAttachCwd(dir string) AttachOption {
	return func(c *attachConfig) { c.Cwd = dir }
}

// WithAttachUser sets who runs the command, instead of WithUser's.
func WithAttachUser(user string) AttachOption {
	return func(c *attachConfig) { c.User = user }
}

// WithAttachEnv adds to the command's environment; a later call wins, name by
// name, and each over WithEnv.
func WithAttachEnv(env map[string]string) AttachOption {
	return func(c *attachConfig) { c.Env = merged(c.Env, env) }
}

// WithAttachDetachKeys sets the keys that leave a terminal and let the command
// go on, as docker writes them: "ctrl-p,ctrl-q". Without it there are none.
func WithAttachDetachKeys(keys string) AttachOption {
	return func(c *attachConfig) { c.detachKeys = keys }
}

// WithAttachSignals passes on the signals that arrive on the channel, as
// signal.Notify fills it, to the command.
func WithAttachSignals(signals <-chan os.Signal) AttachOption {
	return func(c *attachConfig) { c.signals = signals }
}

// Attach runs a command with this program's standard files, or those of
// WithStdio, and returns its exit code, or 128 and the signal's number if a
// signal ended it. Where standard input and output are terminals the command
// gets one of its own, whose size follows; ours is raw meanwhile. When ctx ends
// first, the command is killed.
//
// If the command could not be started, the error has kind ErrExecFailed and
// holds an [*ExecFailure]. Who leaves by WithAttachDetachKeys gets 0.
func (s *Sandbox) Attach(ctx context.Context, cmd string, args ...string) (int, error) {
	return s.AttachWith(ctx, cmd, args)
}

// AttachDefault is Attach with the default command: that of WithEntrypoint and
// WithCmd, else the image's. Without one its error has kind ErrNoDefaultCommand.
func (s *Sandbox) AttachDefault(ctx context.Context, opts ...AttachOption) (int, error) {
	cmd, args, err := s.defaultCommand("attach to")
	if err != nil {
		return 0, err
	}
	return s.AttachWith(ctx, cmd, args, opts...)
}

// AttachShell is Attach with the shell of WithShell, else /bin/sh.
func (s *Sandbox) AttachShell(ctx context.Context) (int, error) {
	return s.AttachWith(ctx, s.shell(), nil)
}

// AttachWith is Attach with options.
func (s *Sandbox) AttachWith(ctx context.Context, cmd string, args []string, opts ...AttachOption) (int, error) {
	var cfg attachConfig
	for _, o := range opts {
		o(&cfg)
	}
	keys, err := parseDetachKeys(cfg.detachKeys)
	if err != nil {
		return 0, s.failure("attach to", &Error{Kind: ErrInvalidArgument, Message: "WithAttachDetachKeys: " + err.Error(), Hint: "write them like ctrl-p,ctrl-q"})
	}
	command, err := s.command(cmd, args, cfg.ExecConfig)
	if err != nil {
		return 0, s.failure("attach to", err)
	}
	files := [3]*os.File{os.Stdin, os.Stdout, os.Stderr}
	if s.cfg.stdio != nil {
		files = *s.cfg.stdio
	}
	if isTerminal(files[0]) && isTerminal(files[1]) {
		return s.attachTerminal(ctx, command, cfg, files, keys)
	}
	if s.cfg.stdio != nil {
		if code, err := s.attachFiles(ctx, command, cfg); !IsKind(err, ErrUnsupportedOperation) {
			return code, err
		}
	}
	return s.attachStreams(ctx, command, cfg, files)
}

// attachFiles runs a command with the files of WithStdio themselves, which the
// sandbox's process was given when it was started.
func (s *Sandbox) attachFiles(ctx context.Context, command control.Command, cfg attachConfig) (int, error) {
	if err := s.usable("attach to"); err != nil {
		return 0, err
	}
	defer passSignals(ctx, cfg.signals, s.client.Signal)()
	exit, err := s.client.Run(ctx, command)
	if err != nil {
		return 0, s.failure("attach to", err)
	}
	return exitCode(exit), nil
}

// attachStreams runs a command and copies what it reads and writes.
func (s *Sandbox) attachStreams(ctx context.Context, command control.Command, cfg attachConfig, files [3]*os.File) (int, error) {
	command.Stdin = files[0] != nil
	cfg.StdinPipe = command.Stdin
	h, err := s.start(ctx, command, cfg.ExecConfig)
	if err != nil {
		return 0, err
	}
	defer h.Close()
	defer passSignals(ctx, cfg.signals, h.exec.Signal)()
	if sink := h.TakeStdin(); sink != nil {
		in, err := startInput(ctx, files[0], sink, nil)
		if err != nil {
			return 0, s.failure("attach to", err)
		}
		defer in.stop()
	}
	return h.copyOutput(ctx, files[1], files[2])
}

// attachTerminal runs a command in a terminal of its own, which ours shows.
func (s *Sandbox) attachTerminal(ctx context.Context, command control.Command, cfg attachConfig, files [3]*os.File, keys []byte) (int, error) {
	rows, cols := terminalSize(files[1])
	term := os.Getenv("TERM")
	if term == "" {
		term = "xterm"
	}
	command.TTY = &control.TTY{Rows: rows, Cols: cols, Term: term}
	command.Keep = len(keys) > 0
	cfg.Keep = command.Keep
	cfg.TTY = true
	h, err := s.start(ctx, command, cfg.ExecConfig)
	if err != nil {
		return 0, err
	}
	defer h.Close()
	restore, err := makeRaw(files[0])
	if err != nil {
		return 0, s.failure("attach to", err)
	}
	defer restore()
	defer passSignals(ctx, cfg.signals, h.exec.Signal)()
	defer followSize(ctx, files[1], h.exec.Resize)()
	leave, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	in, err := startInput(ctx, files[0], h.TakeStdin(), &terminalInput{detachFilter{keys: keys}, cancel})
	if err != nil {
		return 0, s.failure("attach to", err)
	}
	defer in.stop()
	code, err := h.copyOutput(leave, files[1], files[1])
	if errors.Is(context.Cause(leave), errDetached) {
		return 0, h.Detach(ctx)
	}
	return code, err
}

// A terminalInput is what is different about input that is typed.
type terminalInput struct {
	filter detachFilter
	leave  context.CancelCauseFunc // called when the user leaves
}

// copyOutput writes what the command does, until it has ended, and returns its
// exit code. A nil file gets nothing.
func (h *ExecHandle) copyOutput(ctx context.Context, stdout, stderr *os.File) (int, error) {
	code := 0
	err := h.receiveAll(ctx, func(e *ExecEvent) error {
		to := stdout
		if e.Kind == ExecEventStderr {
			to = stderr
		}
		if to == nil {
			return nil
		}
		if _, err := to.Write(e.Data); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
		return nil
	}, &code)
	return code, err
}

// An input copies a file to a command.
type input struct {
	stopped sync.WaitGroup
	stop    func() // ends it, whether or not there is something to read, and waits
}

// startInput begins to copy a file to a command. typed may be nil.
func startInput(ctx context.Context, f *os.File, sink *ExecSink, typed *terminalInput) (*input, error) {
	r, err := newStoppableReader(f)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	in := &input{}
	in.stop = func() {
		cancel()
		r.stop()
		in.stopped.Wait()
		r.close()
	}
	in.stopped.Go(func() { copyInput(ctx, r, sink, typed) })
	return in, nil
}

// copyInput copies until the end of the input, or until the command takes no
// more. Its errors are no news: the command's end tells all, and one that reads
// no more is as with a pipe in a shell.
func copyInput(ctx context.Context, r io.Reader, sink *ExecSink, typed *terminalInput) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		p := buf[:n]
		var left error
		if typed != nil {
			p, left = typed.filter.pass(p)
		}
		if len(p) > 0 && sink.WriteCtx(ctx, p) != nil {
			return
		}
		if left != nil {
			typed.leave(left)
			return
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				_ = sink.Close(ctx)
			}
			return
		}
	}
}

// passSignals sends signals on until the function that it returns is called.
// signals may be nil.
func passSignals(ctx context.Context, signals <-chan os.Signal, send func(context.Context, int) error) (stop func()) {
	if signals == nil {
		return func() {}
	}
	done := make(chan struct{})
	var passing sync.WaitGroup
	passing.Go(func() { passUntil(ctx, signals, send, done) })
	return func() { close(done); passing.Wait() }
}

func passUntil(ctx context.Context, signals <-chan os.Signal, send func(context.Context, int) error, done <-chan struct{}) {
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
				_ = send(ctx, int(n))
			}
		}
	}
}
