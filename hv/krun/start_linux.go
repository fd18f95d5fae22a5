package krun

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/internal/ends"
	"github.com/sluicenet/sluice/vnet/link"
)

// bootTimeout bounds the time from the start of a VM until its agent serves. With
// KVM that takes less than a second. Where KVM is another hypervisor's imitation
// everything succeeds and the guest hangs, burning a processor.
const bootTimeout = 20 * time.Second

// Start starts a guest and waits until its agent serves. See hv.Hypervisor.
func (h *Hypervisor) Start(ctx context.Context, cfg hv.Config) (hv.VM, error) {
	v, err := h.start(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("start krun guest: %w", err)
	}
	return v, nil
}

func (h *Hypervisor) start(ctx context.Context, cfg hv.Config) (*vm, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := newSpec(cfg)
	if err != nil {
		return nil, err
	}
	if s.Kernel != "" {
		if s.KernelFormat, err = kernelFormat(s.Kernel); err != nil {
			return nil, err
		}
	}
	if err := h.checkHost(); err != nil {
		return nil, err
	}
	agent, err := h.agent(ctx)
	if err != nil {
		return nil, fmt.Errorf("find the guest's agent: %w", err)
	}
	v, err := launch(cfg)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { v.Kill() })
	err = v.boot(h.searched(), agent, s)
	if !stop() {
		err = cmp.Or(ctx.Err(), err)
	}
	if err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

// searched returns where libkrun is looked for.
func (h *Hypervisor) searched() []string {
	if h.libraries != nil {
		return h.libraries
	}
	return candidates(os.Getenv)
}

// checkHost finds out whether a VM could run at all, without starting one: its
// errors are better than libkrun's.
func (h *Hypervisor) checkHost() error {
	if !builtWithCgo {
		return errNoCgo
	}
	f, err := os.OpenFile(h.kvm, os.O_RDWR, 0)
	switch {
	case err == nil:
		f.Close()
		return nil
	case errors.Is(err, fs.ErrPermission):
		return &libraryError{err.Error(), "sudo usermod -aG kvm $USER, then log in again"}
	case errors.Is(err, fs.ErrNotExist):
		return &libraryError{err.Error(), "switch virtualization on in the firmware, and load its module: sudo modprobe kvm_intel, or kvm_amd"}
	}
	return &libraryError{err.Error(), ""}
}

// launch starts the VM's process, which waits for its query. From here on the
// guest has a lifeline: it ends when the control socket does.
func launch(cfg hv.Config) (*vm, error) {
	v := &vm{End: ends.NewEnd(), sealed: make(chan struct{}, 1), ready: make(chan struct{}), log: cfg.Logger}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	var theirs closers
	p, err := v.plug(cfg, &theirs)
	if err == nil {
		v.cmd = command(cfg.Name, p)
		started := make(chan error, 1)
		go v.run(p, cfg.Console, started)
		if err = <-started; err != nil {
			<-v.Done()
			err = fmt.Errorf("execute the machine's process: %w", err)
		}
	}
	// Their ends must be theirs alone, or their death would not show.
	theirs.close()
	if err != nil {
		v.unplug()
		p.close()
		return nil, err
	}
	return v, nil
}

// closers are files to be closed together.
type closers []*os.File

func (c closers) close() {
	for _, f := range c {
		f.Close()
	}
}

// A plugged is what a VM's process is started with, and our ends of what is read
// from it.
type plugged struct {
	log     *os.File   // the process's standard output and error
	files   []*os.File // descriptors 3 and up
	console *os.File   // the terminal that is the guest's console: our end
	journal *os.File   // what comes out of log
}

// close closes our ends; it is for the case that nobody reads them.
func (p plugged) close() {
	for _, f := range []*os.File{p.console, p.journal} {
		if f != nil {
			f.Close()
		}
	}
}

// plug makes the sockets between v and its process. The process's ends are added
// to theirs, also where it fails.
func (v *vm) plug(cfg hv.Config, theirs *closers) (p plugged, err error) {
	var end *os.File
	add := func() {
		*theirs = append(*theirs, end)
		p.files = append(p.files, end)
	}
	// SEQPACKET keeps messages apart, and tells of the other end's death.
	if v.control, end, err = socketpair(unix.SOCK_SEQPACKET); err != nil {
		return p, err
	}
	add()
	agent, end, err := socketpair(unix.SOCK_STREAM)
	if err != nil {
		return p, err
	}
	v.PutAgent(agent)
	add()
	if v.status, end, err = socketpair(unix.SOCK_STREAM); err != nil {
		return p, err
	}
	add()
	// krun_add_console_port_tty takes nothing but a terminal (-ENOTTY).
	if p.console, end, err = openTerminal(); err != nil {
		return p, err
	}
	add()
	if cfg.NIC != nil {
		// A stream, and not datagrams: on Linux libkrun loses a slot of its ring for
		// good whenever a datagram finds no room.
		var nic *os.File
		if nic, end, err = link.Pair(link.Stream); err != nil {
			return p, err
		}
		v.PutNIC(nic, link.Stream)
		add()
	}
	p.journal, p.log, err = os.Pipe()
	if err == nil {
		*theirs = append(*theirs, p.log)
	}
	return p, err
}

// command returns the command that becomes a VM.
func command(name string, p plugged) *exec.Cmd {
	// libkrun names the process after HOSTNAME. Nothing else of the caller's
	// environment is the machine's business, but where libraries are.
	env := []string{"HOSTNAME=" + name}
	if path, ok := os.LookupEnv("LD_LIBRARY_PATH"); ok {
		env = append(env, "LD_LIBRARY_PATH="+path)
	}
	return &exec.Cmd{
		Path:       "/proc/self/exe",
		Args:       []string{Role, name},
		Env:        env,
		Dir:        "/",
		Stdout:     p.log,
		Stderr:     p.log,
		ExtraFiles: p.files,
		SysProcAttr: &unix.SysProcAttr{
			Setsid:    true,         // Ctrl-C is for the host's process
			Pdeathsig: unix.SIGTERM, // see dieOfSignal
		},
	}
}
