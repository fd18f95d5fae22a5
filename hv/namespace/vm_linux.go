package namespace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/vnet/link"
)

// A vm is a running guest.
type vm struct {
	cmd     *exec.Cmd
	control *net.UnixConn // the lifeline: process 1 ends when it is closed
	files   bool          // hv.Config.Files has what the guest writes; valid once it has started

	mu    sync.Mutex    // guards the following fields
	agent *net.UnixConn // nil once it is the caller's, or closed
	nic   *os.File      // nil without a card, once it is the caller's, or closed

	done chan struct{} // closed by run when process 1 has ended and was reaped
	exit hv.Exit       // valid once done is closed
}

// run starts process 1 and waits for its end. It keeps its thread until then:
// Pdeathsig follows the thread that forked, not the process.
func (v *vm) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(v.done)
	err := v.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	// The files are *os.File, so Wait waits for no copying of theirs. How it
	// ended is in ProcessState.
	_ = v.cmd.Wait()
	v.exit = hv.Exit{Code: v.cmd.ProcessState.ExitCode()}
	if status := v.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		v.exit.Signal = int(status.Signal())
	}
}

// handshake gives process 1 its ids and its setup, and waits until it is ready
// for its agent's host.
func (v *vm) handshake(ids idMaps, s setup, log *slog.Logger) error {
	s.Groups, v.files = !ids.single, s.Files != ""
	if err := prepareFiles(s.Files, ids); err != nil {
		return err
	}
	if err := ids.write(v.cmd.Process.Pid); err != nil {
		return err
	}
	// Both need the user namespace, which is the process's, and must be there
	// before process 1 becomes anybody: the setup is its sign to go on.
	var trees []*os.File
	if ids.privileged {
		var err error
		trees, err = shiftedTrees(&s, v.cmd.Process.Pid, log)
		defer closeFiles(trees)
		if err != nil {
			return err
		}
	}
	if err := sendControl(v.control, s, trees...); err != nil {
		return fmt.Errorf("send setup: %w", err)
	}
	for {
		var r report
		files, err := receiveControl(v.control, &r)
		if len(files) > 0 {
			v.mu.Lock()
			v.nic = files[0]
			v.mu.Unlock()
			closeFiles(files[1:])
		}
		switch {
		case err != nil:
			return fmt.Errorf("wait for process 1: %w", err)
		case r.Errno != 0:
			return fmt.Errorf("%s: %w", r.Error, r.Errno)
		case r.Error != "":
			return errors.New(r.Error)
		case r.Remark != "":
			log.Warn("not shown to the guest", "what", r.Remark)
			continue // ready, or another, is to follow
		case r.NotKept != "":
			log.Warn("what the guest writes to its root is not kept", "why", r.NotKept)
			v.files = false
			continue
		}
		return nil
	}
}

// KeepsFiles reports whether what the guest writes over its root is in
// hv.Config.Files: the file system there may not be able to have it.
func (v *vm) KeepsFiles() bool { return v.files }

// NIC returns the TAP. See hv.VM. The TAP outlives the guest while the file is
// open, and a read of it doesn't end then: close it when Wait returns.
func (v *vm) NIC() (*os.File, link.Format) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.nic == nil {
		return nil, 0
	}
	nic := v.nic
	v.nic = nil
	return nic, link.TAP
}

// Agent returns the agent's stream. See hv.VM.
func (v *vm) Agent() net.Conn {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.agent == nil {
		return nil // not a net.Conn that holds a nil pointer
	}
	agent := v.agent
	v.agent = nil
	return agent
}

// Kill kills process 1 and with it, by the kernel's rule for PID namespaces,
// every process of the guest.
func (v *vm) Kill() error {
	if err := v.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill guest: %w", err)
	}
	return nil
}

// Wait waits for the guest's end. When it returns no process of the guest is
// left: the kernel reaps them before process 1.
func (v *vm) Wait(ctx context.Context) (hv.Exit, error) {
	select { // an answer that is there is given, whatever ctx says
	case <-v.done:
		return v.exit, nil
	default:
	}
	select {
	case <-v.done:
		return v.exit, nil
	case <-ctx.Done():
		return hv.Exit{}, ctx.Err()
	}
}

// Close ends the guest and closes what the caller didn't take.
func (v *vm) Close() error {
	err := v.Kill()
	<-v.done
	v.control.Close() // a second time, an error that says nothing
	if agent := v.Agent(); agent != nil {
		agent.Close()
	}
	if nic, _ := v.NIC(); nic != nil {
		nic.Close()
	}
	return err
}
