package link

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// end is the end of a link, set when it comes: by Close, by the guest, or by an
// error. Its methods may be called by several goroutines.
type end struct {
	reason atomic.Pointer[error] // nil while the link is alive
	once   sync.Once             // guards the closing of the file
	closed error                 // what closing the file gave
}

// err returns why the link ended; nil while it is alive.
func (e *end) err() error {
	if p := e.reason.Load(); p != nil {
		return *p
	}
	return nil
}

// fail ends the link because an operation on file returned cause. It closes
// file, which wakes the other goroutines, and returns the reason, which is an
// earlier one if there is.
func (e *end) fail(file io.Closer, op string, cause error) error {
	e.mark(op, cause)
	e.once.Do(func() { e.closed = file.Close() })
	return e.err()
}

// mark is fail where the file stays open until close.
func (e *end) mark(op string, cause error) error {
	if isGone(cause) && cause != io.EOF {
		// One error for all the ways to learn that the guest's end is closed.
		cause = fmt.Errorf("%w (%v)", io.EOF, cause)
	}
	cause = fmt.Errorf("%s: %w", op, cause)
	e.reason.CompareAndSwap(nil, &cause)
	return e.err()
}

// close ends the link because its owner wants so. From now on the reason is
// net.ErrClosed, whatever it was.
func (e *end) close(file io.Closer) error {
	reason := fmt.Errorf("link: %w", net.ErrClosed)
	e.reason.Store(&reason)
	e.once.Do(func() { e.closed = file.Close() })
	return e.closed
}

// isGone reports whether err says that the other end of a socket or of a TAP no
// longer exists.
func isGone(err error) bool {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) {
		return true
	}
	var errno syscall.Errno
	return errors.As(err, &errno) && isGoneErrno(errno)
}
