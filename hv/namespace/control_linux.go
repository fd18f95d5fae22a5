package namespace

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// maxControl bounds a message on the control socket in bytes: paths to hide and
// one line of error. It is below the smallest default of a socket's buffer.
const maxControl = 64 << 10

// A setup is the host's one message to process 1: what to build. The root, and
// paths of the host to mount, come along as mounts where the host is real root's.
type setup struct {
	Tun   string `json:"tun"` // device to open; "" gives no card
	MAC   []byte `json:"mac"`
	MTU   int    `json:"mtu"`
	Root  string `json:"root"`  // "" shows the host's files
	Files string `json:"files"` // keeps what is written over Root; "" is memory
	// Remove is a directory to remove, and then to end; "" is a guest.
	Remove string   `json:"remove"`
	Hide   []string `json:"hide"`
	Groups bool     `json:"groups"` // setgroups(2) is allowed: drop the caller's
	// Processes bounds the guest's processes and threads.
	Processes uint32 `json:"processes"`
	Terminal  string `json:"terminal"` // path of the terminal among the standard files; ""
	// ScratchMiB bounds the guest's files in memory; 0 is the kernel's default
	// for a tmpfs, half of the machine's memory.
	ScratchMiB uint32 `json:"scratch_mib"`
	// Mounts are laid over the root. RootTree, FilesTree and their Tree say which
	// came along as mounts, in this order.
	Mounts    []mountSetup `json:"mounts"`
	RootTree  bool         `json:"root_tree"`
	FilesTree bool         `json:"files_tree"`
}

// A report is process 1's answers: remarks, then ready or a failure. The TAP's
// descriptor travels with the one that is ready.
type report struct {
	NotKept string     `json:"not_kept,omitempty"` // why setup.Files isn't used
	Remark  string     `json:"remark,omitempty"`   // something that is not shown to the guest, and why
	Error   string     `json:"error,omitempty"`
	Errno   unix.Errno `json:"errno,omitempty"` // what Error wraps; 0 if it is none
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

// maxControlFiles bounds the files of a message: the kernel's own limit is 253.
const maxControlFiles = 128

// sendControl sends v, and files.
func sendControl(conn *net.UnixConn, v any, files ...*os.File) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(text) > maxControl {
		return fmt.Errorf("setup of %d bytes is over the limit of %d", len(text), maxControl)
	}
	fds, err := descriptors(files)
	if err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_, _, err = conn.WriteMsgUnix(text, rights, nil)
	runtime.KeepAlive(files)
	return err
}

// descriptors returns the numbers of files, which must stay open meanwhile.
func descriptors(files []*os.File) ([]int, error) {
	if len(files) > maxControlFiles {
		return nil, fmt.Errorf("%d files are over the limit of %d", len(files), maxControlFiles)
	}
	var fds []int
	for _, f := range files {
		raw, err := f.SyscallConn() // Fd would make the file blocking
		if err != nil {
			return nil, err
		}
		if err := raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			return nil, err
		}
	}
	return fds, nil
}

// receiveControl receives into v, and returns the files that came along. The
// caller owns them, also when there is an error.
func receiveControl(conn *net.UnixConn, v any) ([]*os.File, error) {
	text := make([]byte, maxControl)
	rights := make([]byte, unix.CmsgSpace(4*maxControlFiles))
	n, rn, flags, _, err := conn.ReadMsgUnix(text, rights)
	if err != nil {
		return nil, err
	}
	files := receivedFiles(rights[:rn]) // first: what is received is to be closed
	switch {
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return files, errors.New("control message is too long")
	case n == 0:
		return files, unix.EPIPE
	}
	return files, json.Unmarshal(text[:n], v)
}

// receivedFiles returns the descriptors in a message's rights as files.
func receivedFiles(rights []byte) []*os.File {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) == 0 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil
	}
	var files []*os.File
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), "received"))
	}
	return files
}

// closeFiles closes files of the process's own.
func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
