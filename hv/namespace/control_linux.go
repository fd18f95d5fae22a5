package namespace

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// maxControl bounds a message on the control socket in bytes: paths to hide and
// one line of error. It is below the smallest default of a socket's buffer.
const maxControl = 64 << 10

// A setup is the host's one message to process 1: what to build. The root comes
// along as a mount of its own where the host is real root's.
type setup struct {
	Tun      string   `json:"tun"` // device to open; "" gives no card
	MAC      []byte   `json:"mac"`
	MTU      int      `json:"mtu"`
	Root     string   `json:"root"` // "" shows the host's files
	Hide     []string `json:"hide"`
	Groups   bool     `json:"groups"`   // setgroups(2) is allowed: drop the caller's
	Terminal string   `json:"terminal"` // path of the terminal among the standard files; ""
	// ScratchMiB bounds the guest's files in memory; 0 is the kernel's default
	// for a tmpfs, half of the machine's memory.
	ScratchMiB uint32 `json:"scratch_mib"`
}

// A report is process 1's answers: remarks, then ready or a failure. The TAP's
// descriptor travels with the one that is ready.
type report struct {
	Remark string     `json:"remark,omitempty"` // something that is not shown to the guest, and why
	Error  string     `json:"error,omitempty"`
	Errno  unix.Errno `json:"errno,omitempty"` // what Error wraps; 0 if it is none
}

// socketpair returns a connected pair of unix sockets of that type. The first
// is for this process; the second, a file, for the child.
func socketpair(typ int) (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("create socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "guest")
	ours, err := unixConn(fds[0])
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// unixConn returns the connection whose descriptor is fd, and owns fd. It is
// one that the runtime polls, so that a Close ends a Read.
func unixConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close() // FileConn has its own
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("not a unix socket")
	}
	return conn, nil
}

// sendControl sends v, and file unless it is nil.
func sendControl(conn *net.UnixConn, v any, file *os.File) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(text) > maxControl {
		return fmt.Errorf("setup of %d bytes is over the limit of %d", len(text), maxControl)
	}
	var rights []byte
	if file != nil {
		raw, err := file.SyscallConn() // Fd would make the file blocking
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) { rights = unix.UnixRights(int(fd)) }); err != nil {
			return err
		}
	}
	_, _, err = conn.WriteMsgUnix(text, rights, nil)
	return err
}

// receiveControl receives into v, and returns the file that came along, if one
// did. The caller owns it, also when there is an error.
func receiveControl(conn *net.UnixConn, v any) (*os.File, error) {
	text := make([]byte, maxControl)
	rights := make([]byte, unix.CmsgSpace(4))
	n, rn, flags, _, err := conn.ReadMsgUnix(text, rights)
	if err != nil {
		return nil, err
	}
	file := receivedFile(rights[:rn]) // first: what is received is to be closed
	switch {
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return file, errors.New("control message is too long")
	case n == 0:
		return file, unix.EPIPE
	}
	return file, json.Unmarshal(text[:n], v)
}

// receivedFile returns the descriptor in a message's rights as a file; nil if
// there is none.
func receivedFile(rights []byte) *os.File {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) == 0 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return nil
	}
	unix.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), "received")
}
