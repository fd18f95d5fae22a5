package guest

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A reaper starts commands and reaps every child of the process: as process 1
// it inherits all orphans. One goroutine does both, so that no child can be
// reaped before it is known.
//
// It takes every signal that would end a Go program: a guest's process may
// send process 1 any, and none is to end the guest but the host's SIGKILL.
type reaper struct {
	starts  chan startRequest // to the goroutine that runs loop
	signals chan os.Signal    // from the runtime; SIGCHLD wakes the loop
}

// A startRequest asks the loop to start a command.
type startRequest struct {
	path    string
	command Command
	reply   chan startReply // with room for one
}

// A startReply is the loop's answer.
type startReply struct {
	process *process
	err     error
}

// newReaper starts the reaper's goroutine, which lives as long as the process.
// It returns prepare's error.
func newReaper(prepare func() error) (*reaper, error) {
	// Whatever process 1 was started with, its commands get the standard files.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("keep descriptors from commands: %w", err)
	}
	r := &reaper{starts: make(chan startRequest), signals: make(chan os.Signal, 1)}
	// signal.Ignore would be inherited by commands; a caught signal is not.
	signal.Notify(r.signals, unix.SIGCHLD)
	signal.Notify(make(chan os.Signal, 1)) // all, and nobody reads them
	if err := restoreLibrarySignals(); err != nil {
		return nil, fmt.Errorf("restore signals: %w", err)
	}
	prepared := make(chan error, 1)
	go r.loop(prepare, prepared)
	return r, <-prepared
}

// restoreLibrarySignals gives the signals that C libraries use among themselves
// (32 to 34, nptl(7)) their default action. The Go runtime never touches them, so
// commands would inherit that whoever started us ignores one.
func restoreLibrarySignals() error {
	var byDefault [4]uint64 // the kernel's struct sigaction: handler SIG_DFL, no flags
	for number := uintptr(32); number <= 34; number++ {
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, number, uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
		if errno != 0 {
			return errno
		}
	}
	return nil
}

// start starts the program at path.
func (r *reaper) start(path string, c Command) (*process, error) {
	request := startRequest{path: path, command: c, reply: make(chan startReply, 1)}
	r.starts <- request
	reply := <-request.reply
	return reply.process, reply.err
}

// loop starts and reaps. It owns its thread, which prepare has changed.
func (r *reaper) loop(prepare func() error, prepared chan<- error) {
	runtime.LockOSThread()
	if prepare != nil {
		if err := prepare(); err != nil {
			prepared <- err
			return
		}
	}
	prepared <- nil
	running := make(map[int]*process)
	for {
		select {
		case request := <-r.starts:
			p, err := startProcess(request.path, request.command)
			if err == nil {
				running[p.pid] = p
			}
			request.reply <- startReply{p, err}
		case <-r.signals:
			reapAll(running)
		}
	}
}

// startProcess starts a command as the leader of a session of its own: signals
// reach all that it starts, and it has no way to push bytes into a terminal of
// the host's that its files may be.
func startProcess(path string, c Command) (*process, error) {
	pid, err := syscall.ForkExec(path, c.Args, &syscall.ProcAttr{
		Dir:   c.dir(),
		Env:   c.Env,
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, err
	}
	return &process{pid: pid, done: make(chan struct{})}, nil
}

// reapAll reaps the children that have ended. One SIGCHLD may stand for many.
func reapAll(running map[int]*process) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if p := running[pid]; p != nil {
			delete(running, pid)
			p.exit = Exit{Code: status.ExitStatus()}
			if status.Signaled() {
				p.exit = Exit{Code: -1, Signal: int(status.Signal())}
			}
			close(p.done)
		}
	}
}

// A process is a command that the reaper started.
type process struct {
	pid  int
	exit Exit          // valid once done is closed
	done chan struct{} // closed by the reaper when it has reaped the process
}

// Signal sends n to the command's process group.
func (p *process) Signal(n int) error {
	select {
	case <-p.done: // the number may be another's by now
		return os.ErrProcessDone
	default:
		return unix.Kill(-p.pid, unix.Signal(n))
	}
}

// Wait waits for the command's end.
func (p *process) Wait() Exit {
	<-p.done
	return p.exit
}
