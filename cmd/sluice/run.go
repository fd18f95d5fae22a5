package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	m "github.com/sluicenet/sluice/sdk"
)

// runFlags are the flags of sluice run.
type runFlags struct {
	network networkFlags

	name       string
	backend    string
	rootfs     string
	workdir    string
	hostname   string
	env        []string
	cpus       uint8
	memory     uint32
	events     string
	summary    string
	failOnDeny bool
	quiet      bool
	verbose    bool
}

func newRun(c *console) *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] [IMAGE] -- COMMAND [ARG…]",
		Short: "Run a command in a sandbox of its own",
		Long: `Run a command in a sandbox of its own, which ends with it.

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
			code, err := f.run(cmd, c, args)
			if code == 0 && err == nil {
				return nil
			}
			return &exitError{code: code, err: err}
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return &exitError{code: codeRun, err: fmt.Errorf("%w; sluice run --help shows the flags", err)}
	})
	flags := cmd.Flags()
	flags.SortFlags = false
	f.network.register(flags)
	flags.StringVar(&f.name, "name", "", "`NAME` of the sandbox (default: one made up)")
	flags.StringVar(&f.backend, "backend", "", "hypervisor: auto, or a `NAME` that sluice doctor lists (default $SLUICE_BACKEND)")
	flags.StringVar(&f.rootfs, "rootfs", "", "`DIR` that becomes the root")
	flags.StringVarP(&f.workdir, "workdir", "w", "", "`DIR` to start in; . is this one")
	flags.StringVar(&f.hostname, "hostname", "", "the guest's own `NAME` (default: the sandbox's)")
	flags.StringArrayVarP(&f.env, "env", "e", nil, "`VAR`=VALUE, or VAR for this shell's value; repeatable")
	flags.Uint8VarP(&f.cpus, "cpus", "c", 0, "`N` processors")
	flags.Uint32VarP(&f.memory, "memory", "m", 0, "memory in `MiB`")
	flags.StringVar(&f.events, "events", "", "`FILE` for the events, as JSON lines; - is standard output")
	flags.StringVar(&f.summary, "summary", "", "print a summary of all flows at the end; `FORMAT` is text, md or json")
	flags.Lookup("summary").NoOptDefVal = "text"
	flags.BoolVar(&f.failOnDeny, "fail-on-deny", false, "exit with 77 if the command succeeded but something was denied")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "print errors only")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "print the sandbox's remarks, and each flow")
	return cmd
}

// run does what the flags say and returns the exit code.
func (f *runFlags) run(cmd *cobra.Command, c *console, args []string) (int, error) {
	c.quiet = f.quiet
	opts, command, err := f.options(cmd, args)
	if err != nil {
		return codeRun, err
	}
	w, err := newWatcher(c, f)
	if err != nil {
		return codeRun, err
	}
	opts = append(opts, m.WithEvents(w.event), m.WithStdio(c.in, c.out, c.err))
	code, denied, err := f.attach(cmd.Context(), opts, command)
	err = errors.Join(err, w.close())
	if err == nil && code == 0 && f.failOnDeny && denied > 0 {
		return codeDenied, nil
	}
	return code, err
}

// attach creates the sandbox, runs the command in it and returns its exit code
// and how much was denied. When it returns nothing of the sandbox is left, and
// the watcher has had every event.
func (f *runFlags) attach(ctx context.Context, opts []m.SandboxOption, command []string) (code int, denied uint64, err error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)

	name := f.name
	if name == "" {
		name = fmt.Sprintf("run-%08x", rand.Uint32())
	}
	sb, sig, err := createInterruptibly(ctx, name, opts, signals)
	if sig != nil {
		return 128 + int(sig.(syscall.Signal)), 0, err
	}
	if err != nil {
		return codeRun, 0, err
	}
	passed := make(chan os.Signal, cap(signals))
	stop := passSignals(sb, signals, passed)
	code, err = sb.AttachWith(ctx, command[0], command[1:], m.WithAttachSignals(passed))
	stop()
	if err == nil {
		awaitEnd(ctx, sb)
	}
	code, err = commandError(code, err)
	err = errors.Join(err, sb.Close())
	end, endErr := sb.WaitUntilStopped(ctx) // it has
	if endErr != nil {
		return code, 0, errors.Join(err, endErr)
	}
	return code, end.Denied, err
}

// endTime bounds how long the guest may take to end after its command.
const endTime = 2 * time.Second

// awaitEnd waits until the guest, whose command has ended, has ended too, so that
// its last bytes are on their way and in the record.
func awaitEnd(ctx context.Context, sb *m.Sandbox) {
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	_, _ = sb.WaitUntilStopped(ctx) // Close follows in any case
}

// createInterruptibly is CreateSandbox, but a signal ends it; the signal is
// returned.
func createInterruptibly(ctx context.Context, name string, opts []m.SandboxOption, signals <-chan os.Signal) (*m.Sandbox, os.Signal, error) {
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
	sb, err := m.CreateSandbox(ctx, name, opts...)
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
func (f *runFlags) options(cmd *cobra.Command, args []string) ([]m.SandboxOption, []string, error) {
	image, command, err := splitArgs(args, cmd.ArgsLenAtDash())
	if err != nil {
		return nil, nil, err
	}
	if image == "" && f.rootfs == "" && f.backend != "namespace" && os.Getenv("SLUICE_BACKEND") != "namespace" {
		return nil, nil, errors.New("a guest with a kernel of its own needs an IMAGE or --rootfs; --backend namespace runs the command on this host's files")
	}
	switch f.summary {
	case "", "text", "md", "json":
	default:
		return nil, nil, fmt.Errorf("--summary %q: want text, md or json", f.summary)
	}
	network, err := f.network.config()
	if err != nil {
		return nil, nil, err
	}
	env, err := environment(f.env)
	if err != nil {
		return nil, nil, err
	}
	workdir := f.workdir
	if strings.HasPrefix(workdir, ".") {
		if workdir, err = filepath.Abs(workdir); err != nil {
			return nil, nil, fmt.Errorf("--workdir %s: %w", f.workdir, err)
		}
	}
	return []m.SandboxOption{
		m.WithImage(image),
		m.WithBackend(f.backend),
		m.WithBindRootfs(f.rootfs),
		m.WithWorkdir(workdir),
		m.WithHostname(f.hostname),
		m.WithEnv(env),
		m.WithCPUs(f.cpus),
		m.WithMemory(f.memory),
		m.WithNetwork(network),
		f.network.ports(),
	}, command, nil
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
		return "", nil, fmt.Errorf("%q: one image at most; the command stands behind --", before[1])
	case len(command) == 0:
		return "", nil, errors.New("there is no command; write it behind --")
	case len(before) == 1:
		image = before[0]
	}
	return image, command, nil
}

// environment reads the values of --env, and passes on what programs need to
// know about a terminal.
func environment(entries []string) (map[string]string, error) {
	env := make(map[string]string)
	if term, ok := os.LookupEnv("TERM"); ok {
		env["TERM"] = term
	}
	for _, entry := range entries {
		name, value, given := strings.Cut(entry, "=")
		if name == "" {
			return nil, fmt.Errorf("--env %q: want NAME=VALUE or NAME", entry)
		}
		if !given {
			var ok bool
			if value, ok = os.LookupEnv(name); !ok {
				return nil, fmt.Errorf("--env %s: is not set in this shell; write %s=VALUE", name, name)
			}
		}
		env[name] = value
	}
	return env, nil
}
