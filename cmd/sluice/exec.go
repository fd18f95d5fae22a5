package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	m "github.com/sluicenet/sluice/sdk"
)

// execFlags are the flags of sluice exec.
type execFlags struct {
	env         []string
	workdir     string
	user        string
	interactive bool
	terminal    bool
	detach      bool
}

func (f *execFlags) register(flags *pflag.FlagSet) {
	flags.SortFlags = false
	flags.BoolVarP(&f.interactive, "interactive", "i", false, "pass standard input on")
	flags.BoolVarP(&f.terminal, "tty", "t", false, "give the command a terminal, as this one; implies -i")
	flags.BoolVarP(&f.detach, "detach", "d", false, "don't wait for the command; sluice logs has its output")
	flags.StringArrayVarP(&f.env, "env", "e", nil, "`VAR`=VALUE, or VAR for this shell's value; repeatable")
	flags.StringVarP(&f.workdir, "workdir", "w", "", "`DIR` to start in")
	flags.StringVarP(&f.user, "user", "u", "", "`USER[:GROUP]` to run as, names or numbers")
}

func newExec(c *console) *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use:   "exec [flags] SANDBOX COMMAND [ARG…]",
		Short: "Run a command in a running sandbox",
		Long: `Run a command in a running sandbox.

The exit code is the command's, 128 and the signal's number if a signal ended
it, 125 if sluice failed, 126 if the command can't be run, 127 if there is none.`,
		Example: `  sluice exec worker ls /
  sluice exec -it worker sh`,
		Args: takes(2, many),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, command := args[0], args[1:]
			if command[0] == "--" { // as run takes it
				command = command[1:]
			}
			switch {
			case len(command) == 0:
				return exit(codeRun, errors.New("there is no command; write it behind the sandbox's name"))
			case strings.HasPrefix(command[0], "-"):
				return exit(codeRun, fmt.Errorf("%q: is no command; flags of exec stand before the sandbox's name", command[0]))
			}
			return f.run(cmd.Context(), c, name, command)
		},
		ValidArgsFunction: completeNames(true, 1),
	}
	f.register(cmd.Flags())
	cmd.Flags().SetInterspersed(false) // what follows the sandbox is the command's
	setRunErrors(cmd)
	return cmd
}

func newShell(c *console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "shell SANDBOX",
		Short: "Run a shell in a running sandbox",
		Args:  takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			code := 0
			err := withSandbox(cmd.Context(), args[0], func(sb *m.Sandbox) (err error) {
				code, err = sb.AttachShell(cmd.Context())
				return err
			})
			return exit(commandError(code, err))
		},
		ValidArgsFunction: completeNames(true, 1),
	}
	setRunErrors(cmd)
	return cmd
}

// setRunErrors makes wrong flags and arguments end the program as sluice's own
// failure, so that they can be told from the command's.
func setRunErrors(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return exit(codeRun, err)
			}
			return nil
		}
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &exitError{code: codeRun, err: flagError(cmd, err)}
	})
}

// exit returns what ends the program with a command's code, nil if that is 0. An
// error beside it, of what sluice was to do, is no success.
func exit(code int, err error) error {
	switch {
	case code == 0 && err == nil:
		return nil
	case code == 0:
		code = codeRun
	}
	return &exitError{code: code, err: err}
}

// run runs a command in a sandbox.
func (f *execFlags) run(ctx context.Context, c *console, name string, command []string) error {
	env, err := environment(f.env)
	if err != nil {
		return exit(codeRun, err)
	}
	code := 0
	err = withSandbox(ctx, name, func(sb *m.Sandbox) (err error) {
		switch {
		case f.detach:
			return f.start(ctx, c, sb, command, env)
		case f.terminal || f.interactive:
			code, err = f.attach(ctx, c, sb, command, env)
		default:
			code, err = f.stream(ctx, c, sb, command, env)
		}
		return err
	})
	return exit(commandError(code, err))
}

// errNoTerminal is what --tty says where there is none.
var errNoTerminal = errors.New("--tty: standard input and output are no terminal; leave it out")

// attach runs a command with this program's files.
func (f *execFlags) attach(ctx context.Context, c *console, sb *m.Sandbox, command []string, env map[string]string) (int, error) {
	if f.terminal && !(isTerminal(c.in) && isTerminal(c.out)) {
		return 0, errNoTerminal
	}
	signals, stop := caughtSignals()
	defer stop()
	return sb.AttachWith(ctx, command[0], command[1:],
		m.WithAttachCwd(f.workdir), m.WithAttachUser(f.user), m.WithAttachEnv(env),
		m.WithAttachDetachKeys("ctrl-p,ctrl-q"), m.WithAttachSignals(signals))
}

// caughtSignals returns the signals that are passed on to a command, until stop
// is called.
func caughtSignals() (signals <-chan os.Signal, stop func()) {
	caught := make(chan os.Signal, 8)
	signal.Notify(caught, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	return caught, func() { signal.Stop(caught) }
}

// execOptions returns the options that the flags ask for.
func (f *execFlags) execOptions(env map[string]string) []m.ExecOption {
	return []m.ExecOption{m.WithExecCwd(f.workdir), m.WithExecUser(f.user), m.WithExecEnv(env)}
}

// stream runs a command that reads nothing, and prints what it writes.
func (f *execFlags) stream(ctx context.Context, c *console, sb *m.Sandbox, command []string, env map[string]string) (int, error) {
	h, err := sb.ExecStream(ctx, command[0], command[1:], f.execOptions(env)...)
	if err != nil {
		return 0, err
	}
	defer h.Close()
	signals, stop := caughtSignals()
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		signalCommand(ctx, h, signals)
	}()
	defer func() { cancel(); <-passed }()
	for {
		e, err := h.Recv(ctx)
		if err != nil {
			return 0, err
		}
		switch e.Kind {
		case m.ExecEventStdout:
			_, err = c.out.Write(e.Data)
		case m.ExecEventStderr:
			_, err = c.err.Write(e.Data)
		case m.ExecEventFailed:
			err = e.Failure
		case m.ExecEventExited:
			return e.ExitCode, nil
		case m.ExecEventDone:
			return 0, errors.New("the sandbox has ended")
		}
		if err != nil {
			return 0, err
		}
	}
}

// signalCommand passes signals on until ctx ends.
func signalCommand(ctx context.Context, h *m.ExecHandle, signals <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-signals:
			if n, ok := s.(syscall.Signal); ok {
				_ = h.Signal(ctx, int(n)) // a command that has ended misses it
			}
		}
	}
}

// start starts a command and prints its number.
func (f *execFlags) start(ctx context.Context, c *console, sb *m.Sandbox, command []string, env map[string]string) error {
	h, err := sb.ExecStream(ctx, command[0], command[1:], append(f.execOptions(env), m.WithExecKeep())...)
	if err != nil {
		return err
	}
	id, err := h.ID()
	if err != nil {
		return errors.Join(err, h.Close())
	}
	c.say(id)
	return h.Detach(ctx)
}
