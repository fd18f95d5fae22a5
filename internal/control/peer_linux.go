package control

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// checkPeer reports why the process that connected may not speak with us; nil
// if it may. A guest in a namespace can carry our user id, so the namespaces
// are compared too; a process that the kernel shows as 0 lives where we can't
// look.
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
	for _, ns := range []string{"user", "pid"} {
		ours, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			return fmt.Errorf("inspect own namespace: %w", err)
		}
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", cred.Pid, ns))
		if err != nil {
			return fmt.Errorf("inspect peer's namespace: %w", err)
		}
		if ours != theirs {
			return errForeign
		}
	}
	return nil
}
