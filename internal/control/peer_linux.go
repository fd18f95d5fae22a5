package control

import (
	"bytes"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// checkPeer reports why the process that connected may not speak with us; nil
// if it may. A guest in a namespace can carry our user id, so the namespaces
// are compared too; a process that the kernel shows as 0 lives where we can't
// look.
//
// They are compared by what /proc shows to everybody: a confined process may not
// follow the links in /proc/PID/ns of one that isn't.
func checkPeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("inspect peer: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return fmt.Errorf("inspect peer: %w", err)
	}
	if credErr != nil {
		return fmt.Errorf("inspect peer: %w", credErr)
	}
	if int(cred.Uid) != os.Geteuid() || cred.Pid == 0 {
		return errForeign
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cred.Pid))
	if err != nil {
		return fmt.Errorf("inspect peer's namespaces: %w", err)
	}
	if !ofOurPIDs(status) {
		return errForeign
	}
	ours, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return fmt.Errorf("inspect own namespaces: %w", err)
	}
	theirs, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", cred.Pid))
	if err != nil {
		return fmt.Errorf("inspect peer's namespaces: %w", err)
	}
	if !bytes.Equal(ours, theirs) {
		return errForeign
	}
	return nil
}

// ofOurPIDs reports whether /proc/PID/status is that of a process in the PID
// namespace of our /proc: it has one number then, and in a namespace below one
// more for each.
func ofOurPIDs(status []byte) bool {
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte("NSpid:")); ok {
			return len(bytes.Fields(rest)) == 1
		}
	}
	return false
}
