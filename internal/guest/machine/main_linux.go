package machine

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/guest"
)

// Main is process 1 of a virtual machine: call it where os.Args[0] is Role,
// before anything else runs. It does not return; the machine ends with it.
func Main() {
	if os.Getpid() != 1 {
		fmt.Fprintf(os.Stderr, "sluice: %s is not a program to start by hand\n", Role)
		os.Exit(guest.CodeRefused)
	}
	var s Setup
	status, err := live(&s, uptime())
	code := guest.CodeRefused
	if err != nil {
		// The console is the last resort: the port may not be there.
		fmt.Fprintf(os.Stderr, "sluice: %v\n", err)
		if status != nil {
			_, _ = status.WriteString(failedLine(err))
		}
	} else {
		code = 0
	}
	if status != nil {
		_, _ = status.WriteString(exitLine(code))
	}
	end(s.Off)
}

// live is the life of process 1, as s says once it is read. It returns the status
// port, nil if there is none yet, and why the machine ended before its time.
func live(s *Setup, started time.Duration) (status *os.File, err error) {
	if err := mountKernel(); err != nil {
		return nil, err
	}
	devices, err := watchDevices()
	if err != nil {
		return nil, err
	}
	defer devices.Close()
	if err := loadModules(ModulesDir); err != nil {
		return nil, err
	}
	setup, setupErr := readSetup()
	*s = setup
	if status, err = openHost(setup, devices, StatusPort); err != nil {
		return nil, errors.Join(setupErr, err)
	}
	if setupErr != nil {
		return status, setupErr
	}
	if err := becomeRoot(setup, devices); err != nil {
		return status, err
	}
	if err := guest.TuneKernel(); err != nil {
		return status, fmt.Errorf("tune kernel: %w", err)
	}
	agent, err := openHost(setup, devices, AgentPort)
	if err != nil {
		return status, err
	}
	defer agent.Close()
	sys, err := guest.NewSystem(nil)
	if err != nil {
		return status, err
	}
	// An error means that the host has gone; then nobody listens to the agent.
	if _, err := status.WriteString(readyLine(started, uptime()-started)); err != nil {
		return status, fmt.Errorf("tell the host: %w", err)
	}
	return status, guest.Serve(agent, sys)
}

// readSetup returns what the machine was told.
func readSetup() (Setup, error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return Setup{}, err
	}
	return parseSetup(string(line))
}

// becomeRoot makes the image's files the machine's.
func becomeRoot(s Setup, devices *deviceWatch) error {
	if err := mountRoot(s, devices); err != nil {
		return err
	}
	if err := enterRoot(); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if err := mountConveniences(); err != nil {
		return err
	}
	if err := mountMemory(s.Memory); err != nil {
		return err
	}
	return raiseLimits()
}

// uptime returns how long the kernel has run.
func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// raiseLimits gives commands the limits that they have under systemd; the
// kernel's own hard limit on files, 4096, is too low for servers.
func raiseLimits() error {
	files := unix.Rlimit{Cur: 1024, Max: 512 << 10}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("raise limit on files: %w", err)
	}
	return nil
}

// end writes back what is in memory and ends the machine: by a reset, since every
// machine has one (see the package's doc), or by switching it off.
func end(off bool) {
	unix.Sync()
	how := unix.LINUX_REBOOT_CMD_RESTART
	if off {
		how = unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	err := unix.Reboot(how)
	fmt.Fprintf(os.Stderr, "sluice: reset: %v\n", err)
	// The kernel panics when process 1 ends, and resets the machine then.
	os.Exit(guest.CodeRefused)
}

// errNoDevice is why a wait for a device ended.
var errNoDevice = errors.New("the machine has no such device")
