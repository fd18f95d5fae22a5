//go:build unix

package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"runtime"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/internal/guest/kernel"
	"github.com/sluicenet/sluice/internal/guest/machine"
)

var _ hv.Hypervisor = (*Hypervisor)(nil)

// Defaults of a guest's size. Half a gigabyte holds a language's runtime and what
// a root in memory takes; pages that the guest doesn't touch cost nothing.
const (
	defaultCPUs      = 1
	defaultMemoryMiB = 512
)

// probeMemoryMiB is enough for any kernel to be ready.
const probeMemoryMiB = 256

// Start starts a guest, with the first accelerator that works. See
// hv.Hypervisor.
func (h *Hypervisor) Start(ctx context.Context, cfg hv.Config) (hv.VM, error) {
	v, err := h.start(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("start qemu guest: %w", err)
	}
	return v, nil
}

func (h *Hypervisor) start(ctx context.Context, cfg hv.Config) (*vm, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.CPUs, cfg.MemoryMiB = cmp.Or(cfg.CPUs, defaultCPUs), cmp.Or(cfg.MemoryMiB, defaultMemoryMiB)
	p, err := h.prepare(ctx, cfg)
	if err != nil {
		return nil, err
	}
	var failures []error
	for _, accelerator := range h.cfg.Accelerators {
		v, err := h.try(ctx, p, accelerator)
		if err == nil {
			return v, nil
		}
		var failure *acceleratorError
		if ctx.Err() != nil || !errors.As(err, &failure) {
			return nil, err
		}
		cfg.Logger.Warn("an accelerator does not work", "accelerator", accelerator, "why", failure.cause)
		failures = append(failures, err)
	}
	if len(failures) == 0 {
		return nil, &acceleratorError{name: "none", cause: errors.New("no accelerator is allowed"), fix: "set " + acceleratorsVariable}
	}
	return nil, errors.Join(failures...)
}

// A plan is a guest before its accelerator is chosen.
type plan struct {
	cfg     hv.Config
	program string // QEMU's path
	agent   string // the agent's path
	kernel  kernel.Kernel
	setup   machine.Setup
	begun   tscSample // when the preparation began
}

// prepare checks cfg and finds what the guest needs.
func (h *Hypervisor) prepare(ctx context.Context, cfg hv.Config) (plan, error) {
	p := plan{cfg: cfg, begun: sampleTSC()}
	if cfg.Root != "" {
		return plan{}, fmt.Errorf("the root can't be a directory, %q, but a disk: %w", cfg.Root, errors.ErrUnsupported)
	}
	var err error
	if p.setup, err = machine.SetupOf(cfg); err != nil {
		return plan{}, err
	}
	if p.program, err = h.program(); err != nil {
		return plan{}, err
	}
	if p.kernel, err = h.kernel(cfg.Kernel); err != nil {
		return plan{}, err
	}
	if cfg.Initrd == "" {
		if p.agent, err = h.agent(ctx); err != nil {
			return plan{}, fmt.Errorf("find the agent for the guest: %w", err)
		}
	}
	return p, nil
}

// ordinary reports whether the accelerator is to blame if the guest is never ready,
// and not what the caller asked for: too little memory, too many processors, an initrd
// of their own.
func (p plan) ordinary() bool {
	return p.cfg.MemoryMiB >= probeMemoryMiB && int(p.cfg.CPUs) <= runtime.NumCPU() && p.cfg.Initrd == ""
}

// programs are QEMU's names, by the guests' processor.
var programs = map[string]string{"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}

// packages are what has them, in Debian.
var packages = map[string]string{"amd64": "qemu-system-x86", "arm64": "qemu-system-arm"}

// program returns QEMU's path.
func (h *Hypervisor) program() (string, error) {
	name := cmp.Or(h.cfg.Program, programs[h.cfg.Arch])
	if name == "" {
		return "", fmt.Errorf("there is no support for guests on %s: %w", h.cfg.Arch, errors.ErrUnsupported)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", &missingError{what: name + " is not installed", fix: "sudo apt-get install " + packages[h.cfg.Arch] + ", or brew install qemu"}
	}
	return path, nil
}

// kernel returns the guest's kernel: the one at path, unless that is empty.
func (h *Hypervisor) kernel(path string) (kernel.Kernel, error) {
	return kernel.Find(kernel.Query{Path: cmp.Or(path, h.cfg.Kernel), Arch: h.cfg.Arch, Foreign: h.foreign()})
}

// agent returns the path of the agent's executable.
func (h *Hypervisor) agent(ctx context.Context) (string, error) {
	if h.cfg.Agent != "" {
		return h.cfg.Agent, nil
	}
	return guest.Executable(ctx, h.cfg.Arch)
}

// A missingError says what the host lacks. It is an errors.ErrUnsupported.
type missingError struct{ what, fix string }

func (e *missingError) Error() string        { return e.what }
func (e *missingError) Help() string         { return e.fix }
func (e *missingError) Is(target error) bool { return target == errors.ErrUnsupported }

// try boots a guest with an accelerator. An *acceleratorError is that one's fault;
// another may do better.
func (h *Hypervisor) try(ctx context.Context, p plan, accelerator string) (*vm, error) {
	if err := h.usable(accelerator); err != nil {
		return nil, err
	}
	key := h.memoryKey(p.program, p.kernel.Path, accelerator)
	known := h.recall(key, time.Now())
	if known.Why != "" {
		return nil, &acceleratorError{name: accelerator, cause: fmt.Errorf("%s (tried before; %s remembers)", known.Why, h.cfg.Memory)}
	}
	v, err := h.boot(ctx, p, accelerator)
	var failure *acceleratorError
	switch {
	case err == nil && !known.Works:
		h.remember(key, memory{Works: true, When: time.Now()})
	case errors.As(err, &failure) && ctx.Err() == nil && p.ordinary():
		h.remember(key, memory{Why: failure.cause.Error(), When: time.Now()})
	}
	return v, err
}

// boot starts QEMU and waits until the guest is ready.
func (h *Hypervisor) boot(ctx context.Context, p plan, accelerator string) (*vm, error) {
	begun := time.Now()
	v, err := h.launch(p, accelerator)
	if err != nil {
		return nil, err
	}
	launched := time.Since(begun)
	timeout := h.bootTimeout(accelerator)
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	status, err := v.awaitReady(bounded)
	if err == nil {
		total := time.Since(begun)
		p.cfg.Logger.Info("guest is ready", "accelerator", accelerator, "kernel", cmp.Or(p.kernel.Version, p.kernel.Path),
			"launch", launched, "firmware", total-launched-status.Kernel-status.Setup, "boot", status.Kernel, "agent", status.Setup, "total", total)
		return v, nil
	}
	v.Close() // and so the console has been read to its end
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("the guest was not ready within %v; its console ends: %q", timeout, v.console.Last(2))
	case errors.Is(err, errEnded):
		said := cmp.Or(v.words.Last(2), v.console.Last(2), "nothing")
		err = fmt.Errorf("QEMU ended before the guest was ready, and said: %s", said)
	default: // the guest's own words: another accelerator would say the same
		return nil, err
	}
	if p.cfg.MemoryMiB < probeMemoryMiB {
		err = fmt.Errorf("%w (its %d MiB of memory may be too little; %d are enough for a kernel)", err, p.cfg.MemoryMiB, probeMemoryMiB)
	}
	if present := runtime.NumCPU(); int(p.cfg.CPUs) > present {
		err = fmt.Errorf("%w (its %d processors may be too many; the host has %d)", err, p.cfg.CPUs, present)
	}
	return nil, &acceleratorError{name: accelerator, cause: err}
}

// errEnded: QEMU has ended before its time.
var errEnded = errors.New("QEMU ended")

// awaitReady waits for the guest's process 1.
func (v *vm) awaitReady(ctx context.Context) (machine.Status, error) {
	for {
		v.mu.Lock()
		status := v.status
		v.mu.Unlock()
		switch {
		case status.Failure != "":
			return status, fmt.Errorf("the guest says: %s", status.Failure)
		case status.Ready:
			return status, nil
		}
		select {
		case <-v.changed:
		case <-v.Done():
			return status, errEnded
		case <-ctx.Done():
			return status, ctx.Err()
		}
	}
}
