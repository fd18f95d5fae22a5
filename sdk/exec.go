package sdk

import (
	"context"
	"fmt"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

// An ExecConfig is what the options of Exec and its like add up to.
type ExecConfig struct {
	Cwd       string            // directory that the command starts in; "" is WithWorkdir's
	User      string            // who runs it; "" is WithUser's
	Env       map[string]string // on top of the sandbox's
	Timeout   time.Duration     // kills the command after so long; 0 means never
	StdinPipe bool              // ExecHandle.TakeStdin gives its standard input; else it reads nothing
	TTY       bool              // it gets a terminal, and its two outputs are one
	// Keep lets the command go on when nobody holds its handle any more. Without
	// it, it is killed with the handle's Close, and with this program.
	Keep bool
	// MaxOutput bounds, in bytes and for each output, what Exec, Shell and
	// Collect keep; 0 means 64 MiB. A command that writes more is killed: what
	// runs in a sandbox must not fill its user's memory.
	MaxOutput int
}

// defaultMaxOutput is ExecConfig.MaxOutput's default: more than people read, less
// than hurts.
const defaultMaxOutput = 64 << 20

// An ExecOption changes how a command is run.
type ExecOption func(*ExecConfig)

// WithExecCwd sets the directory that the command starts in.
func WithExecCwd(dir string) ExecOption { return func(c *ExecConfig) { c.Cwd = dir } }

// WithExecUser sets who runs the command: name, uid, name:group or uid:gid.
func WithExecUser(user string) ExecOption { return func(c *ExecConfig) { c.User = user } }

// WithExecEnv adds to the command's environment; a later call wins, name by name,
// and each over WithEnv.
func WithExecEnv(env map[string]string) ExecOption {
	return func(c *ExecConfig) { c.Env = merged(c.Env, env) }
}

// WithExecTimeout kills the command after d. The error has kind ErrExecTimeout
// then.
func WithExecTimeout(d time.Duration) ExecOption { return func(c *ExecConfig) { c.Timeout = d } }

// WithExecStdinPipe gives the command a standard input that TakeStdin writes to.
func WithExecStdinPipe() ExecOption { return func(c *ExecConfig) { c.StdinPipe = true } }

// WithExecTTY gives the command a terminal, of 24 rows and 80 columns until
// Resize. All that it writes is standard output then.
func WithExecTTY(tty bool) ExecOption { return func(c *ExecConfig) { c.TTY = tty } }

// WithExecKeep lets ExecHandle.Detach leave the command to itself. It also goes on
// when this program dies.
func WithExecKeep() ExecOption { return func(c *ExecConfig) { c.Keep = true } }

// WithExecMaxOutput bounds what is kept of each of the command's outputs, in
// bytes.
func WithExecMaxOutput(bytes int) ExecOption { return func(c *ExecConfig) { c.MaxOutput = bytes } }

// An ExecOutput is what a command that has ended wrote, and its exit code.
type ExecOutput struct {
	stdout, stderr []byte
	code           int
}

// Stdout returns what the command wrote to its standard output.
func (o *ExecOutput) Stdout() string { return string(o.stdout) }

// Stderr returns what the command wrote to its standard error.
func (o *ExecOutput) Stderr() string { return string(o.stderr) }

// StdoutBytes is Stdout without a copy.
func (o *ExecOutput) StdoutBytes() []byte { return o.stdout }

// StderrBytes is Stderr without a copy.
func (o *ExecOutput) StderrBytes() []byte { return o.stderr }

// ExitCode returns the command's exit code, or 128 and the signal's number if a
// signal ended it.
func (o *ExecOutput) ExitCode() int { return o.code }

// Success reports whether the exit code is 0.
func (o *ExecOutput) Success() bool { return o.code == 0 }

// An ExecFailure says why a command was not started.
type ExecFailure struct {
	// Code is what shells exit with then: 125 where nothing could be tried, 126
	// where the program can't be run, 127 where there is none.
	Code    int
	Message string
}

// Error returns the message.
func (f *ExecFailure) Error() string { return f.Message }

// Exec runs a command in the guest and returns what it wrote. That it exits with
// another code than 0 is no error. When ctx ends first, the command is killed.
//
// If the command could not be started, the error has kind ErrExecFailed and
// holds an [*ExecFailure].
func (s *Sandbox) Exec(ctx context.Context, cmd string, args []string, opts ...ExecOption) (*ExecOutput, error) {
	h, err := s.ExecStream(ctx, cmd, args, opts...)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	return h.Collect(ctx)
}

// ExecDefault is Exec with the default command: that of WithEntrypoint and
// WithCmd, else the image's. Without one its error has kind ErrNoDefaultCommand.
func (s *Sandbox) ExecDefault(ctx context.Context, opts ...ExecOption) (*ExecOutput, error) {
	cmd, args, err := s.defaultCommand("exec in")
	if err != nil {
		return nil, err
	}
	return s.Exec(ctx, cmd, args, opts...)
}

// Shell is Exec with a line for the shell of WithShell, else /bin/sh.
func (s *Sandbox) Shell(ctx context.Context, command string, opts ...ExecOption) (*ExecOutput, error) {
	return s.Exec(ctx, s.shell(), []string{"-c", command}, opts...)
}

// ExecStream starts a command in the guest and returns when it runs, or could not
// be started, which is its one event then. ctx governs the start only. The caller
// must Close the handle.
func (s *Sandbox) ExecStream(ctx context.Context, cmd string, args []string, opts ...ExecOption) (*ExecHandle, error) {
	var cfg ExecConfig
	for _, o := range opts {
		o(&cfg)
	}
	command, err := s.command(cmd, args, cfg)
	if err != nil {
		return nil, s.failure("exec in", err)
	}
	return s.start(ctx, command, cfg)
}

// ExecDefaultStream is ExecStream with the default command.
func (s *Sandbox) ExecDefaultStream(ctx context.Context, opts ...ExecOption) (*ExecHandle, error) {
	cmd, args, err := s.defaultCommand("exec in")
	if err != nil {
		return nil, err
	}
	return s.ExecStream(ctx, cmd, args, opts...)
}

// ShellStream is ExecStream with a line for the shell.
func (s *Sandbox) ShellStream(ctx context.Context, command string, opts ...ExecOption) (*ExecHandle, error) {
	return s.ExecStream(ctx, s.shell(), []string{"-c", command}, opts...)
}

// command returns a command with all that the sandbox's configuration and its
// image give it.
func (s *Sandbox) command(cmd string, args []string, cfg ExecConfig) (control.Command, error) {
	out := control.Command{
		Args:  append([]string{cmd}, args...),
		Env:   s.cfg.environment(cfg.Env),
		Dir:   cfg.Cwd,
		User:  cfg.User,
		Stdin: cfg.StdinPipe,
		Keep:  cfg.Keep,
	}
	if out.Dir == "" {
		out.Dir = s.cfg.workdir()
	}
	if out.User == "" {
		out.User = s.cfg.user()
	}
	if cfg.TTY {
		out.TTY = &control.TTY{Rows: 24, Cols: 80, Term: "xterm"}
	}
	var c checker
	c.checkCommand(out, cfg)
	return out, c.err()
}

// checkCommand reports what is wrong with one command.
func (c *checker) checkCommand(command control.Command, cfg ExecConfig) {
	c.checkArguments(ErrInvalidArgument, "", command.Args)
	c.checkEnv("Env", cfg.Env)
	c.checkTotal(ErrInvalidArgument, "arguments and environment", command.Args, command.Env)
	c.checkWorkdir("Cwd", cfg.Cwd)
	if cfg.User != "" && !isUser(cfg.User) {
		c.fail(ErrInvalidArgument, "User", cfg.User, "no user", "write name, uid, name:group or uid:gid")
	}
	if cfg.Timeout < 0 || cfg.MaxOutput < 0 {
		c.fail(ErrInvalidArgument, "Timeout or MaxOutput", "", "is negative", "write 0 for the default")
	}
}

// start starts a command and waits until it runs, or couldn't be started.
func (s *Sandbox) start(ctx context.Context, command control.Command, cfg ExecConfig) (*ExecHandle, error) {
	if err := s.usable("exec in"); err != nil {
		return nil, err
	}
	e, err := s.client.Exec(ctx, command)
	if err != nil {
		return nil, s.failure("exec in", err)
	}
	h := &ExecHandle{s: s, exec: e, cfg: cfg}
	if cfg.Timeout > 0 {
		h.timer = time.AfterFunc(cfg.Timeout, h.expire)
	}
	first, err := h.receive(ctx)
	if err != nil {
		_ = h.Close() // can't fail
		return nil, err
	}
	h.first = first
	h.session = first.Session
	if cfg.StdinPipe || cfg.TTY {
		h.sink = &ExecSink{h: h}
	}
	return h, nil
}

// defaultCommand returns the default command.
func (s *Sandbox) defaultCommand(verb string) (string, []string, error) {
	argv := s.cfg.command()
	if len(argv) == 0 {
		return "", nil, s.failure(verb, &Error{Kind: ErrNoDefaultCommand, Message: "there is no default command", Hint: "give one by WithCmd"})
	}
	return argv[0], argv[1:], nil
}

// shell returns the program that Shell runs.
func (s *Sandbox) shell() string {
	if s.cfg.Shell != "" {
		return s.cfg.Shell
	}
	return "/bin/sh"
}

// exitCode returns how a command ended in one number, as shells do.
func exitCode(e control.Exit) int {
	if e.Signal != 0 {
		return 128 + e.Signal
	}
	return e.Code
}

// tooMuch is the error of a command that wrote more than is kept.
func tooMuch(bound int) error {
	return &Error{Kind: ErrIO, Message: fmt.Sprintf("the command wrote more than %d bytes", bound), Hint: "use ExecStream, or WithExecMaxOutput"}
}
