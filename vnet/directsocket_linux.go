package vnet

import (
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A directSocket is the host's side of a direct flow, to which it belongs. The zero
// value is closed.
type directSocket struct {
	open bool
	fd   int   // valid iff open, as are the others
	slot int32 // -1 if the poller doesn't know it
	poll *poller
	to   netip.AddrPort // where it goes
}

// dial begins to connect, and reports whether that is done already.
func (s *directSocket) dial(p *poller, c *directFlow, to netip.AddrPort) (connected bool, err error) {
	fd, err := openSocket(to.Addr())
	if err != nil {
		return false, err
	}
	*s = directSocket{fd: fd, slot: -1, poll: p, to: to, open: true}
	// Urgent data is plain data.
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
	events := uint32(pollAlways)
	switch err = connect(fd, sockaddrOf(to)); {
	case err == nil:
		connected = true
	case err == unix.EINPROGRESS:
		// A server on this machine has answered by now.
		if connected, err = s.reached(); !connected {
			events |= unix.EPOLLOUT
		}
	default:
		err = os.NewSyscallError("connect", err)
	}
	if err == nil {
		s.slot, err = p.add(c, fd, events)
	}
	if err != nil {
		s.close(false)
		return false, err
	}
	return connected, nil
}

// reached reports whether the socket is connected, and checks to whom.
func (s *directSocket) reached() (bool, error) {
	sa, err := syscall.Getpeername(s.fd)
	if err != nil {
		return false, nil
	}
	err = checkPeer(s.fd, addrPortOfSockaddr(sa), s.to)
	return err == nil, err
}

// connected says how far the connect is.
func (s *directSocket) connected() (bool, error) {
	if err := s.failure(); err != nil {
		return false, os.NewSyscallError("connect", err)
	}
	return s.reached()
}

// failure returns the error that waits at the socket, and takes it.
func (s *directSocket) failure() error {
	errno, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && errno != 0 {
		err = syscall.Errno(errno)
	}
	return err
}

// read reads what is there: 0 bytes without an error are the end of the stream.
// unix.EAGAIN says that nothing is.
func (s *directSocket) read(b []byte) (int, error) { return read(s.fd, b) }

// write writes what there is room for.
func (s *directSocket) write(b []byte) (int, error) {
	for {
		n, err := unix.Write(s.fd, b)
		switch err {
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, nil
		default:
			return max(n, 0), err
		}
	}
}

// keepAlive has the kernel find out that the peer has vanished.
func (s *directSocket) keepAlive() { keepAlive(s.fd) }

// closeWrite sends the end of the stream.
func (s *directSocket) closeWrite() error { return unix.Shutdown(s.fd, unix.SHUT_WR) }

// watchWrites asks for an event when write has room again.
func (s *directSocket) watchWrites() error { return s.poll.watchWrites(s.slot, s.fd) }

// close closes the socket, with a reset if that is wanted. It is idempotent.
func (s *directSocket) close(reset bool) {
	if !s.open {
		return
	}
	s.open = false
	if reset {
		unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	unix.Close(s.fd)
	if s.slot >= 0 {
		s.poll.remove(s.slot)
	}
}
