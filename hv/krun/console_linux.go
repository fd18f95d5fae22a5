package krun

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openTerminal returns the two ends of a pseudo-terminal: ours, to read the
// guest's console from, and the one that is it.
func openTerminal() (ours, guests *os.File, err error) {
	ours, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	raw, err := ours.SyscallConn()
	if err != nil {
		ours.Close()
		return nil, nil, err
	}
	// By the descriptor, not by a name in /dev/pts, which another mount of devpts may
	// not have.
	var fd int
	var openErr error
	err = raw.Control(func(master uintptr) { fd, openErr = openPeer(int(master)) })
	if err == nil {
		err = openErr
	}
	if err != nil {
		ours.Close()
		return nil, nil, fmt.Errorf("open terminal: %w", err)
	}
	return ours, os.NewFile(uintptr(fd), "console"), nil
}

// openPeer unlocks a pseudo-terminal, opens its other end and takes its habits
// away: what the guest prints is neither changed nor echoed to it.
func openPeer(master int) (int, error) {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, err
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, errno
	}
	fd := int(peer)
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err == nil {
		t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
		err = unix.IoctlSetTermios(fd, unix.TCSETS, t)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
