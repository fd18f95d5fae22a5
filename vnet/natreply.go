package vnet

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// read passes on what comes from the host until the session's socket is closed.
func (n *nat) read(s *session) {
	for {
		in, err := s.socket.receive(n.spare)
		if err != nil {
			break
		}
		n.deliver(s, in, time.Now())
		n.spare.put(in)
	}
	// Nothing to do if that was why; else the socket has failed.
	n.mu.Lock()
	var ends []func()
	if se := n.sessions.Find(s.guest); se != nil && se.Value == s {
		ends = n.removeSession(nil, se, endFailed, time.Now())
	}
	n.mu.Unlock()
	run(ends)
}

// deliver passes on what a session's peers said, and drops what others did.
func (n *nat) deliver(s *session, in *incoming, now time.Time) {
	n.admitReplies(s, in, now)
	in.out.reset()
	for i := range in.datagrams[:in.n] {
		if d := &in.datagrams[i]; d.remote.IsValid() {
			n.reply(&in.out, s, d.remote, d.buf)
		} else {
			n.cfg.drop(n.noPeer)
		}
	}
	if len(in.out.frames) > 0 {
		n.cfg.send(&in.out)
	}
	for i := range in.errors {
		if e := &in.errors[i]; e.remote.IsValid() {
			n.deliverError(s, e, now)
		}
	}
}

// admitReplies finds the peers that datagrams and errors are from, and counts
// the bytes.
func (n *nat) admitReplies(s *session, in *incoming, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range in.datagrams[:in.n] {
		d := &in.datagrams[i]
		d.remote = s.repliedLocked(d.from, max(0, len(d.buf)-udpHeadroom-n.header), now)
	}
	if se := n.sessions.Find(s.guest); se != nil && se.Value == s {
		n.sessions.Touch(se)
	}
	for i := range in.errors {
		e := &in.errors[i]
		e.remote = netip.AddrPort{}
		if pe := s.peers.Find(e.to); pe != nil {
			e.remote = pe.Value.flow.remote
		} else if e.to.Port() == 0 {
			// Linux forgets the port of what it found too big itself. Any peer
			// there will do, best the latest: an MTU is the address's.
			for pe := range s.peers.All {
				if pe.Key().Addr() == e.to.Addr() {
					e.to, e.remote = pe.Key(), pe.Value.flow.remote
				}
			}
		}
	}
}

// replied counts size bytes that a peer sent.
func (n *nat) replied(s *session, from netip.AddrPort, size int, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s.repliedLocked(from, size, now)
}

// deliverError tells the guest what a router, or the peer itself, said about a
// packet of its.
func (n *nat) deliverError(s *session, e *hostError, now time.Time) {
	// Whoever forges an error must not make the guest send crumbs (RFC 1191,
	// section 3; RFC 8201, section 4).
	r := icmpReport{what: e.what, mtu: max(e.mtu, minMTU(s.guest.Addr()))}
	switch {
	case e.from == e.to.Addr():
		r.from = e.remote.Addr()
	case !e.from.IsLoopback() && e.from.Is4() == s.guest.Addr().Is4():
		r.from = e.from
	}
	n.cfg.reporter.report(r, n.quote(s, e.remote, e), now)
}

// minMTU returns the least MTU that a path of a's family may have: for IPv4 what
// every host must take (RFC 791, section 3.1).
func minMTU(a netip.Addr) int {
	if a.Is4() {
		return 576
	}
	return 1280
}

// failure says why the host's socket did not take a datagram, and what the guest
// is told of that.
func (n *nat) failure(err error) (drop, icmpReport) {
	switch {
	case errors.Is(err, syscall.EMSGSIZE):
		// The socket's other goroutine is told of the path's MTU.
		return dropTooBig, icmpReport{}
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.ENETDOWN), errors.Is(err, syscall.EADDRNOTAVAIL):
		return dropUnreachable, icmpReport{what: icmpNetUnreach}
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EHOSTDOWN):
		return dropUnreachable, icmpReport{what: icmpHostUnreach}
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return dropUnreachable, icmpReport{what: icmpProhibited} // the host's own firewall
	case errors.Is(err, net.ErrClosed):
		return dropNATClosed, icmpReport{}
	}
	return n.noSend, icmpReport{}
}
