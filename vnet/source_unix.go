//go:build linux || darwin

package vnet

import (
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
)

// smallRead is the size of a read that does not know what is waiting. It is
// taken from a pool only when there may be something to read, so an idle flow
// holds no buffer.
const smallRead = 32 << 10

var smallBuffers = sync.Pool{New: func() any { return new([smallRead]byte) }}

// A source reads the host's side of a flow into the guest's endpoint. Short
// messages take one read and one copy. When a read fills its buffer the stream
// is in bulk, and bytes go from the socket straight into the endpoint's
// buffers.
type source struct {
	raw     syscall.RawConn
	buffers *buffers // of the endpoint
	err     error

	bulk bool
	rest []byte           // read, but not yet taken by the endpoint
	buf  *[smallRead]byte // rest's memory; nil if rest is empty

	// The arguments and results of step, which is made once.
	ep   tcpip.Endpoint
	step func(fd uintptr) bool
	n    int
	full bool
}

func newSource(c net.Conn, q *buffers) *source {
	s := &source{buffers: q}
	sc, ok := c.(syscall.Conn)
	if !ok {
		s.err = net.ErrClosed
		return s
	}
	if s.raw, s.err = sc.SyscallConn(); s.err != nil {
		return s
	}
	s.step = s.once
	// Urgent data is plain data. Where this is refused, so is reading.
	s.raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) })
	return s
}

// linger waits behind the end of the stream until the host resets the
// connection, which it reports, or a deadline of the connection ends the wait.
func (s *source) linger() (reset bool) {
	s.raw.Read(func(fd uintptr) bool {
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		reset = err == nil && errno != 0
		return reset || err != nil
	})
	return reset
}

// transfer waits for the host's bytes and moves some to ep. full reports that
// ep must become writable first; err is io.EOF at the end of the stream. Behind
// the connection's deadline a later transfer may go on.
func (s *source) transfer(ep tcpip.Endpoint) (n int, full bool, err error) {
	if s.err != nil {
		return 0, false, s.err
	}
	s.ep, s.n, s.full = ep, 0, false
	if err := s.raw.Read(s.step); err != nil {
		return s.n, false, err
	}
	return s.n, s.full, s.err
}

// once does what can be done without waiting for the host, and reports whether
// that was anything. The runtime's poller calls it with a descriptor that stays
// open meanwhile.
func (s *source) once(fd uintptr) bool {
	switch {
	case len(s.rest) > 0:
		s.flush()
		return true
	case s.bulk:
		if size, err := unix.IoctlGetInt(int(fd), ioctlWaiting); err == nil && size > 0 {
			s.write(&socketReader{fd: int(fd), left: size})
			return true
		}
		s.bulk = false
	}
	if s.buf == nil {
		s.buf = smallBuffers.Get().(*[smallRead]byte)
	}
	n, err := read(int(fd), s.buf[:])
	switch {
	case err == unix.EAGAIN:
		s.release()
		return false
	case err != nil:
		s.err = err
		return true
	case n == 0:
		s.err = io.EOF
		return true
	}
	s.bulk = n == smallRead
	s.rest = s.buf[:n]
	s.flush()
	return true
}

// flush hands rest to the endpoint.
func (s *source) flush() {
	p := byteReader{s.rest}
	s.write(&p)
	s.rest = p.b
	if len(s.rest) == 0 {
		s.release()
	}
}

// release gives the buffer back, when nobody will transfer any more.
func (s *source) release() {
	if s.buf != nil {
		smallBuffers.Put(s.buf)
		s.buf, s.rest = nil, nil
	}
}

func (s *source) write(p tcpip.Payloader) {
	n, err := s.buffers.write(s.ep, p)
	s.n += int(n)
	switch err.(type) {
	case nil:
	case *tcpip.ErrWouldBlock:
		s.full = true
	default:
		s.err = errGuestGone
	}
}

// read reads without being stopped by a signal.
func read(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// socketReader is the payload of one write to the endpoint: bytes that wait in
// a socket. The endpoint asks for no more than Len, which are there.
type socketReader struct {
	fd   int
	left int
}

func (r *socketReader) Len() int { return r.left }

func (r *socketReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := read(r.fd, p[:min(len(p), r.left)])
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	r.left -= n
	return n, nil
}
