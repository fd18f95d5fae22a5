//go:build unix

package qemu

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
)

// Main is a guest's supervisor: call it where os.Args[0] is Role, before anything
// else runs. It does not return.
//
// QEMU knows no descriptor whose end is its own, so its parent does. The arguments
// are the number of files that are QEMU's, QEMU, and QEMU's arguments; descriptor
// 3 is the lifeline, the files follow. The supervisor tells QEMU's process number
// on the lifeline, kills QEMU when that is closed, and ends as QEMU ends: with its
// code, or 128 and the number of the signal that ended it.
func Main() {
	code, err := supervise(os.Args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "sluice: %v\n", err)
	}
	os.Exit(code)
}

const (
	lifelineFD   = 3
	firstFileFD  = 4
	supervisorNo = 125 // the supervisor's own failures; QEMU's are 1
)

// supervise runs QEMU and returns the code to end with.
func supervise(args []string) (int, error) {
	lifeline := os.NewFile(lifelineFD, "lifeline")
	if len(args) < 3 || lifeline == nil {
		return supervisorNo, fmt.Errorf("%s is not a program to start by hand", Role)
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return supervisorNo, err
	}
	if err := keepInherited(firstFileFD + n); err != nil {
		return supervisorNo, err
	}
	cmd := exec.Command(args[2], args[3:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = []string{"LANG=C"}
	for i := range n {
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(firstFileFD+i), "file"))
	}
	// The second lifeline, of who kills the supervisor. It follows the thread
	// that forks, which is to last as long as the process.
	runtime.LockOSThread()
	cmd.SysProcAttr = dieWithParent()
	if err := cmd.Start(); err != nil {
		return supervisorNo, fmt.Errorf("execute QEMU: %w", err)
	}
	for _, f := range cmd.ExtraFiles {
		f.Close() // QEMU's alone: their end is to be its end
	}
	// Where the host has gone already, its end follows at once.
	_, _ = fmt.Fprintf(lifeline, "%d\n", cmd.Process.Pid)
	go killAtEnd(lifeline, cmd.Process)
	_ = cmd.Wait() // how it ended is in ProcessState
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// keepInherited keeps from QEMU the lifeline, and the descriptors from first on: a
// careless starter may have some that every child inherits.
func keepInherited(first int) error {
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && (fd == lifelineFD || fd >= first) {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

// killAtEnd kills p when r ends. It lasts until the process does.
func killAtEnd(r io.Reader, p *os.Process) {
	_, _ = io.Copy(io.Discard, r)
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		os.Exit(supervisorNo)
	}
}
