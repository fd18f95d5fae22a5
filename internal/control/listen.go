package control

import (
	"errors"
	"fmt"
	"net"
	"os"
)

// Listen listens on a new unix socket at path, and removes what a dead sandbox
// left there: the caller holds the lock that makes path its own. Only
// processes of the same user, and in the same user and PID namespace, get
// through; others are closed unheard. So a guest that finds the socket all the
// same can't change its own policy.
func Listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for control: %w", err)
	}
	return peerListener{l}, nil
}

// peerListener accepts the connections of peers that checkPeer lets through.
type peerListener struct{ *net.UnixListener }

func (l peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if checkPeer(c) == nil {
			return c, nil
		}
		_ = c.Close() // nothing was written
	}
}

// errForeign is checkPeer's error for a peer that is not one of us.
var errForeign = errors.New("peer is of another user or namespace")
