package guest

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
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
	kills   chan killRequest  // likewise
	ends    chan endRequest   // likewise
	signals chan os.Signal    // from the runtime; SIGCHLD wakes the loop
	bound   processBound
}

// A startRequest asks the loop to start a command.
type startRequest struct {
	path  string
	args  []string
	attr  *syscall.ProcAttr
	reply chan startReply // with room for one
}

// A startReply is the loop's answer.
type startReply struct {
	process *process
	err     error
}

// newReaper starts the reaper's goroutine, which lives as long as the process.
// It returns prepare's error.
func newReaper(prepare func() error, bound processBound) (*reaper, error) {
	// Whatever process 1 was started with, its commands get the standard files.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("keep descriptors from commands: %w", err)
	}
	r := &reaper{starts: make(chan startRequest), kills: make(chan killRequest), ends: make(chan endRequest), signals: make(chan os.Signal, 1), bound: bound}
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
func (r *reaper) start(path string, args []string, attr *syscall.ProcAttr) (*process, error) {
	request := startRequest{path: path, args: args, attr: attr, reply: make(chan startReply, 1)}
	r.starts <- request
	reply := <-request.reply
	return reply.process, reply.err
}

// A killRequest asks the loop to send a signal to a command's process group. Only
// the loop knows that its number isn't another's yet.
type killRequest struct {
	process *process
	signal  unix.Signal
	reply   chan error // with room for one
}

// An endRequest asks the loop to send a signal to every process.
type endRequest struct {
	signal unix.Signal
	gone   chan struct{} // closed by the loop when there is no process any more
}

// lastMoments bounds how long processes that were killed are waited for: one
// that sleeps in the kernel ends with the machine.
const lastMoments = time.Second

// shutdown ends every process, and returns when there is none any more.
func (r *reaper) shutdown(grace time.Duration) {
	for _, step := range []struct {
		signal unix.Signal
		time   time.Duration
	}{{unix.SIGTERM, grace}, {unix.SIGKILL, lastMoments}} {
		request := endRequest{signal: step.signal, gone: make(chan struct{})}
		r.ends <- request
		t := time.NewTimer(step.time)
		select {
		case <-request.gone:
			t.Stop()
			return
		case <-t.C:
		}
	}
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
	var waiting []chan struct{} // of endRequests; closed when nothing runs
	for {
		select {
		case request := <-r.starts:
			p, err := r.startProcess(request.path, request.args, request.attr)
			if err == nil {
				running[p.pid] = p
			}
			request.reply <- startReply{p, err}
		case request := <-r.kills:
			err := os.ErrProcessDone
			if running[request.process.pid] == request.process {
				err = unix.Kill(-request.process.pid, request.signal)
			}
			request.reply <- err
		case request := <-r.ends:
			signalAll(running, request.signal)
			waiting = append(waiting, request.gone)
			waiting = reapAll(running, waiting)
		case <-r.signals:
			waiting = reapAll(running, waiting)
		}
	}
}

// signalAll sends a signal to every process of the guest; where the agent isn't
// its process 1, to those that it started.
func signalAll(running map[int]*process, signal unix.Signal) {
	if os.Getpid() == 1 {
		_ = unix.Kill(-1, signal) // an error says that there is none
		_ = unix.Kill(-1, unix.SIGCONT)
		return
	}
	for pid := range running {
		_ = unix.Kill(-pid, signal)
	}
}

// startProcess starts a program.
func (r *reaper) startProcess(path string, args []string, attr *syscall.ProcAttr) (*process, error) {
	pid := 0
	err := r.bound.within(func() (err error) {
		pid, err = syscall.ForkExec(path, args, attr)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &process{reaper: r, pid: pid, done: make(chan struct{})}, nil
}

// reapAll reaps the children that have ended; one SIGCHLD may stand for many.
// When none is left it tells who waits for that. It returns who waits still.
func reapAll(running map[int]*process, waiting []chan struct{}) []chan struct{} {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			for _, gone := range waiting {
				close(gone)
			}
			return nil
		case err != nil || pid <= 0:
			return waiting
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
	reaper *reaper
	pid    int
	exit   Exit          // valid once done is closed
	done   chan struct{} // closed by the reaper when it has reaped the process
}

// Signal sends n to the command's process group.
func (p *process) Signal(n int) error {
	if closed(p.done) {
		return os.ErrProcessDone
	}
	request := killRequest{process: p, signal: unix.Signal(n), reply: make(chan error, 1)}
	p.reaper.kills <- request
	return <-request.reply
}

// Wait waits for the command's end.
func (p *process) Wait() Exit {
	<-p.done
	return p.exit
}
