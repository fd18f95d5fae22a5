package guest

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ttyGroup is the group of terminals, by which programs of others write to them
// (write(1)), in every distribution.
const ttyGroup = 5

// openTerminal opens a terminal for who. The first file is the end that shows
// what is written and types; the second is the command's.
func openTerminal(tty *TTY, who identity) (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	master = os.NewFile(uintptr(fd), "terminal")
	defer func() {
		if err != nil {
			master.Close()
		}
	}()
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("unlock terminal: %w", err)
	}
	// By the master, and not by a path of /dev/pts, which may be another's.
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY)
	if errno != 0 {
		return nil, nil, fmt.Errorf("open terminal: %w", errno)
	}
	slave = os.NewFile(peer, "terminal")
	if err := resizeTerminal(slave, tty.Rows, tty.Cols); err != nil {
		slave.Close()
		return nil, nil, err
	}
	if !who.inherited {
		if err := errors.Join(slave.Chown(int(who.uid), ttyGroup), slave.Chmod(0o620)); err != nil {
			slave.Close()
			return nil, nil, fmt.Errorf("give terminal to user %d: %w", who.uid, err)
		}
	}
	return master, slave, nil
}

// resizeTerminal sets the size of the terminal that file is an end of, whose
// foreground processes get SIGWINCH.
func resizeTerminal(file *os.File, rows, cols uint16) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	if err == nil && failed != nil {
		err = fmt.Errorf("resize terminal: %w", failed)
	}
	return err
}

// typed is a terminal as what is typed into it.
type typed struct{ *os.File }

// Close types what ends the input where it is read by the line, Ctrl-D. The
// terminal stays: it shows what is written.
func (t typed) Close() error {
	raw, err := t.SyscallConn()
	if err != nil {
		return err
	}
	var settings *unix.Termios
	var failed error
	if err := raw.Control(func(fd uintptr) { settings, failed = unix.IoctlGetTermios(int(fd), unix.TCGETS) }); err != nil {
		return err
	}
	if failed != nil || settings.Lflag&unix.ICANON == 0 {
		return failed
	}
	_, err = t.Write([]byte{settings.Cc[unix.VEOF]})
	return err
}
