package krun

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A listener waits for a guest's agent and its status on the sockets that libkrun
// connects to when the guest connects by vsock.
type listener struct {
	paths   []string // the agent's, its status's
	sockets []*net.UnixListener
}

// listen makes the sockets in the VM's directory, which is the caller's alone.
func (v *vm) listen(dir string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ended {
		return errEnded
	}
	v.door = new(listener)
	for _, name := range []string{"agent", "status"} {
		path := filepath.Join(dir, name)
		socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			return fmt.Errorf("listen for the agent: %w", err)
		}
		v.door.paths, v.door.sockets = append(v.door.paths, path), append(v.door.sockets, socket)
	}
	return nil
}

// Close closes the sockets, and ends an accept that waits.
func (l *listener) Close() {
	for _, socket := range l.sockets {
		socket.Close()
	}
}

// accept waits until deadline for the connection to a socket from the process
// pid. Another's is closed, and is no reason to go on waiting: nobody else can see
// the directory.
func (l *listener) accept(i, pid int, deadline time.Time) (*net.UnixConn, error) {
	if err := l.sockets[i].SetDeadline(deadline); err != nil {
		return nil, err
	}
	conn, err := l.sockets[i].AcceptUnix()
	if err != nil {
		return nil, err
	}
	// The kernel's word on who called connect, not the caller's.
	raw, err := conn.SyscallConn()
	if err == nil {
		var cred *unix.Ucred
		var credErr error
		err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
		if err = errors.Join(err, credErr); err == nil && int(cred.Pid) != pid {
			err = fmt.Errorf("process %d connected instead of the machine's", cred.Pid)
		}
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// meet waits until the guest has connected by vsock.
func (v *vm) meet() error {
	deadline := time.Now().Add(bootTimeout)
	// Process 1 connects its status first. The direction is from the guest to the host:
	// the other way the first connection takes libkrun five seconds (its issue 684).
	status, err := v.door.accept(1, v.cmd.Process.Pid, deadline)
	if err == nil {
		var agent *net.UnixConn
		if agent, err = v.door.accept(0, v.cmd.Process.Pid, deadline); err != nil {
			status.Close()
		} else {
			// In place of the port's, which such a library has no use for.
			v.mu.Lock()
			v.status.Close()
			v.status = status
			v.mu.Unlock()
			v.PutAgent(&visitor{agent, v.Agent()})
		}
	}
	v.door.Close()
	if err != nil {
		v.Kill()
		<-v.Done()
		return v.bootError(fmt.Sprintf("the guest did not connect to the host: %v", err))
	}
	return nil
}

// A visitor is the agent's stream that came by vsock. The VM's process doesn't
// see its end: it watches the one that it was started with, which ends too.
type visitor struct {
	*net.UnixConn
	watched net.Conn
}

// Close closes both.
func (c *visitor) Close() error {
	c.watched.Close()
	return c.UnixConn.Close()
}
