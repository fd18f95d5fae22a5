package vnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/vnet/link"
)

// A poller waits for the guest's card, for the sockets of direct flows, and for
// calls from other goroutines, all in one system call (epoll(7)) that blocks its
// thread: by Go's own poller each of them would wake a thread that wakes another.
// All methods but wake belong to one goroutine.
type poller struct {
	fd     int
	calls  int  // eventfd(2)
	brief  bool // the last sleep was shorter than briefSleep
	events [128]unix.EpollEvent
	slots  []pollSlot
	free   []int32 // slots that nobody has
}

// What an event's number stands for, if not for a flow's socket.
const (
	slotCard  = -1 // the guest's card
	slotCalls = -2 // wake was called
)

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

	// Of sockets only what is new is told.
	pollAlways = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET
)

// newPoller returns a poller that waits for card.
func newPoller(card link.Kernel) (*poller, error) {
	p := &poller{fd: -1, calls: -1}
	err := p.open(card)
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *poller) open(card link.Kernel) (err error) {
	if p.fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if p.calls, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	err = p.control(unix.EPOLL_CTL_ADD, p.calls, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: slotCalls})
	var cardErr error
	cerr := card.Control(func(fd uintptr) {
		cardErr = p.control(unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{Events: unix.EPOLLIN, Fd: slotCard})
	})
	return errors.Join(err, cerr, cardErr)
}

func (p *poller) control(op, fd int, e *unix.EpollEvent) error {
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.fd, op, fd, e))
}

const (
	// spinTime is how long wait looks again and again before it sleeps, if that is
	// likely to be enough. To fall asleep and be woken takes as long, and in a virtual
	// machine longer; who exchanges small messages with a neighbour waits for little
	// else.
	spinTime = 10 * time.Microsecond
	// briefSleep is the sleep that makes it likely the next time: spinTime, and what
	// it takes to be woken.
	briefSleep = 3 * spinTime
)

// wait returns what is new. It waits for that as long as it is told, or for ever if
// that is negative. What it returns is valid until the next call.
func (p *poller) wait(patience time.Duration) ([]unix.EpollEvent, error) {
	start := time.Now()
	for p.brief && patience != 0 {
		if events, err := p.look(0); len(events) > 0 || err != nil {
			return events, err
		}
		if time.Since(start) > spinTime {
			break
		}
	}
	ms := -1
	if patience >= 0 {
		ms = int((patience + time.Millisecond - 1) / time.Millisecond)
	}
	start = time.Now()
	events, err := p.look(ms)
	p.brief = time.Since(start) < briefSleep
	return events, err
}

// look is epoll_wait(2).
func (p *poller) look(ms int) ([]unix.EpollEvent, error) {
	n, err := unix.EpollWait(p.fd, p.events[:], ms)
	if err != nil && err != unix.EINTR {
		return nil, os.NewSyscallError("epoll_wait", err)
	}
	return p.events[:max(n, 0)], nil
}

// wake has wait return an event of slotCalls. Any goroutine may call it, but not
// behind close.
func (p *poller) wake() {
	unix.Write(p.calls, binary.NativeEndian.AppendUint64(nil, 1))
}

// woken takes what wake has left.
func (p *poller) woken() {
	var count [8]byte
	unix.Read(p.calls, count[:])
}

// close closes what the poller has opened.
func (p *poller) close() {
	for _, fd := range []int{p.fd, p.calls} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// flow returns whose event it is, or nil if that flow is over.
func (p *poller) flow(slot, turn int32) *directFlow {
	if s := &p.slots[slot]; s.turn == turn {
		return s.flow
	}
	return nil
}

// add has the poller tell c about fd, and returns the slot; -1, which is none, beside
// an error.
func (p *poller) add(c *directFlow, fd int, events uint32) (slot int32, err error) {
	if k := len(p.free); k > 0 {
		slot, p.free = p.free[k-1], p.free[:k-1]
	} else {
		slot, p.slots = int32(len(p.slots)), append(p.slots, pollSlot{})
	}
	s := &p.slots[slot]
	s.flow = c
	if err := p.control(unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: slot, Pad: s.turn}); err != nil {
		p.remove(slot)
		return -1, fmt.Errorf("watch socket: %w", err)
	}
	return slot, nil
}

// remove frees a slot whose socket is closed, which took it out of the kernel's
// list.
func (p *poller) remove(slot int32) {
	s := &p.slots[slot]
	s.flow = nil
	s.turn++
	p.free = append(p.free, slot)
}

// watchWrites has the poller tell about room in fd's send buffer, at once if there
// is some already.
func (p *poller) watchWrites(slot int32, fd int) error {
	return p.control(unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: pollAlways | unix.EPOLLOUT, Fd: slot, Pad: p.slots[slot].turn})
}
