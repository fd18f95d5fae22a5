package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	m "github.com/sluicenet/sluice/sdk"
)

// runFlags are the flags of sluice run.
type runFlags struct {
	network networkFlags
	inspect interceptionFlags
	guest   guestFlags

	detach      bool
	interactive bool
	terminal    bool
	events      string
	summary     string
	failOnDeny  bool
	verbose     bool
}

func newRun(c *console) *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] [IMAGE] [-- COMMAND [ARG…]]",
		Short: "Run a command in a sandbox of its own",
		Long: `Run a command in a sandbox of its own, which ends with it. Without a command it
is the image's own. With -d the sandbox stays until sluice stop.

With --backend namespace and neither IMAGE nor --rootfs the command sees the
host's files read-only, with a private /tmp: only its network is another.

Without network flags the policy is public-only. --allow without --network or
--policy denies everything else. Each denial is one line on standard error at
once, with the flag that would allow it, and one in the summary at the end.

The exit code is the command's, 128 and the signal's number if a signal ended
it, 125 if sluice failed, 126 if the command can't be run, 127 if there is none,
77 with --fail-on-deny if the command succeeded but something was denied.`,
		Example: `  sluice run --backend namespace -- curl https://example.com
  sluice run --backend namespace --allow api.example.com:443 -- ./install.sh
  sluice run --backend namespace --policy ci.yaml --fail-on-deny -- make test`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return exit(f.run(cmd, c, args))
		},
		ValidArgsFunction: completeRun,
	}
	setRunErrors(cmd)
	flags := cmd.Flags()
	f.network.register(flags)
	f.inspect.register(flags)
	f.guest.register(flags)
	flagGroup(flags, "The command, and what is told of it", f.register)
	return cmd
}

func (f *runFlags) register(flags *pflag.FlagSet) {
	flags.BoolVarP(&f.detach, "detach", "d", false, "let the sandbox and the command go on, and print the sandbox's name")
	flags.BoolVarP(&f.interactive, "interactive", "i", false, "as always: standard input is passed on")
	flags.BoolVarP(&f.terminal, "tty", "t", false, "fail unless the command gets this terminal, as it does where there is one")
	flags.StringVar(&f.events, "events", "", "`FILE` for the events, as JSON lines; - is standard output")
	flags.StringVar(&f.summary, "summary", "", "print a summary of all flows at the end; `FORMAT` is text, md or json")
	flags.Lookup("summary").NoOptDefVal = "text"
	flags.BoolVar(&f.failOnDeny, "fail-on-deny", false, "exit with 77 if the command succeeded but something was denied")
	flags.BoolVar(&f.verbose, "verbose", false, "print the sandbox's remarks, and each flow")
}

// run does what the flags say and returns the exit code.
func (f *runFlags) run(cmd *cobra.Command, c *console, args []string) (int, error) {
	opts, command, err := f.options(cmd, c, args)
	if err != nil {
		return codeRun, err
	}
	if f.detach {
		return f.start(cmd.Context(), c, opts, command)
	}
	w, err := newWatcher(c, f)
	if err != nil {
		return codeRun, err
	}
	opts = append(opts, m.WithEvents(w.event, w.types()...), m.WithStdio(c.in, c.out, c.err))
	code, end, err := f.attach(cmd.Context(), c, opts, command)
	if m.IsKind(err, m.ErrSandboxNotRunning) || m.IsKind(err, m.ErrSecretViolation) {
		code, err = w.ended(end, code, err)
	}
	err = errors.Join(err, w.close(end))
	if err == nil && code == 0 && f.failOnDeny && end != nil && end.Denied > 0 {
		return codeDenied, nil
	}
	return code, err
}

// sandboxName returns the name that the sandbox is to have.
func (f *runFlags) sandboxName() string {
	if f.guest.name != "" {
		return f.guest.name
	}
	return fmt.Sprintf("run-%08x", rand.Uint32())
}

// unnamed returns err without a sandbox's name that its user never chose.
func (f *runFlags) unnamed(err error) error {
	var failure *m.Error
	if f.guest.name != "" || f.detach || !errors.As(err, &failure) {
		return err
	}
	plain := *failure
	plain.Op = ""
	return &plain
}

// start creates the sandbox, starts the command in it and leaves both alone.
func (f *runFlags) start(ctx context.Context, c *console, opts []m.SandboxOption, command []string) (int, error) {
	signals, stop := caughtSignals()
	defer stop()
	name := f.sandboxName()
	sb, sig, err := createInterruptibly(ctx, c, name, opts, signals)
	if sig != nil {
		return 128 + int(sig.(syscall.Signal)), err
	}
	if err != nil {
		return codeRun, err
	}
	if err := startIn(ctx, sb, command); err != nil {
		code, err := commandError(codeRun, err)
		return code, errors.Join(err, sb.Kill(ctx), sb.Close())
	}
	c.say(name)
	return 0, sb.Close()
}

// startIn starts a command, or the default one, and lets it go.
func startIn(ctx context.Context, sb *m.Sandbox, command []string) error {
	var h *m.ExecHandle
	var err error
	if len(command) == 0 {
		h, err = sb.ExecDefaultStream(ctx, m.WithExecKeep())
	} else {
		h, err = sb.ExecStream(ctx, command[0], command[1:], m.WithExecKeep())
	}
	if err != nil {
		return err
	}
	return h.Detach(ctx)
}

// attach creates the sandbox, runs the command in it and returns its exit code
// and the sandbox's end, nil if it never began. When it returns nothing of the
// sandbox runs, and the watcher has had every event.
func (f *runFlags) attach(ctx context.Context, c *console, opts []m.SandboxOption, command []string) (code int, end *m.SandboxStopResult, err error) {
	signals, stopSignals := caughtSignals()
	defer stopSignals()
	sb, sig, err := createInterruptibly(ctx, c, f.sandboxName(), opts, signals)
	if sig != nil {
		return 128 + int(sig.(syscall.Signal)), nil, err
	}
	if err != nil {
		return codeRun, nil, f.unnamed(err)
	}
	passed := make(chan os.Signal, cap(signals))
	stop := passSignals(sb, signals, passed)
	if len(command) == 0 {
		code, err = sb.AttachDefault(ctx, m.WithAttachSignals(passed))
	} else {
		code, err = sb.AttachWith(ctx, command[0], command[1:], m.WithAttachSignals(passed))
	}
	stop()
	code, err = commandError(code, f.unnamed(err))
	end, endErr := endSandbox(ctx, sb)
	return code, end, errors.Join(err, endErr)
}

// endSandbox ends a sandbox whose command has ended, with what that left running,
// and returns how it ended.
func endSandbox(ctx context.Context, sb *m.Sandbox) (*m.SandboxStopResult, error) {
	err := sb.Stop(ctx, m.WithStopTimeout(0))
	end, endErr := sb.WaitUntilStopped(ctx) // it has
	return end, errors.Join(err, endErr, sb.Close())
}

// createInterruptibly is CreateSandbox, but it tells how that goes, and a signal
// ends it; the signal is returned.
func createInterruptibly(ctx context.Context, c *console, name string, opts []m.SandboxOption, signals <-chan os.Signal) (*m.Sandbox, os.Signal, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	got := make(chan os.Signal, 1)
	done := make(chan struct{})
	go func() {
		defer close(got)
		select {
		case s := <-signals:
			got <- s
			cancel()
		case <-done:
		}
	}()
	p := newProgress(c)
	p.awaitStart()
	sb, err := m.CreateSandbox(ctx, name, append(opts, m.WithPullProgress(p.step))...)
	p.end()
	close(done)
	sig, ok := <-got
	if !ok {
		return sb, nil, err
	}
	if err == nil {
		err = sb.Close()
	}
	return nil, sig, err
}

// patience is how many interrupts a command may ignore.
const patience = 3

// passSignals passes signals on, and kills the sandbox when the user has
// interrupted it more often than patience allows. The function it returns ends
// that.
func passSignals(sb *m.Sandbox, signals <-chan os.Signal, passed chan<- os.Signal) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		interrupts := 0
		for {
			select {
			case <-done:
				return
			case s := <-signals:
				if s == os.Interrupt || s == syscall.SIGTERM {
					interrupts++
				}
				if interrupts >= patience {
					ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
					_ = sb.Kill(ctx) // Close follows, and reports
					cancel()
					return
				}
				select {
				case passed <- s:
				default: // eight are on their way
				}
			}
		}
	}()
	return func() { close(done); <-ended }
}

// commandError returns the exit code of a command that didn't run, else code.
func commandError(code int, err error) (int, error) {
	var failure *m.ExecFailure
	switch {
	case errors.As(err, &failure):
		code = failure.Code
	case err != nil:
		code = codeRun
	}
	return code, err
}

// options returns what the flags and arguments ask for.
func (f *runFlags) options(cmd *cobra.Command, c *console, args []string) ([]m.SandboxOption, []string, error) {
	image, command, err := splitArgs(args, cmd.ArgsLenAtDash())
	if err != nil {
		return nil, nil, err
	}
	if err := f.check(c, image, command); err != nil {
		return nil, nil, err
	}
	network, err := f.network.config()
	if err != nil {
		return nil, nil, err
	}
	if err := f.inspect.apply(network); err != nil {
		return nil, nil, err
	}
	secrets, err := f.inspect.option()
	if err != nil {
		return nil, nil, err
	}
	opts, err := f.guest.options(image, f.detach)
	if err != nil {
		return nil, nil, err
	}
	return append(opts, m.WithNetwork(network), f.network.hosts(), m.WithPortBindings(f.network.publish...), secrets), command, nil
}

// check reports flags that don't go together.
func (f *runFlags) check(c *console, image string, command []string) error {
	backend := cmp.Or(f.guest.backend, os.Getenv("SLUICE_BACKEND"))
	needsImage := slices.Contains([]string{"", "auto", "krun", "qemu", "vz"}, backend)
	switch {
	case needsImage && image == "" && f.guest.rootfs == "":
		return errors.New("a guest with a kernel of its own needs an IMAGE or --rootfs; --backend namespace runs the command on this host's files")
	case f.summary == "text" && slices.Contains([]string{"text", "md", "json"}, image):
		return fmt.Errorf("%q: is no image; write --summary=%s", image, image)
	case image == "" && len(command) == 0:
		return errors.New("there is no command; write it behind --")
	case f.detach && (f.events != "" || f.summary != "" || f.failOnDeny):
		return errors.New("--events, --summary and --fail-on-deny are for a command that is waited for; with -d see sluice events and sluice flows")
	case f.terminal && !(isTerminal(c.in) && isTerminal(c.out)):
		return errNoTerminal
	}
	switch f.summary {
	case "", "text", "md", "json":
		return nil
	}
	return fmt.Errorf("--summary %q: want text, md or json", f.summary)
}

// splitArgs parts arguments into the image, if there is one, and the command.
// dash is how many stand before --, negative if there is none.
func splitArgs(args []string, dash int) (image string, command []string, err error) {
	if dash < 0 {
		dash = len(args)
	}
	before, command := args[:dash], args[dash:]
	switch {
	case len(before) > 1:
		return "", nil, fmt.Errorf("%q: there is one IMAGE at most; write -- before the command", before[1])
	case len(before) == 1:
		image = before[0]
	}
	return image, command, nil
}
