package namespace

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/internal/ends"
	"github.com/sluicenet/sluice/vnet/link"
)

// A vm is a running guest.
type vm struct {
	ends.Ends
	ends.End // once process 1 was reaped, before whom the kernel reaps all others of the guest

	cmd     *exec.Cmd
	control *net.UnixConn // the lifeline: process 1 ends when it is closed
	files   bool          // hv.Config.Files has what the guest writes; valid once it has started
}

// run starts process 1 and waits for its end. It keeps its thread until then:
// Pdeathsig follows the thread that forked, not the process.
func (v *vm) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := v.cmd.Start()
	started <- err
	if err != nil {
		v.SetEnd(hv.Exit{}) // there never was one
		return
	}
	// The files are *os.File, so Wait waits for no copying of theirs. How it
	// ended is in ProcessState.
	_ = v.cmd.Wait()
	exit := hv.Exit{Code: v.cmd.ProcessState.ExitCode()}
	if status := v.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		exit.Signal = int(status.Signal())
	}
	v.SetEnd(exit)
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
			v.PutNIC(files[0], link.TAP)
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

// Kill kills process 1 and with it, by the kernel's rule for PID namespaces,
// every process of the guest.
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
	v.control.Close() // a second time, an error that says nothing
	v.CloseEnds()
	return err
}
