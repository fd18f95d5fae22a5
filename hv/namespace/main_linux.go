package namespace

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/guest"
)

// Descriptors that process 1 is started with, behind its standard files.
const (
	controlFD = 3
	agentFD   = 4
)

// Main is process 1 of a guest: call it where os.Args[0] is Role, before
// anything else runs. It does not return. The process's exit code is 0 when the
// host asked for the guest's end, and 125 when the host went away, or the guest
// never was.
func Main() {
	control, err := unixConn(controlFD)
	if err != nil || os.Getpid() != 1 {
		fmt.Fprintf(os.Stderr, "sluice: %s is not a program to start by hand\n", Role)
		os.Exit(guest.CodeRefused)
	}
	if err := live(control); err != nil {
		os.Exit(guest.CodeRefused)
	}
	os.Exit(0)
}

// live is the life of process 1. Errors go to the host by the control socket;
// the standard files are the commands', and stay clean.
func live(control *net.UnixConn) error {
	sys, tap, err := become(control)
	if err != nil {
		r := report{Error: err.Error()}
		if errors.As(err, &r.Errno) {
			// The host wraps the number again, and prints its text once.
			r.Error = strings.TrimSuffix(r.Error, ": "+r.Errno.Error())
		}
		return errors.Join(err, sendControl(control, r))
	}
	var card []*os.File
	if tap != nil {
		card = append(card, tap)
	}
	if err := sendControl(control, report{}, card...); err != nil {
		return err
	}
	closeFiles(card) // the host's from here on
	if sys == nil {
		return nil // it was no guest that was wanted
	}
	agent, err := unixConn(agentFD)
	if err != nil {
		return err
	}
	go dieWithHost(control) // ends with the process
	return guest.Serve(agent, sys)
}

// become makes the process the guest's process 1 that the host describes. Each
// step takes away something that the steps before still needed.
func become(control *net.UnixConn) (guest.System, *os.File, error) {
	if err := closeInherited(agentFD); err != nil {
		return nil, nil, err
	}
	var s setup
	trees, err := receiveControl(control, &s)
	if err != nil {
		return nil, nil, fmt.Errorf("read setup: %w", err)
	}
	// While the process is still the host's caller; see tunDevice.
	var tap *os.File
	if s.Tun != "" {
		if tap, err = tunDevice(s.Tun); err != nil {
			return nil, nil, err
		}
	}
	if err := becomeRoot(s.Groups); err != nil {
		return nil, nil, err
	}
	if s.Remove != "" {
		return nil, nil, os.RemoveAll(s.Remove)
	}
	tell := func(r report) error { return sendControl(control, r) }
	if err := enterRoot(s, trees, tell); err != nil {
		return nil, nil, err
	}
	// The card comes after the defaults that it takes over.
	if err := guest.TuneKernel(); err != nil {
		return nil, nil, fmt.Errorf("tune kernel: %w", err)
	}
	if tap != nil {
		if err := makeTAP(tap, s.MAC, s.MTU); err != nil {
			return nil, nil, err
		}
	}
	if err := boundProcesses(s.Processes); err != nil {
		return nil, nil, err
	}
	if err := sealRoot(s.Root == ""); err != nil {
		return nil, nil, err
	}
	sys, err := confine(s.Processes)
	return sys, tap, err
}

// dieWithHost ends the process, and so the guest, when the host's end of the
// control socket is closed: by Close, or by the host's death.
func dieWithHost(control *net.UnixConn) {
	for {
		if _, err := control.Read(make([]byte, 1)); err != nil {
			os.Exit(guest.CodeRefused)
		}
	}
}

// closeInherited closes the descriptors above last that came through exec: a
// host may have some without close-on-exec. Those are the ones without the
// flag here too; the runtime's own have it. It keeps last from commands.
func closeInherited(last int) error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= last {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	unix.CloseOnExec(last)
	return nil
}

// becomeRoot makes the process user and group 0 of its namespace, whose ids
// the host has mapped by now.
func becomeRoot(groups bool) error {
	if groups {
		if err := syscall.Setgroups(nil); err != nil {
			return fmt.Errorf("drop groups: %w", err)
		}
	}
	if err := syscall.Setresgid(0, 0, 0); err != nil {
		return fmt.Errorf("become group 0: %w", err)
	}
	if err := syscall.Setresuid(0, 0, 0); err != nil {
		return fmt.Errorf("become user 0: %w", err)
	}
	// A change of ids clears it. It is for the case that the host's end of the
	// control socket outlives the host, in a child that it leaked to.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("die with the host: %w", err)
	}
	return nil
}
