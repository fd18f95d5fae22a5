package vnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A tcpSocket is a connected TCP socket of the host's: a net.Conn on fewer system
// calls than package net's. A guest may open thousands of flows a second, and to
// this machine or its neighbours the connect itself is the smaller part of a dial
// there: net parks the goroutine, asks for both addresses and sets options one by
// one.
type tcpSocket struct {
	file *os.File // for its place in the runtime's poller
	raw  syscall.RawConn
	peer netip.AddrPort

	closed atomic.Bool

	// The arguments and results of one writev at a time, owned by who writes.
	iov  []unix.Iovec
	rest []unix.Iovec // of iov, what the socket has yet to take
	sent int
	err  error
	step func(fd uintptr) bool
}

// DialTCP connects to addr; see dialer.go.
func (hostDialer) DialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	s, err := dialSocket(ctx, addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: err}
	}
	return s, nil
}

func dialSocket(ctx context.Context, addr netip.AddrPort) (*tcpSocket, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	fd, err := openSocket(addr.Addr())
	if err != nil {
		return nil, err
	}
	keepAlive(fd)
	to := sockaddrOf(addr)
	err = connect(fd, to)
	if err == unix.EINPROGRESS {
		err = connect(fd, to) // a server on this machine has answered by now
	}
	if err != nil && err != unix.EALREADY {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	s := &tcpSocket{file: os.NewFile(uintptr(fd), "tcp"), peer: addr}
	if s.raw, err = s.file.SyscallConn(); err == nil {
		err = s.established(ctx, to)
	}
	if err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	s.step = s.once
	return s, nil
}

// openSocket opens a socket of a's family, which sends at once what it is given: the
// sender has decided already. That option can't fail on a sound socket, and without
// it a flow works.
func openSocket(a netip.Addr) (fd int, err error) {
	family := unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	return fd, nil
}

// keepAlive has the kernel find out that the peer has vanished. It can't fail either.
func keepAlive(fd int) {
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAliveIdle/time.Second))
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAliveInterval/time.Second))
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveCount)
}

// connect is connect(2). Asked again, it says how far it is: EALREADY until the
// peer has answered.
func connect(fd int, to unix.Sockaddr) error {
	for {
		if err := unix.Connect(fd, to); err != unix.EINTR {
			return err
		}
	}
}

// established waits until the socket is connected, and checks to whom.
func (s *tcpSocket) established(ctx context.Context, to unix.Sockaddr) error {
	peer, err := s.peerName()
	if err != nil {
		if err := s.wait(ctx, to); err != nil {
			return err
		}
		peer, err = s.peerName()
	}
	if err != nil {
		return err
	}
	cerr := s.raw.Control(func(fd uintptr) { err = checkPeer(int(fd), peer, s.peer) })
	return errors.Join(cerr, err)
}

// checkPeer returns why a socket that is connected to peer isn't connected to a
// server at the address that it was to go to. A connect to a port of this machine
// that nobody listens on may be given that very port, and meets itself (RFC 9293,
// section 3.5, figure 7).
func checkPeer(fd int, peer, to netip.AddrPort) error {
	if peer != to {
		return fmt.Errorf("connected to %v instead", peer)
	}
	if !to.Addr().IsLoopback() {
		return nil
	}
	if self, err := syscall.Getsockname(fd); err == nil && addrPortOfSockaddr(self) == peer {
		return os.NewSyscallError("connect", unix.ECONNREFUSED)
	}
	return nil
}

// wait waits for the peer's answer, or for ctx.
func (s *tcpSocket) wait(ctx context.Context, to unix.Sockaddr) error {
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		s.file.SetDeadline(time.Unix(1, 0))
	})
	var cerr error
	err := s.raw.Write(func(fd uintptr) bool {
		cerr = connect(int(fd), to)
		return cerr != unix.EALREADY && cerr != unix.EINPROGRESS
	})
	if !stop() {
		<-woken
		if ctx.Err() != nil && (err != nil || cerr != nil) {
			return ctx.Err()
		}
		s.file.SetDeadline(time.Time{})
	}
	if err == nil {
		err = os.NewSyscallError("connect", cerr)
	}
	return err
}

// peerName returns the address that the socket is connected to.
func (s *tcpSocket) peerName() (netip.AddrPort, error) {
	return s.name(syscall.Getpeername)
}

func (s *tcpSocket) name(get func(int) (syscall.Sockaddr, error)) (addr netip.AddrPort, err error) {
	cerr := s.raw.Control(func(fd uintptr) {
		var sa syscall.Sockaddr
		if sa, err = get(int(fd)); err == nil {
			addr = addrPortOfSockaddr(sa)
		}
	})
	return addr, errors.Join(cerr, err)
}

// SyscallConn returns the socket as the runtime's poller knows it.
func (s *tcpSocket) SyscallConn() (syscall.RawConn, error) { return s.raw, nil }

// Read implements net.Conn.
func (s *tcpSocket) Read(b []byte) (int, error) {
	n, err := s.file.Read(b)
	return n, s.explain("read", err)
}

// Write implements net.Conn.
func (s *tcpSocket) Write(b []byte) (int, error) {
	n, err := s.file.Write(b)
	return n, s.explain("write", err)
}

// explain turns a file's error into a connection's.
func (s *tcpSocket) explain(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	var p *os.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	if s.closed.Load() { // a file's error for that has no name
		err = net.ErrClosed
	}
	return &net.OpError{Op: op, Net: "tcp", Addr: s.RemoteAddr(), Err: err}
}

// writeAll writes the pieces, in as few system calls as the socket's buffer
// allows. Only one goroutine may write at a time.
func (s *tcpSocket) writeAll(pieces [][]byte) (int, error) {
	s.iov = s.iov[:0]
	for _, b := range pieces {
		if len(b) > 0 {
			s.iov = append(s.iov, unix.Iovec{Base: unsafe.SliceData(b)})
			s.iov[len(s.iov)-1].SetLen(len(b))
		}
	}
	s.rest, s.sent, s.err = s.iov, 0, nil
	err := s.raw.Write(s.step)
	clear(s.iov) // the pieces are not ours
	if err == nil {
		err = s.err
	}
	return s.sent, s.explain("write", err)
}

// once writes what the socket takes, and reports whether there is no need to
// wait for more room.
func (s *tcpSocket) once(fd uintptr) bool {
	for len(s.rest) > 0 {
		n, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&s.rest[0])), uintptr(len(s.rest)))
		switch errno {
		case 0:
			s.took(int(n))
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			s.err = os.NewSyscallError("writev", errno)
			return true
		}
	}
	return true
}

// took takes n bytes that were written off the front of rest.
func (s *tcpSocket) took(n int) {
	s.sent += n
	for len(s.rest) > 0 && uint64(n) >= uint64(s.rest[0].Len) {
		n -= int(s.rest[0].Len)
		s.rest = s.rest[1:]
	}
	if n > 0 {
		first := &s.rest[0]
		first.Base = (*byte)(unsafe.Add(unsafe.Pointer(first.Base), n))
		first.SetLen(int(first.Len) - n)
	}
}

// CloseWrite sends the peer the end of the stream.
func (s *tcpSocket) CloseWrite() error {
	var err error
	cerr := s.raw.Control(func(fd uintptr) { err = os.NewSyscallError("shutdown", unix.Shutdown(int(fd), unix.SHUT_WR)) })
	return s.explain("close", errors.Join(cerr, err))
}

// SetLinger makes the close a reset if seconds is 0; net.TCPConn's says more.
func (s *tcpSocket) SetLinger(seconds int) error {
	var err error
	cerr := s.raw.Control(func(fd uintptr) {
		err = os.NewSyscallError("setsockopt", unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: int32(seconds)}))
	})
	return s.explain("set", errors.Join(cerr, err))
}

// Close closes the socket; who is waiting in it returns.
func (s *tcpSocket) Close() error {
	s.closed.Store(true)
	return s.explain("close", s.file.Close())
}

// RemoteAddr returns the address that was dialled.
func (s *tcpSocket) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(s.peer) }

// LocalAddr returns the socket's own address, the zero one behind the close.
func (s *tcpSocket) LocalAddr() net.Addr {
	addr, _ := s.name(syscall.Getsockname)
	return net.TCPAddrFromAddrPort(addr)
}

// SetDeadline implements net.Conn.
func (s *tcpSocket) SetDeadline(t time.Time) error { return s.file.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (s *tcpSocket) SetReadDeadline(t time.Time) error { return s.file.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (s *tcpSocket) SetWriteDeadline(t time.Time) error { return s.file.SetWriteDeadline(t) }

// sockaddrOf returns addr as system calls take it. A zone can't come this far.
func sockaddrOf(addr netip.AddrPort) unix.Sockaddr {
	if addr.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
}

// addrPortOfSockaddr is its inverse, for package syscall, which asks the kernel for
// an address in one system call, where package unix takes two.
func addrPortOfSockaddr(sa syscall.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *syscall.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
