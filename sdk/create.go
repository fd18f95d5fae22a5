package sdk

import (
	"context"
	"fmt"
	"os"

	"github.com/sluicenet/sluice"
	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/internal/sandbox"
)

// CreateSandbox starts a sandbox and returns when its guest is ready for
// commands. The name must be nobody's: not that of a sandbox that runs, or that
// has ended and was kept; WithReplace removes such a one first. ctx governs the
// creation only; the sandbox lives until it is stopped, or this program lets go of
// it, unless it is detached.
//
// The whole configuration is checked first. The error is an [*Error]: of kind
// ErrInvalidArgument, ErrInvalidConfig, ErrNetworkPolicy, ErrTLS or
// ErrPathNotFound for a configuration that is wrong, naming each problem;
// ErrUnsupportedOperation for what this version, backend or host can't do;
// ErrSandboxAlreadyExists; ErrImageNotFound or ErrImagePullFailed; ErrPatchFailed;
// ErrCancelled.
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
	dirs, err := userDirs()
	if err != nil {
		return nil, err
	}
	return launch(ctx, dirs, name, cfg, false)
}

// launch starts a sandbox from a sound configuration. again says that it has run
// before, and was kept.
func launch(ctx context.Context, dirs sandbox.Dirs, name string, cfg SandboxConfig, again bool) (*Sandbox, error) {
	if ctx.Err() != nil { // before anything is pulled, replaced or started
		return nil, control.Cause(ctx)
	}
	if cfg.Image != "" && !again {
		img, err := cfg.pull(ctx, dirs)
		if err != nil {
			return nil, err
		}
		// The cache keeps it until the sandbox's process holds it itself.
		defer img.Close()
		cfg.image = defaultsOf(img)
	}
	boots, err := cfg.pullKernel(ctx, dirs)
	if err != nil {
		return nil, err
	}
	if boots != nil {
		defer boots.Close() // it is read until the guest has started
	}
	if cfg.Replace { // now that little can fail any more
		timeout := defaultStopTimeout
		if cfg.ReplaceWithTimeout != nil {
			timeout = max(*cfg.ReplaceWithTimeout, 0)
		}
		if err := sandbox.Replace(ctx, dirs, name, timeout); err != nil {
			return nil, err
		}
	}
	raw, err := wireOf(&cfg)
	if err != nil {
		return nil, err
	}
	h, err := cfg.start(ctx, dirs, name, raw, again)
	if err != nil {
		return nil, err
	}
	return newSandbox(name, cfg, h, !cfg.Detached)
}

// start starts the sandbox's process, or the sandbox within this one.
func (c *SandboxConfig) start(ctx context.Context, dirs sandbox.Dirs, name string, raw []byte, again bool) (host, error) {
	var stdio [3]*os.File
	if c.stdio != nil {
		stdio = *c.stdio
	}
	if c.hypervisor == nil {
		return sandbox.StartProcess(ctx, sandbox.Launch{
			Dirs: dirs, Name: name, Again: again, Config: raw, Stdio: stdio, Executable: os.Getenv("SLUICE_EXECUTABLE"), Kernel: c.bootKernel,
		})
	}
	h, err := sandbox.Embed(ctx,
		control.Spec{Name: name, Home: dirs.Home, Runtime: dirs.Runtime, Config: raw, Again: again},
		sandbox.Options{Compile: compileJSON, Open: c.open, Stdio: stdio, Logger: c.logger})
	if err != nil {
		return nil, err
	}
	return embedded{h}, nil
}

// embedded is a sandbox in this process, which can't be detached from it.
type embedded struct{ *sandbox.Embedded }

// Detach implements host.
func (embedded) Detach(context.Context) error {
	return &Error{Kind: ErrUnsupportedOperation, Message: "with WithHypervisor the sandbox runs in this process, and ends with it"}
}

// open returns the hypervisor of WithHypervisor, whatever the name.
func (c *SandboxConfig) open(context.Context, string) (hv.Hypervisor, error) {
	return c.hypervisor, nil
}

// userDirs returns where this user's sandboxes are.
func userDirs() (sandbox.Dirs, error) {
	dirs, err := sandbox.UserDirs(os.Getenv)
	if err != nil {
		return dirs, &Error{Kind: ErrIO, Message: err.Error(), Hint: "set SLUICE_HOME"}
	}
	return dirs, nil
}

// StartSandbox starts a sandbox again that has ended and was kept, with its
// configuration and what was written to its root, and returns when its guest is
// ready. A namespace that shows the host's files has none of its own to keep.
// The sandbox ends with Close and with this program, however it was created.
//
// The error has kind ErrSandboxNotFound if there is none, ErrSandboxStillRunning
// if it runs, and ErrInvalidConfig if it has secrets, whose values are kept
// nowhere.
func StartSandbox(ctx context.Context, name string) (*Sandbox, error) {
	return startAgain(ctx, name, false)
}

// StartSandboxDetached is StartSandbox, but the sandbox outlives this program.
func StartSandboxDetached(ctx context.Context, name string) (*Sandbox, error) {
	return startAgain(ctx, name, true)
}

func startAgain(ctx context.Context, name string, detached bool) (*Sandbox, error) {
	sb, err := startKept(ctx, name, detached)
	if err != nil {
		return nil, withOp(fmt.Sprintf("start sandbox %q", name), err)
	}
	return sb, nil
}

func startKept(ctx context.Context, name string, detached bool) (*Sandbox, error) {
	h, err := find(name)
	if err != nil {
		return nil, err
	}
	if h.found.Running() {
		return nil, &Error{Kind: ErrSandboxStillRunning, Message: "it runs", Hint: "stop it, or connect to it"}
	}
	cfg, err := h.config()
	if err != nil {
		return nil, err
	}
	if len(cfg.Secrets) > 0 {
		return nil, &Error{Kind: ErrInvalidConfig, Message: "it has secrets, whose values are kept nowhere", Hint: "create it anew, with WithReplace"}
	}
	keep := false
	cfg.Detached, cfg.Ephemeral = detached, &keep
	return launch(ctx, h.dirs, name, cfg, true)
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
