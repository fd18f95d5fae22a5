package krun

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/hv/internal/tail"
)

// maxControl bounds a message on the control socket in bytes: paths, and a line
// of error. It is below the smallest default of a socket's buffer.
const maxControl = 64 << 10

// A query is the host's first message: where libkrun may be.
type query struct {
	Libraries []string `json:"libraries"`
}

// An order is a message of the host's while the VM runs.
type order struct {
	Seal bool `json:"seal"` // the guest has connected by vsock: see seal
}

// A report is a message of the VM's process. Each has one of the fields.
type report struct {
	Offer   *offer   `json:"offer,omitempty"`  // answers a query
	Ready   bool     `json:"ready,omitempty"`  // answers a spec: the VM is about to run
	Sealed  bool     `json:"sealed,omitempty"` // answers an order
	Failure *failure `json:"failure,omitempty"`
}

// A failure is an error on its way from one process to the other.
type failure struct {
	Text  string        `json:"text"`
	Errno syscall.Errno `json:"errno,omitempty"` // what it wraps; 0 if none
	Fix   string        `json:"fix,omitempty"`   // of a libraryError
}

// failureOf returns what is sent of an error.
func failureOf(err error) *failure {
	f := &failure{Text: err.Error()}
	var library *libraryError
	if errors.As(err, &library) {
		f.Fix = library.fix
	}
	errors.As(err, &f.Errno)
	return f
}

// err returns the error that f was made of, as far as callers act on it. Its text
// is made fit for a terminal: a guest that broke out may have written it.
func (f *failure) err() error {
	text := tail.Printable(f.Text)
	switch {
	case f.Fix != "":
		return &libraryError{text, tail.Printable(f.Fix)}
	case f.Errno != 0:
		return &failedError{text, f.Errno}
	}
	return errors.New(text)
}

// A failedError is an error of the VM's process, which wraps a number.
type failedError struct {
	text  string
	errno syscall.Errno
}

func (e *failedError) Error() string { return e.text }
func (e *failedError) Unwrap() error { return e.errno }

// send sends a message. A socket of SEQPACKET takes it whole or not at all.
func send(conn *net.UnixConn, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(text) > maxControl {
		return fmt.Errorf("message of %d bytes is over the limit of %d", len(text), maxControl)
	}
	_, err = conn.Write(text)
	return err
}

// receive receives a message into v. One that is longer than maxControl is cut off by
// the kernel, and then it is no JSON.
func receive(conn *net.UnixConn, v any) error {
	text := make([]byte, maxControl)
	n, err := conn.Read(text)
	if err != nil {
		return err
	}
	return json.Unmarshal(text[:n], v)
}

// socketpair returns a connected pair of unix sockets of a type. The first is for
// this process; the second, a file, for the VM's.
func socketpair(kind int) (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
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

// unixConn returns the connection whose descriptor is fd, and owns fd. It is one
// that the runtime polls, so that a Close ends a Read.
func unixConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	if f == nil {
		return nil, unix.EBADF
	}
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
