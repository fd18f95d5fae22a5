//go:build unix

package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/internal/guest/kernel"
	"github.com/sluicenet/sluice/internal/guest/machine"
	"github.com/sluicenet/sluice/vnet/link"
)

var _ hv.Hypervisor = (*Hypervisor)(nil)

// Defaults of a guest's size. Half a gigabyte holds a language's runtime and what
// a root in memory takes; pages that the guest doesn't touch cost nothing.
const (
	defaultCPUs      = 1
	defaultMemoryMiB = 512
)

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
	if cfg.Stdio != [3]*os.File{} {
		return plan{}, fmt.Errorf("a machine's commands can't have the host's files as their standard ones: %w", errors.ErrUnsupported)
	}
	if len(cfg.Mounts) > 0 {
		return plan{}, fmt.Errorf("mounts in a machine, which has its own file systems only: %w", errors.ErrUnsupported)
	}
	var err error
	if p.setup, err = checkDisks(cfg); err != nil {
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

// checkDisks returns how a guest with these disks becomes what its image says.
func checkDisks(cfg hv.Config) (machine.Setup, error) {
	if cfg.Root != "" {
		return machine.Setup{}, fmt.Errorf("the root can't be a directory, %q, but a disk: %w", cfg.Root, errors.ErrUnsupported)
	}
	if len(cfg.Disks) == 0 || cfg.Disks[0].Format == hv.Raw {
		return machine.Setup{}, fmt.Errorf("a machine needs an image for its root: %w", errors.ErrUnsupported)
	}
	root := cfg.Disks[0]
	s := machine.Setup{Root: root.Format.String(), Writable: !root.ReadOnly && root.Format != hv.EROFS}
	if len(cfg.Disks) > 1 && !s.Writable && !cfg.Disks[1].ReadOnly && cfg.Disks[1].Format == hv.Ext4 {
		s.Upper = hv.Ext4.String()
	}
	return s, nil
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

// A missingError says what the host lacks. It is an errors.ErrUnsupported.
type missingError struct{ what, fix string }

func (e *missingError) Error() string        { return e.what }
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
	case errors.As(err, &failure) && ctx.Err() == nil:
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
		err = fmt.Errorf("the guest was not ready within %v; its console ends: %q", timeout, v.console.lastLines(2))
	case errors.Is(err, errEnded):
		said := cmp.Or(v.words.lastLines(2), v.console.lastLines(2), "nothing")
		err = fmt.Errorf("QEMU ended before the guest was ready, and said: %s", said)
	default: // the guest's own words: another accelerator would say the same
		return nil, err
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
		case <-v.done:
			return status, errEnded
		case <-ctx.Done():
			return status, ctx.Err()
		}
	}
}

// launch starts the supervisor, and by it QEMU.
func (h *Hypervisor) launch(p plan, accelerator string) (*vm, error) {
	var l launcher
	v, err := l.launch(h, p, accelerator)
	// QEMU's ends must be QEMU's alone, or its end would not show.
	for _, f := range l.guests {
		f.Close()
	}
	if err != nil {
		for _, f := range l.ours {
			f.Close()
		}
	}
	return v, err
}

// A launcher collects what a launch opens.
type launcher struct {
	guests []*os.File // QEMU's, from descriptor 3 on, then the supervisor's output
	ours   []interface{ Close() error }
}

// pass makes f one of QEMU's files and returns its number there.
func (l *launcher) pass(f *os.File) int {
	l.guests = append(l.guests, f)
	return 2 + len(l.guests)
}

// launch does it.
func (l *launcher) launch(h *Hypervisor, p plan, accelerator string) (*vm, error) {
	i := invocation{
		arch: h.cfg.Arch, accelerator: accelerator, sandbox: confinesItself, board: h.chooseBoard(p.kernel, accelerator),
		name: p.cfg.Name, cpus: cmp.Or(p.cfg.CPUs, defaultCPUs), memoryMiB: cmp.Or(p.cfg.MemoryMiB, defaultMemoryMiB),
	}
	v := &vm{changed: make(chan struct{}, 1), done: make(chan struct{}), console: output{also: p.cfg.Console}}
	var s streams
	var err error
	if v.agent, i.agent, err = l.stream(); err != nil {
		return nil, err
	}
	if s.status, i.status, err = l.stream(); err != nil {
		return nil, err
	}
	if p.cfg.NIC != nil {
		nic, guests, err := link.Pair(link.Stream)
		if err != nil {
			return nil, err
		}
		v.nic = nic
		l.ours = append(l.ours, nic)
		i.nic = &card{descriptor: l.pass(guests), mac: p.cfg.NIC.MAC, mtu: int(cmp.Or(p.cfg.NIC.MTU, 1500))}
	}
	if err := l.openBoot(&i, p); err != nil {
		return nil, err
	}
	if err := l.openDisks(&i, p.cfg.Disks); err != nil {
		return nil, err
	}
	if accelerator == tcg && i.arch == "amd64" {
		i.tscKHz = tscFrequencyKHz(p.begun)
	}
	i.words = append(append(i.words, i.kernelWords()...), p.setup.Words()...)
	return l.execute(v, s, p.program, i)
}

// chooseBoard returns the board for a kernel.
func (h *Hypervisor) chooseBoard(k kernel.Kernel, accelerator string) board {
	switch {
	case h.cfg.board != nil:
		return *h.cfg.board
	case h.cfg.Arch == "arm64" && k.Bundled:
		return virtBare
	case h.cfg.Arch == "arm64":
		return virt
	case k.Bundled:
		return microvmBare
	case k.Has(microvm.busModule()) && (accelerator != tcg || runtime.GOARCH == "amd64"):
		return microvm
	}
	// It has PCI, and the clocks that a kernel can measure a foreign host's
	// counter by.
	return q35
}

// stream returns our end of a new stream to the guest, and the number of its own.
func (l *launcher) stream() (net.Conn, int, error) {
	ours, guests, err := link.Pair(link.Stream)
	if err != nil {
		return nil, 0, err
	}
	n := l.pass(guests)
	defer ours.Close() // FileConn has its own
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, 0, err
	}
	l.ours = append(l.ours, conn)
	return conn, n, nil
}

// openBoot opens the kernel and what it starts from.
func (l *launcher) openBoot(i *invocation, p plan) error {
	image, err := p.kernel.Open()
	if err != nil {
		return err
	}
	i.kernel = l.pass(image)
	if p.cfg.Initrd != "" {
		initrd, err := os.Open(p.cfg.Initrd)
		if err != nil {
			return err
		}
		i.initrd = l.pass(initrd)
		return nil
	}
	if p.kernel.Bundled {
		disk, err := p.kernel.BootDisk(p.agent, machine.Role, machine.BootDirs()...)
		if err != nil {
			return err
		}
		i.disks = append(i.disks, drive{descriptor: l.pass(disk), name: "boot", readOnly: true})
		i.words = append(i.words, "root=/dev/vda", "ro", "rootfstype=ext4", "init="+machine.Role)
		return nil
	}
	needed, helpful := p.setup.Modules()
	initramfs, err := p.kernel.Initramfs(p.agent, machine.Role, machine.ModulesDir, append(needed, i.board.busModule()), helpful)
	if err != nil {
		return err
	}
	i.initrd = l.pass(initramfs)
	i.words = append(i.words, "rdinit="+machine.Role)
	return nil
}

// openDisks opens the guest's disks.
func (l *launcher) openDisks(i *invocation, disks []hv.Disk) error {
	for n, d := range disks {
		flags, name := os.O_RDONLY, fmt.Sprintf("disk%d", n)
		if !d.ReadOnly {
			flags = os.O_RDWR
		}
		switch n {
		case 0:
			name = machine.RootDisk
		case 1:
			name = machine.UpperDisk
		}
		f, err := os.OpenFile(d.Path, flags, 0)
		if err != nil {
			return fmt.Errorf("open the guest's disk: %w", err)
		}
		i.disks = append(i.disks, drive{descriptor: l.pass(f), name: name, readOnly: d.ReadOnly})
	}
	return nil
}

// execute starts the supervisor with all that was opened.
func (l *launcher) execute(v *vm, s streams, program string, i invocation) (*vm, error) {
	files := len(l.guests)
	path, err := executable()
	if err != nil {
		return nil, err
	}
	ours, theirs, err := link.Pair(link.Stream)
	if err != nil {
		return nil, err
	}
	l.pass(theirs)
	v.lifeline, err = net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, err
	}
	l.ours = append(l.ours, v.lifeline)
	console, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	l.pass(out)
	l.ours = append(l.ours, console)
	words, errs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	l.pass(errs)
	l.ours = append(l.ours, words)
	s.console, s.words = console, words
	v.cmd = &exec.Cmd{
		Path: path, Args: append([]string{Role, strconv.Itoa(files), program}, i.args()...),
		Env: []string{}, // the host's has secrets
		Dir: "/", Stdout: out, Stderr: errs, SysProcAttr: inOwnSession(),
		ExtraFiles: append([]*os.File{theirs}, l.guests[:files]...),
	}
	started := make(chan error, 1)
	go v.run(s, started)
	if err := <-started; err != nil {
		<-v.done
		return nil, fmt.Errorf("execute the supervisor: %w", err)
	}
	return v, nil
}

// agent returns the path of the agent's executable.
func (h *Hypervisor) agent(ctx context.Context) (string, error) {
	if h.cfg.Agent != "" {
		return h.cfg.Agent, nil
	}
	return guest.Executable(ctx, h.cfg.Arch)
}
