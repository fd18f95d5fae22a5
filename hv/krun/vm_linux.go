package krun

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/internal/ends"
	"github.com/sluicenet/sluice/hv/internal/tail"
	"github.com/sluicenet/sluice/internal/guest/machine"
)

// A vm is a running guest.
type vm struct {
	ends.Ends
	ends.End // set by run when the process has ended and all that it said is read

	cmd     *exec.Cmd
	control *net.UnixConn // the lifeline: the process ends when it is closed
	log     *slog.Logger
	console tail.Tail // the last that the guest's kernel printed
	journal tail.Tail // the last that libkrun logged

	readers sync.WaitGroup // goroutines that read what the process and the guest tell
	sealed  chan struct{}  // gets one value from hear, when the process is sealed
	ready   chan struct{}  // closed by follow when the agent serves

	mu     sync.Mutex     // guards the following fields
	status net.Conn       // what process 1 of the guest tells; closed by unplug
	told   machine.Status // what process 1 has told
	late   error          // what the VM's process reported after it was ready
	dir    string         // the VM's directory, removed at its end; "" before there is one
	door   *listener      // where the guest connects by vsock; nil where it doesn't
	ended  bool           // the process has; nothing may be made for it any more
}

var _ hv.VM = (*vm)(nil)

// run starts the process and waits for its end. It keeps its thread until then:
// Pdeathsig follows the thread that forked, not the process.
func (v *vm) run(p plugged, console io.Writer, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var exit hv.Exit
	defer func() { v.SetEnd(exit) }()
	err := v.cmd.Start()
	if err == nil {
		v.readers.Go(func() { copyLog(v.log, p.journal, &v.journal) })
		v.readers.Go(func() { v.console.Drain(p.console, console) })
	}
	started <- err
	if err != nil {
		return
	}
	// The files are *os.File, so Wait waits for no copying of theirs. How it
	// ended is in ProcessState.
	_ = v.cmd.Wait()
	v.mu.Lock()
	v.ended = true // before readers are waited for: read adds none any more
	if v.door != nil {
		v.door.Close() // nobody will come
	}
	v.mu.Unlock()
	// What it said is in sockets and pipes still, and all of it counts: the exit code is
	// process 1's last word.
	v.readers.Wait()
	p.close()
	v.mu.Lock()
	defer v.mu.Unlock()
	exit = exitOf(v.cmd.ProcessState, v.told)
	os.RemoveAll(v.dir)
}

// exitOf returns how a guest ended: as its process 1 told, else as libkrun's process
// did. That ends with 0 when the guest resets itself, as its kernel does when it
// panics: without a word of process 1's it is no success.
func exitOf(state *os.ProcessState, told machine.Status) hv.Exit {
	status := state.Sys().(syscall.WaitStatus)
	switch {
	case told.Exited:
		return hv.Exit{Code: told.Exit}
	case status.Signaled():
		return hv.Exit{Code: -1, Signal: int(status.Signal())}
	case status.ExitStatus() == 0:
		return hv.Exit{Code: refused}
	}
	return hv.Exit{Code: status.ExitStatus()}
}

// boot takes the process from its query to an agent that serves.
func (v *vm) boot(libraries []string, agent string, s spec) error {
	o, err := v.ask(libraries)
	if err != nil {
		return err
	}
	if err := o.fits(s); err != nil {
		return err
	}
	v.log.Debug("libkrun", "path", o.Path, "port", o.Port, "read_only", o.ReadOnly)
	if s.Dir, err = v.makeDir(); err != nil {
		return err
	}
	if err := makeBoot(s.boot(), agent); err != nil {
		return err
	}
	if !o.Port {
		if err := v.listen(s.Dir); err != nil {
			return err
		}
		s.Vsock = v.door.paths
		s.setup.Vsock = vsockPort
		s.tell(s.setup)
	}
	if err := send(v.control, s); err != nil {
		return v.explain(err)
	}
	if _, err := v.report(); err != nil {
		return err
	}
	v.read(v.hear)
	if v.door != nil {
		if err := v.meet(); err != nil {
			return err
		}
		// Until now only our process 1 has run in the guest.
		if err := send(v.control, order{Seal: true}); err != nil {
			return v.explain(err)
		}
		if err := v.await(v.sealed, "was sealed", "isn't sealed"); err != nil {
			return err
		}
	}
	v.read(v.follow)
	return v.await(v.ready, "served", "doesn't serve")
}

// read starts a goroutine that reads what the process tells, and ends with it. If
// the process has ended all is there, and it is read at once.
func (v *vm) read(f func()) {
	v.mu.Lock()
	if !v.ended {
		v.readers.Go(f)
		v.mu.Unlock()
		return
	}
	v.mu.Unlock()
	f()
}

// ask sends the query and returns the process's offer.
func (v *vm) ask(libraries []string) (offer, error) {
	if err := send(v.control, query{Libraries: libraries}); err != nil {
		return offer{}, v.explain(err)
	}
	r, err := v.report()
	if err != nil {
		return offer{}, err
	}
	if r.Offer == nil {
		return offer{}, errors.New("the machine's process makes no offer")
	}
	return *r.Offer, nil
}

// report receives the process's next message; a failure is an error.
func (v *vm) report() (report, error) {
	var r report
	if err := receive(v.control, &r); err != nil {
		return r, v.explain(err)
	}
	if r.Failure != nil {
		return r, r.Failure.err()
	}
	return r, nil
}

// explain adds to an error of the control socket why the process at its other end
// is gone.
func (v *vm) explain(err error) error {
	v.Kill()
	<-v.Done()
	if line := v.journal.Last(1); line != "" {
		return fmt.Errorf("the machine's process ended (%v): %s", v.cmd.ProcessState, line)
	}
	return fmt.Errorf("the machine's process ended (%v): %w", v.cmd.ProcessState, err)
}

// hear reads what the process has to say after it was ready: that it is sealed, or
// that libkrun gave up.
func (v *vm) hear() {
	for {
		var r report
		if err := receive(v.control, &r); err != nil {
			return // the process has ended
		}
		if r.Sealed {
			select {
			case v.sealed <- struct{}{}:
			default: // said again, by who knows whom
			}
		}
		if r.Failure == nil {
			continue
		}
		err := r.Failure.err()
		v.log.Error("the virtual machine could not run", "error", err)
		v.mu.Lock()
		v.late = err
		v.mu.Unlock()
		return
	}
}

// follow reads what the guest's process 1 tells, until the end.
func (v *vm) follow() {
	var ready sync.Once
	err := machine.Follow(v.status, func(s machine.Status) {
		v.mu.Lock()
		v.told = s
		v.mu.Unlock()
		if s.Ready {
			ready.Do(func() {
				v.log.Debug("the guest is up", "kernel", s.Kernel, "setup", s.Setup)
				close(v.ready)
			})
		}
	})
	if err != nil {
		v.log.Warn("the guest's status is of no use any more", "error", err)
		v.Kill() // it isn't our process 1 that runs there
	}
}

// await waits for what the agent needs; before and missing say what it is.
func (v *vm) await(event <-chan struct{}, before, missing string) error {
	timer := time.NewTimer(bootTimeout)
	defer timer.Stop()
	select {
	case <-event:
		return nil
	case <-v.Done():
		return v.bootError("the virtual machine ended before its agent " + before)
	case <-timer.C:
		v.Kill()
		<-v.Done()
		return v.bootError(fmt.Sprintf("the virtual machine's agent %s after %v", missing, bootTimeout))
	}
}

// meanings are those of the exit codes of libkrun's own init.
var meanings = map[int]string{
	125: "libkrun's init could not set the machine up",
	126: "libkrun's init could not execute the agent",
	127: "libkrun's init did not find the agent",
}

// A bootError says that a guest was started and its agent didn't come to serve.
type bootError struct {
	what string
	told machine.Status
	why  error // of the VM's process; nil if it gave none
}

func (e *bootError) Error() string { return e.what }
func (e *bootError) Unwrap() error { return e.why }

// bootError returns an error with all that is known of why a guest, which has
// ended, didn't boot.
func (v *vm) bootError(what string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	e := &bootError{told: v.told, why: v.late}
	parts := []string{what}
	for _, part := range []string{v.told.Failure, meanings[v.cmd.ProcessState.ExitCode()]} {
		if part != "" && (v.late == nil || part == v.told.Failure) {
			parts = append(parts, part)
		}
	}
	if v.late != nil {
		parts = append(parts, v.late.Error())
	}
	if line := v.console.Last(1); line != "" {
		parts = append(parts, fmt.Sprintf("the console's last line is %q", line))
	}
	if line := v.journal.Last(1); line != "" {
		parts = append(parts, fmt.Sprintf("the log's is %q", line))
	}
	e.what = strings.Join(parts, "; ")
	return e
}

// makeDir makes the VM's directory, unless the VM has ended.
func (v *vm) makeDir() (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ended {
		return "", errEnded
	}
	dir, err := os.MkdirTemp("", "sluice-krun-")
	if err != nil {
		return "", fmt.Errorf("make the machine's directory: %w", err)
	}
	v.dir = dir
	return dir, nil
}

// errEnded is why nothing is made for a VM any more.
var errEnded = errors.New("the machine's process ended")

// Kill kills the VM's process, which the whole guest is part of.
func (v *vm) Kill() error {
	if err := v.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill guest: %w", err)
	}
	return nil
}

// Close ends the guest and closes what the caller didn't take.
func (v *vm) Close() error {
	err := v.Kill()
	<-v.Done()
	v.unplug()
	return err
}

// unplug closes our ends of what was not handed over. It is idempotent.
func (v *vm) unplug() {
	if v.control != nil {
		v.control.Close() // a second time, an error that says nothing
	}
	v.CloseEnds()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.status != nil {
		v.status.Close()
	}
	os.RemoveAll(v.dir) // a start that failed may have put something into it behind run
}
