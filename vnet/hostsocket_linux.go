//go:build !basicsockets

package vnet

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A hostSocket is described in hostsocket.go.
type hostSocket struct {
	conn *net.UDPConn
	raw  syscall.RawConn

	tx transmitter // owned by the goroutine that sends
	rx receiveCall // owned by the goroutine that receives
}

// newHostSocket takes ownership of conn.
func newHostSocket(conn *net.UDPConn, v6 bool) (*hostSocket, error) {
	raw, err := conn.SyscallConn()
	if err == nil {
		var optErr error
		err = raw.Control(func(fd uintptr) { optErr = prepare(int(fd), v6) })
		err = errors.Join(err, optErr)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	s := &hostSocket{conn: conn, raw: raw}
	s.tx.v6, s.tx.dontFragment = v6, true // as prepare sets it
	s.tx.call = s.tx.once
	s.rx.call = s.rx.once
	return s, nil
}

// prepare sets a socket's options.
func prepare(fd int, v6 bool) error {
	// Go allows broadcast by default; a guest has no business with it.
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 0)
	if v6 {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVERR, 1))
	} else {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVERR, 1))
	}
	return os.NewSyscallError("setsockopt", errors.Join(err, setDontFragment(fd, v6, true)))
}

func setDontFragment(fd int, v6, on bool) error {
	mode := unix.IP_PMTUDISC_DONT
	if on {
		mode = unix.IP_PMTUDISC_DO
	}
	if v6 { // the modes have the same numbers
		return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, mode)
	}
	return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, mode)
}

func setTTL(fd int, v6 bool, ttl uint8) error {
	if v6 {
		return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, int(ttl))
	}
	return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TTL, int(ttl))
}

func (s *hostSocket) close() { s.conn.Close() }

// send sends d without waiting.
func (s *hostSocket) send(d *outgoing) error {
	s.tx.out, s.tx.err = *d, nil // a copy, so that d stays on the caller's stack
	err := s.raw.Write(s.tx.call)
	s.tx.out.payload = nil
	if err != nil {
		return err
	}
	return s.tx.err
}

// A transmitter is what a socket's sender needs from one call to the next: the
// options as they are, and memory.
type transmitter struct {
	v6           bool
	ttl          uint8 // 0 is not known
	dontFragment bool
	sa4          unix.SockaddrInet4
	sa6          unix.SockaddrInet6

	// The argument and result of once, which is bound once, in call.
	out  outgoing
	err  error
	call func(fd uintptr) bool
}

// once sends and reports that no more is to be done.
func (t *transmitter) once(fd uintptr) bool {
	d := &t.out
	if t.err = t.setOptions(int(fd), d); t.err != nil {
		return true
	}
	to := t.sockaddr(d.to)
	t.err = t.transmit(int(fd), d, to)
	// Perhaps that was the error of an earlier datagram, which the receiver gets
	// from the error queue; then this one goes now.
	if mayBeStale(t.err, d) {
		t.err = t.transmit(int(fd), d, to)
	}
	return true
}

// alwaysFits is the payload that no path's MTU is too small for.
const alwaysFits = 1280 - ipv6Len - udpLen

// mayBeStale reports whether err may be an earlier datagram's.
func mayBeStale(err error, d *outgoing) bool {
	switch err {
	case nil, unix.EAGAIN, unix.ENOBUFS:
		return false
	case unix.EMSGSIZE:
		// Each attempt would put the same error into the queue.
		return len(d.payload) <= alwaysFits
	}
	return true
}

// setOptions sets what differs from the last datagram.
func (t *transmitter) setOptions(fd int, d *outgoing) error {
	if d.ttl != t.ttl {
		if err := setTTL(fd, t.v6, d.ttl); err != nil {
			return err
		}
		t.ttl = d.ttl
	}
	if d.dontFragment != t.dontFragment {
		if err := setDontFragment(fd, t.v6, d.dontFragment); err != nil {
			return err
		}
		t.dontFragment = d.dontFragment
	}
	return nil
}

func (t *transmitter) sockaddr(to netip.AddrPort) unix.Sockaddr {
	if to.Addr().Is4() {
		t.sa4 = unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
		return &t.sa4
	}
	t.sa6 = unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	return &t.sa6
}

func (t *transmitter) transmit(fd int, d *outgoing, to unix.Sockaddr) error {
	if d.segment == 0 {
		return unix.Sendto(fd, d.payload, unix.MSG_DONTWAIT, to)
	}
	var oob [24]byte // one control message: unix.CmsgSpace(2)
	h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(oob[unix.CmsgLen(0):], uint16(d.segment))
	_, err := unix.SendmsgN(fd, d.payload, oob[:unix.CmsgSpace(2)], to, unix.MSG_DONTWAIT)
	switch err {
	case unix.EINVAL, unix.EIO, unix.EMSGSIZE:
		// The route can't: a tunnel, or a path below the datagrams' size.
		return sendEach(fd, d.payload, d.segment, to)
	}
	return err
}

// sendEach sends the datagrams of b one by one.
func sendEach(fd int, b []byte, size int, to unix.Sockaddr) error {
	for len(b) > 0 {
		k := min(size, len(b))
		if err := unix.Sendto(fd, b[:k], unix.MSG_DONTWAIT, to); err != nil {
			return err
		}
		b = b[k:]
	}
	return nil
}

// receive waits for datagrams or errors.
func (s *hostSocket) receive(spare spareIncoming) (*incoming, error) {
	s.rx.spare = spare
	for {
		s.rx.in, s.rx.err = nil, nil
		err := s.raw.Read(s.rx.call)
		switch {
		case s.rx.in != nil:
			return s.rx.in, nil
		case s.rx.err != nil:
			return nil, s.rx.err
		case errors.Is(err, os.ErrDeadlineExceeded), err == nil:
		case errors.Is(err, net.ErrClosed):
			return nil, err
		default:
			// The poller says so of a socket with an error while it can't be
			// written to. That passes when its buffer drains.
			if err := s.raw.Control(func(fd uintptr) { s.rx.once(fd) }); err != nil {
				return nil, err
			}
			if s.rx.in != nil {
				return s.rx.in, nil
			}
			<-time.After(10 * time.Millisecond)
		}
	}
}

// A receiveCall is the arguments and results of once, which is bound once.
type receiveCall struct {
	spare spareIncoming
	in    *incoming
	err   error
	call  func(fd uintptr) bool
}

// once takes what is there, and reports false if that is nothing.
func (r *receiveCall) once(fd uintptr) bool {
	in := r.spare.get()
	// An ICMP error is reported twice: in place of the next datagram, and with
	// its particulars in the error queue. More than a few in a row is a socket
	// that no longer works.
	for range 4 {
		err := in.receiveDatagrams(int(fd))
		if in.n > 0 {
			r.in = in
			return true
		}
		in.receiveErrors(int(fd))
		if len(in.errors) > 0 {
			r.in = in
			return true
		}
		if err == unix.EAGAIN {
			r.spare.put(in)
			return false
		}
		r.err = os.NewSyscallError("recvmmsg", err)
	}
	r.spare.put(in)
	return true
}

// receiver is the part of an incoming that the kernel fills.
type receiver struct {
	headers [receiveBatch]unix.Mmsghdr
	vectors [receiveBatch]unix.Iovec
	names   [receiveBatch][unix.SizeofSockaddrInet6]byte
	memory  []byte // slotSize for each datagram
	oob     [256]byte
	quoted  [2048]byte // more than an ICMP error holds of a datagram
}

const slotSize = udpHeadroom + maxMessage

func newIncoming() *incoming {
	in := new(incoming)
	in.memory = make([]byte, receiveBatch*slotSize)
	for i := range in.headers {
		in.vectors[i].Base = &in.memory[i*slotSize+udpHeadroom]
		in.vectors[i].SetLen(maxMessage)
		h := &in.headers[i].Hdr
		h.Iov = &in.vectors[i]
		h.SetIovlen(1)
		h.Name = &in.names[i][0]
	}
	return in
}

// receiveDatagrams takes what datagrams are there.
func (in *incoming) receiveDatagrams(fd int) error {
	for i := range in.headers {
		in.headers[i].Hdr.Namelen = unix.SizeofSockaddrInet6
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&in.headers[0])),
		receiveBatch, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return errno
	}
	in.n = int(n)
	for i := range in.datagrams[:n] {
		d := &in.datagrams[i]
		d.from = parseName(in.names[i][:])
		d.buf = in.memory[i*slotSize:][: udpHeadroom+int(in.headers[i].Len) : slotSize]
	}
	return nil
}

// parseName reads a sockaddr_in or sockaddr_in6. An address with a scope comes
// out without, and so belongs to no peer: none has such an address.
func parseName(b []byte) netip.AddrPort {
	port := binary.BigEndian.Uint16(b[2:])
	switch binary.NativeEndian.Uint16(b) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), port)
	}
	return netip.AddrPort{}
}

// receiveErrors takes what errors are there: see ip(7), "IP_RECVERR".
func (in *incoming) receiveErrors(fd int) {
	for len(in.errors) < receiveBatch {
		var name [unix.SizeofSockaddrInet6]byte
		vector := unix.Iovec{Base: &in.quoted[0]}
		vector.SetLen(len(in.quoted))
		h := unix.Msghdr{Name: &name[0], Namelen: uint32(len(name)), Iov: &vector, Control: &in.oob[0]}
		h.SetIovlen(1)
		h.SetControllen(len(in.oob))
		n, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&h)), unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if errno != 0 {
			return
		}
		e := hostError{to: parseName(name[:])}
		if parseError(&e, in.oob[:h.Controllen]) {
			e.data = append([]byte(nil), in.quoted[:n]...)
			in.errors = append(in.errors, e)
		}
	}
}

// parseError reads the control message of an error, and reports false if it is
// none that a guest could make use of.
func parseError(e *hostError, oob []byte) bool {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return false
	}
	for _, m := range messages {
		recvErr := m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR ||
			m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		const size = int(unsafe.Sizeof(unix.SockExtendedErr{}))
		if !recvErr || len(m.Data) < size {
			continue
		}
		ee := (*unix.SockExtendedErr)(unsafe.Pointer(&m.Data[0]))
		if offender := m.Data[size:]; len(offender) >= unix.SizeofSockaddrInet4 {
			// The offender's family decides how much of it there is.
			var name [unix.SizeofSockaddrInet6]byte
			copy(name[:], offender)
			e.from = parseName(name[:]).Addr()
		}
		e.mtu = int(ee.Info)
		switch ee.Origin {
		case unix.SO_EE_ORIGIN_LOCAL:
			if unix.Errno(ee.Errno) == unix.EMSGSIZE {
				e.what = icmpTooBig
			}
		case unix.SO_EE_ORIGIN_ICMP:
			e.what = errorOf4(ee.Type, ee.Code)
		case unix.SO_EE_ORIGIN_ICMP6:
			e.what = errorOf6(ee.Type, ee.Code)
		}
		return e.what != icmpNone
	}
	return false
}
