package namespace

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/internal/ends"
)

// namespaces are those of a guest. Time is not among them: its clocks are the
// host's.
const namespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
	unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

var _ hv.Hypervisor = (*Hypervisor)(nil)

// Start starts a guest. See hv.Hypervisor.
func (h *Hypervisor) Start(ctx context.Context, cfg hv.Config) (hv.VM, error) {
	s, err := h.setup(cfg)
	if err != nil {
		return nil, fmt.Errorf("start namespace guest: %w", err)
	}
	v, err := h.start(ctx, cfg, s)
	if err != nil && ctx.Err() == nil {
		err = host{tun: s.Tun, uid: os.Geteuid()}.explain(err)
	}
	if err != nil {
		return nil, fmt.Errorf("start namespace guest: %w", err)
	}
	return v, nil
}

// start starts process 1 and makes a guest of it.
func (h *Hypervisor) start(ctx context.Context, cfg hv.Config, s setup) (*vm, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if cfg.CPUs != 0 {
		log.Warn("a namespace does not limit processors", "asked", cfg.CPUs)
	}
	v, err := h.launch(cfg)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { v.Kill() })
	err = v.handshake(chooseIDs(cfg.Root != ""), s, log)
	if !stop() {
		err = cmp.Or(ctx.Err(), err)
	}
	if err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

// setup checks cfg and returns what process 1 is told, apart from what the ids
// decide. Its errors are the caller's mistakes, and not the host's.
func (h *Hypervisor) setup(cfg hv.Config) (setup, error) {
	s := setup{Processes: h.processes(), ScratchMiB: cfg.MemoryMiB, Hide: append(hiddenDirectories(), cfg.Hide...), Terminal: terminal(cfg.Stdio)}
	if cfg.Kernel != "" || cfg.Initrd != "" {
		return setup{}, fmt.Errorf("a namespace has the host's kernel, and can't boot another: %w", errors.ErrUnsupported)
	}
	for _, path := range s.Hide {
		if !filepath.IsAbs(path) {
			return setup{}, fmt.Errorf("path to hide %q is not absolute", path)
		}
	}
	if cfg.Root != "" {
		root, err := filepath.Abs(cfg.Root)
		if err != nil {
			return setup{}, err
		}
		// Process 1 sees the host's tree below a directory of its own, where an
		// absolute link would lead elsewhere.
		if root, err = filepath.EvalSymlinks(root); err != nil {
			return setup{}, fmt.Errorf("root %q: %w", cfg.Root, err)
		}
		if info, err := os.Stat(root); err != nil || !info.IsDir() {
			return setup{}, fmt.Errorf("root %q is not a directory", cfg.Root)
		}
		s.Root = root
	}
	var err error
	if s.Files, err = keptFiles(cfg); err != nil {
		return setup{}, err
	}
	if s.Mounts, err = mountSetups(cfg.Mounts); err != nil {
		return setup{}, err
	}
	if cfg.NIC != nil {
		s.Tun, s.MAC, s.MTU = h.tun, cfg.NIC.MAC, cmp.Or(int(cfg.NIC.MTU), 1500)
	}
	return s, nil
}

// hiddenDirectories returns the places outside the temporary ones where this
// user's sockets and sluice's state are. The state has other sandboxes' logs,
// events and policies; a directory that doesn't exist does no harm here.
func hiddenDirectories() []string {
	var dirs []string
	add := func(dir string, below ...string) {
		if filepath.IsAbs(dir) {
			dirs = append(dirs, filepath.Join(append([]string{dir}, below...)...))
		}
	}
	add(os.Getenv("XDG_RUNTIME_DIR"))
	add(os.Getenv("SLUICE_HOME"))
	add(os.Getenv("XDG_STATE_HOME"), "sluice")
	if home, err := os.UserHomeDir(); err == nil {
		add(home, ".local/state/sluice")
	}
	return dirs
}

// terminal returns the path of the first terminal among the files; "" if
// there is none. One name is enough: the standard files of a command that a
// person runs are one terminal, or are no terminal.
func terminal(files [3]*os.File) string {
	for _, f := range files {
		if f == nil {
			continue
		}
		raw, err := f.SyscallConn()
		if err != nil {
			continue
		}
		// Through SyscallConn, since Fd would make a file that others poll
		// blocking.
		var path string
		err = raw.Control(func(fd uintptr) {
			if _, err := unix.IoctlGetTermios(int(fd), unix.TCGETS); err == nil {
				path, _ = os.Readlink("/proc/self/fd/" + strconv.Itoa(int(fd)))
			}
		})
		if err == nil && filepath.IsAbs(path) {
			return path
		}
	}
	return ""
}

// launch starts process 1, which waits for its ids and its setup. From here on
// the guest has a lifeline: it ends when the control socket does.
func (h *Hypervisor) launch(cfg hv.Config) (*vm, error) {
	executable, err := h.sealedExecutable()
	if err != nil {
		return nil, err
	}
	control, controlEnd, err := socketpair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	agent, agentEnd, err := socketpair(unix.SOCK_STREAM)
	if err != nil {
		control.Close()
		controlEnd.Close()
		return nil, err
	}
	v := &vm{End: ends.NewEnd(), control: control, cmd: command(executable, cfg, controlEnd, agentEnd)}
	v.PutAgent(agent)
	started := make(chan error, 1)
	go v.run(started)
	err = <-started
	// The guest's ends must be the guest's alone, or its death would not show.
	controlEnd.Close()
	agentEnd.Close()
	if err != nil {
		<-v.Done()
		control.Close()
		v.CloseEnds()
		return nil, fmt.Errorf("execute process 1: %w", err)
	}
	return v, nil
}

// environment is process 1's: the runtime would keep files of the host's cgroup
// open to follow the number of processors.
const environment = "GODEBUG=containermaxprocs=0,updatemaxprocs=0"

// command returns the command that becomes process 1.
func command(executable *os.File, cfg hv.Config, files ...*os.File) *exec.Cmd {
	cmd := &exec.Cmd{
		Path:       fmt.Sprintf("/proc/self/fd/%d", executable.Fd()),
		Args:       []string{Role, cfg.Name},
		Env:        []string{environment}, // the host's has secrets
		Dir:        "/",
		ExtraFiles: files,
		SysProcAttr: &unix.SysProcAttr{
			Cloneflags: namespaces,
			// Ctrl-C is for the host's process, which passes it on as a signal.
			Setsid:    true,
			Pdeathsig: unix.SIGKILL,
			// Its ids are not mapped yet, so that exec would drop its
			// capabilities in the new namespace, unless they are ambient.
			AmbientCaps: allCapabilities(),
		},
	}
	// A nil *os.File in cmd's interfaces would not be nil.
	if f := cfg.Stdio[0]; f != nil {
		cmd.Stdin = f
	}
	if f := cfg.Stdio[1]; f != nil {
		cmd.Stdout = f
	}
	if f := cfg.Stdio[2]; f != nil {
		cmd.Stderr = f
	}
	return cmd
}
