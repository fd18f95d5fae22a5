package vnet

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A poller tells which sockets of direct flows have something new, edge by edge
// (epoll(7), EPOLLET), to one goroutine.
type poller struct {
	file *os.File // its place in the runtime's own poller
	raw  syscall.RawConn
	fd   int

	mu     sync.Mutex // guards the following fields
	slots  []pollSlot
	free   []int32 // slots that nobody has
	closed bool    // fd is somebody else's
}

// A pollSlot is what an event's number stands for. An event that was fetched just
// before its socket was closed has an earlier turn's.
type pollSlot struct {
	flow *directFlow
	turn int32
}

// hostEvents says what is new at a socket.
type hostEvents uint32

const (
	hostReadable hostEvents = unix.EPOLLIN
	hostWritable hostEvents = unix.EPOLLOUT
	hostUrgent   hostEvents = unix.EPOLLPRI                   // reads stop in front of that byte
	hostEnded    hostEvents = unix.EPOLLRDHUP | unix.EPOLLHUP // the end is among what can be read
	hostFailed   hostEvents = unix.EPOLLERR

	pollAlways = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET
)

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	p := &poller{file: os.NewFile(uintptr(fd), "epoll"), fd: fd}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, p.file.Close())
	}
	return p, nil
}

// run calls handle with every event until the poller is closed, and idle behind
// each round of them. handle reports whether the flow wants to be called again,
// behind the others.
func (p *poller) run(handle func(*directFlow, hostEvents) bool, idle func()) {
	var events [128]unix.EpollEvent
	var again, next []*directFlow
	turn := func(c *directFlow, e hostEvents) {
		if handle(c, e) && !c.again {
			c.again = true
			next = append(next, c)
		}
	}
	// This read of the runtime's never succeeds: what is new while events are dealt
	// with ends its next wait, so that nobody has to look whether the list is empty.
	p.raw.Read(func(fd uintptr) bool {
		for {
			n, err := unix.EpollWait(int(fd), events[:], 0)
			if err != nil && err != unix.EINTR {
				return true
			}
			for _, e := range events[:max(n, 0)] {
				if c := p.flow(e.Fd, e.Pad); c != nil {
					turn(c, hostEvents(e.Events))
				}
			}
			for _, c := range again {
				c.again = false
				turn(c, 0)
			}
			clear(again)
			again, next = next, again[:0]
			idle()
			if n >= 0 && n < len(events) && len(again) == 0 {
				return false
			}
		}
	})
}

// close ends run.
func (p *poller) close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	return p.file.Close() // waits for run, which may want the lock
}

func (p *poller) flow(slot, turn int32) *directFlow {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := &p.slots[slot]; s.turn == turn {
		return s.flow
	}
	return nil
}

// add has the poller tell c about fd, and returns the slot; -1, which is none, beside
// an error.
func (p *poller) add(c *directFlow, fd int, events uint32) (slot int32, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return -1, net.ErrClosed
	}
	if k := len(p.free); k > 0 {
		slot, p.free = p.free[k-1], p.free[:k-1]
	} else {
		slot, p.slots = int32(len(p.slots)), append(p.slots, pollSlot{})
	}
	s := &p.slots[slot]
	s.flow = c
	err = unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: slot, Pad: s.turn})
	if err != nil {
		p.removeLocked(slot)
		return -1, os.NewSyscallError("epoll_ctl", err)
	}
	return slot, nil
}

// remove frees a slot whose socket is closed, which took it out of the kernel's
// list.
func (p *poller) remove(slot int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.removeLocked(slot)
}

func (p *poller) removeLocked(slot int32) {
	s := &p.slots[slot]
	s.flow = nil
	s.turn++
	p.free = append(p.free, slot)
}

// watchWrites has the poller tell about room in fd's send buffer, at once if there
// is some already.
func (p *poller) watchWrites(slot int32, fd int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	e := unix.EpollEvent{Events: pollAlways | unix.EPOLLOUT, Fd: slot, Pad: p.slots[slot].turn}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, fd, &e))
}

// A directSocket is the host's side of a direct flow. Its owner says who may call
// what when; see directFlow.
type directSocket struct {
	fd   int // valid iff open
	slot int32
	poll *poller
	to   netip.AddrPort // where it goes
	open bool
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
	sa, err := unix.Getpeername(s.fd)
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
