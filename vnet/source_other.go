//go:build !linux && !darwin

package vnet

import (
	"errors"
	"net"
	"os"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// A source reads the host's side of a flow into the guest's endpoint. See
// source_unix.go; here every flow holds its buffer.
type source struct {
	host    net.Conn
	buffers *buffers // of the endpoint
	buf     []byte
	rest    []byte // read, but not yet taken by the endpoint
	err     error  // of the host, once rest is taken
}

func newSource(c net.Conn, q *buffers) *source {
	return &source{host: c, buffers: q, buf: make([]byte, 64<<10)}
}

// linger would wait behind the end of the stream for a reset, which can't be
// told here.
func (s *source) linger() (reset bool) { return false }

// release has nothing to give back.
func (s *source) release() {}

// transfer waits for the host's bytes and moves some to ep. full reports that
// ep must become writable first; err is io.EOF at the end of the stream.
func (s *source) transfer(ep tcpip.Endpoint) (n int, full bool, err error) {
	if len(s.rest) == 0 {
		if s.err != nil {
			return 0, false, s.err
		}
		k, err := s.host.Read(s.buf)
		if errors.Is(err, os.ErrDeadlineExceeded) && k == 0 {
			return 0, false, err // a later transfer may go on
		}
		s.rest, s.err = s.buf[:k], err
	}
	p := byteReader{s.rest}
	k, werr := s.buffers.write(ep, &p)
	s.rest = p.b
	switch werr.(type) {
	case nil:
		return int(k), false, nil
	case *tcpip.ErrWouldBlock:
		return int(k), true, nil
	}
	return int(k), false, errGuestGone
}
