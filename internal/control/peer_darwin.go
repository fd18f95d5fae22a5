package control

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// checkPeer reports why the process that connected may not speak with us; nil
// if it may. There are no namespaces to compare.
func checkPeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("inspect peer: %w", err)
	}
	var cred *unix.Xucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	}); err != nil {
		return fmt.Errorf("inspect peer: %w", err)
	}
	if credErr != nil {
		return fmt.Errorf("inspect peer: %w", credErr)
	}
	if int(cred.Uid) != os.Geteuid() {
		return errForeign
	}
	return nil
}
