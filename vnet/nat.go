package vnet

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluicenet/sluice/policy"
)

// A natConfig is what the UDP and ICMP NATs need of the Network around them.
// None of its functions may block or call back into a NAT.
type natConfig struct {
	dialer   Dialer
	builder  *builder
	reporter *reporter
	limits   Limits
	dns      DNS // nil refuses port 53

	// admit decides about a flow and records the decision, unless f.before says
	// that the record has it.
	admit func(f natFlow, now time.Time) admission
	// generation is the policy's, to be compared with an admission's.
	generation func() uint64
	// target says where the host's socket goes for a flow to remote: the one
	// translation, of the gateway to loopback.
	target func(remote netip.AddrPort) netip.AddrPort
	// refused records that a datagram of an admitted flow is refused.
	refused func(f natFlow, now time.Time)
	// limitHit records that f found the named bound.
	limitHit func(limit string, f natFlow, now time.Time)
	// warn says something once that the user should know.
	warn func(text string)

	send func(*batch) // to the guest
	drop func(drop)
}

// A natFlow is a flow that is no TCP, as the policy sees it.
type natFlow struct {
	proto  policy.Protocol
	guest  netip.AddrPort // ICMP: the port is the identifier
	remote netip.AddrPort // as the guest wrote it; ICMP: port 0
	quic   bool           // the packet at hand is a QUIC Initial
	before past
}

// past is what the record knows of a flow that is decided again.
type past uint8

const (
	pastNone     past = iota
	pastAdmitted      // an allow is nothing new; a deny ends the flow, no more
	pastDenied        // a deny is nothing new
)

// An admission is what came of a flow.
type admission struct {
	allow      bool
	generation uint64 // of the policy that decided
	// answer is what the guest is told of a denied flow; icmpNone is silence.
	answer icmpError
	// refuse says which datagrams of an admitted flow get port unreachable, so
	// that clients fall back to TCP.
	refuse policy.Refusal
	// end records the end of an admitted flow, with the bytes of payload from
	// and to the guest. It is nil if the flow was admitted before.
	end func(bytesOut, bytesIn uint64, how string, now time.Time)
}

// A nat keeps the sessions of one protocol: one unconnected host socket for
// each source of the guest's (endpoint-independent mapping, RFC 4787, section
// 4.1), and the peers that the guest wrote to from there. Only they get through
// to the guest (address and port-dependent filtering, section 5). Every bound
// evicts what was used the longest ago.
//
//	link reader ─► route ─► session ─► peer ─► hostSocket.send
//	guest ◄─ reply ◄─ deliver ◄─ read, one goroutine per session
type nat struct {
	cfg *natConfig

	// What differs between UDP and ICMP; set before the first packet.

	// listen opens a session's socket; a nil one sends and receives nothing.
	listen func(v6 bool) (*hostSocket, error)
	// reply appends the frames of a datagram from a peer; buf has room for
	// headers in front of the datagram.
	reply func(out *batch, s *session, remote netip.AddrPort, buf []byte)
	// quote returns the guest's packet that a host's error is about.
	quote func(s *session, remote netip.AddrPort, e *hostError) []byte
	// header is what a message on the socket has in front of its payload.
	header int
	// noSocket and noPeer count what found no socket or peer, and noSend what
	// the socket did not take.
	noSocket, noSend, noPeer drop

	bounds natBounds
	hits   *rate.Limiter // of records that a bound was hit
	denied recentDenials // owned by the goroutine that calls route

	spare spareIncoming

	mu       sync.Mutex // guards the following fields, and every session's
	sessions lru[netip.AddrPort, *session]
	allPeers int
	closed   bool

	done       chan struct{}  // closed by close
	goroutines sync.WaitGroup // one for each socket, and the sweeper
}

// natBounds bounds what one guest may use of a nat.
type natBounds struct {
	name     string // of sessions, as Limits calls it
	sessions int
	peers    int           // of one session
	allPeers int           // of all sessions together
	idleNew  time.Duration // a peer without a reply is forgotten after that
	idle     time.Duration // and one that has replied after that
}

// sweepInterval is how often idle peers are looked for, and how much too long
// they may be kept.
const sweepInterval = 10 * time.Second

// init makes the nat ready and starts its sweeper.
func (n *nat) init(cfg *natConfig, b natBounds) {
	n.cfg, n.bounds = cfg, b
	n.hits = rate.NewLimiter(1, 1)
	n.spare = newSpareIncoming()
	n.done = make(chan struct{})
	n.goroutines.Go(n.sweep)
}

// sweep expires until the nat is closed.
func (n *nat) sweep() {
	t := time.NewTicker(sweepInterval)
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			n.expire(now)
		case <-n.done:
			return
		}
	}
}

// A session is one source of the guest's, with its socket. Its fields are
// guarded by nat.mu, but the first two, which never change.
type session struct {
	guest  netip.AddrPort
	socket *hostSocket                // nil if the gateway itself answers
	peers  lru[netip.AddrPort, *peer] // by where the socket sends
}

// close closes the session's socket, which wakes its goroutine.
func (s *session) close() {
	if s.socket != nil {
		s.socket.close()
	}
}

// A peer is somebody whom the guest wrote to. It is guarded by nat.mu.
type peer struct {
	flow       natFlow
	generation uint64 // that admitted it last
	refuse     policy.Refusal
	used       time.Time
	replied    bool
	out, in    uint64 // bytes of payload from and to the guest
	end        func(bytesOut, bytesIn uint64, how string, now time.Time)
}

// route returns the session and the host's address for a packet of n bytes of
// payload, if the policy admits it. If not, or if there is no socket, it has
// answered quote and counted the drop. Only the link's reader calls it.
func (n *nat) route(f natFlow, size int, quote []byte, now time.Time) (*session, netip.AddrPort, bool) {
	to := n.cfg.target(f.remote)
	for {
		generation := n.cfg.generation()
		s, known := n.find(f, to, generation, size, now)
		switch {
		case known == peerCurrent:
			return s, to, true
		case known == peerRefused:
			n.refuseDatagram(f, generation, quote, now)
			return nil, to, false
		}
		switch {
		case known == peerOld:
			f.before = pastAdmitted
		case n.denied.recent(f, generation, now):
			f.before = pastDenied
		}
		a := n.cfg.admit(f, now)
		if !a.allow {
			n.refuse(f, s, to, a, quote, now)
			return nil, to, false
		}
		s, reason := n.join(f, to, a, size, now)
		if reason != dropNone {
			n.cfg.drop(reason)
			return nil, to, false
		}
		if s != nil && a.refuse.Refuses(f.quic) {
			n.refuseDatagram(f, generation, quote, now)
			return nil, to, false
		}
		if s != nil {
			return s, to, true
		}
		// The policy or the session changed meanwhile: once more.
	}
}

// known says what is known of a peer.
type known uint8

const (
	peerUnknown known = iota
	peerOld           // admitted by a policy that has been replaced
	peerCurrent
	peerRefused // admitted, but not with this datagram
)

// find looks up a peer, and counts a packet to it if its admission is current.
func (n *nat) find(f natFlow, to netip.AddrPort, generation uint64, size int, now time.Time) (*session, known) {
	n.mu.Lock()
	defer n.mu.Unlock()
	se := n.sessions.find(f.guest)
	if se == nil {
		return nil, peerUnknown
	}
	pe := se.value.peers.find(to)
	if pe == nil {
		return se.value, peerUnknown
	}
	if pe.value.generation != generation {
		return se.value, peerOld
	}
	if pe.value.refuse.Refuses(f.quic) {
		return se.value, peerRefused
	}
	n.sessions.touch(se)
	se.value.peers.touch(pe)
	pe.value.used = now
	pe.value.out += uint64(size)
	return se.value, peerCurrent
}

// refuse answers a denied packet, and cuts the flow if it was admitted once.
func (n *nat) refuse(f natFlow, s *session, to netip.AddrPort, a admission, quote []byte, now time.Time) {
	if s != nil {
		n.mu.Lock()
		var ends []func()
		if pe := s.peers.find(to); pe != nil {
			ends = n.removePeer(ends, s, pe, endDenied, now)
		}
		n.mu.Unlock()
		run(ends)
	}
	n.denied.add(f, a.generation, now)
	n.cfg.drop(dropDenied)
	n.cfg.reporter.report(icmpReport{what: a.answer}, quote, now)
}

// refuseDatagram answers a datagram that must not pass, of a flow that may.
func (n *nat) refuseDatagram(f natFlow, generation uint64, quote []byte, now time.Time) {
	if !n.denied.recent(f, generation, now) {
		n.cfg.refused(f, now)
	}
	n.denied.add(f, generation, now)
	n.cfg.drop(dropDenied)
	n.cfg.reporter.report(icmpReport{what: icmpPortUnreach}, quote, now)
}

// join makes the peer of an admitted flow, and its session if it is the first.
// No lock is held while a socket is opened. With neither a session nor a reason,
// what was admitted is out of date.
func (n *nat) join(f natFlow, to netip.AddrPort, a admission, size int, now time.Time) (*session, drop) {
	if n.bounds.sessions <= 0 || n.bounds.peers <= 0 {
		n.hit(n.bounds.name, f, now)
		endUnused(a, now)
		return nil, n.noSocket
	}
	var fresh *session
	if !n.has(f.guest) {
		socket, err := n.open(f, now)
		if err != nil {
			endUnused(a, now)
			return nil, n.noSocket
		}
		fresh = &session{guest: f.guest, socket: socket}
	}
	s, reason, ends := n.insert(f, to, a, fresh, size, now)
	run(ends)
	return s, reason
}

// endUnused records the end of a flow that was admitted for nothing.
func endUnused(a admission, now time.Time) {
	if a.end != nil {
		a.end(0, 0, endFailed, now)
	}
}

func (n *nat) has(guest netip.AddrPort) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sessions.find(guest) != nil
}

// open opens a socket. When the process has no descriptor left, the oldest
// session gives way: running out never looks like a deny.
func (n *nat) open(f natFlow, now time.Time) (*hostSocket, error) {
	v6 := f.guest.Addr().Is6()
	socket, err := n.listen(v6)
	if !outOfDescriptors(err) {
		return socket, err
	}
	n.hit("RLIMIT_NOFILE", f, now)
	if !n.evict(now) {
		return nil, err
	}
	return n.listen(v6)
}

func outOfDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// hit records that f found a bound, but not every time under a flood.
func (n *nat) hit(limit string, f natFlow, now time.Time) {
	if n.hits.AllowN(now, 1) {
		n.cfg.limitHit(limit, f, now)
	}
}

// evict ends the oldest session and reports whether there was one.
func (n *nat) evict(now time.Time) bool {
	n.mu.Lock()
	var ends []func()
	oldest := n.sessions.oldest()
	if oldest != nil {
		ends = n.removeSession(nil, oldest, endClosed, now)
	}
	n.mu.Unlock()
	run(ends)
	return oldest != nil
}

// insert puts the flow's peer into its session, which is fresh if there is none
// yet. It makes room where a bound is reached.
func (n *nat) insert(f natFlow, to netip.AddrPort, a admission, fresh *session, size int, now time.Time) (s *session, reason drop, ends []func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	abandon := func(reason drop, how string) (*session, drop, []func()) {
		if fresh != nil {
			ends = append(ends, fresh.close)
		}
		if a.end != nil {
			ends = append(ends, func() { a.end(0, 0, how, now) })
		}
		return nil, reason, ends
	}
	switch {
	case n.closed:
		return abandon(dropNATClosed, endClosed)
	// Whoever replaces the policy decides the peers that are here again, so one
	// that an older policy admitted must not come in after that.
	case a.generation != n.cfg.generation():
		return abandon(dropNone, endClosed)
	}
	se := n.sessions.find(f.guest)
	if se == nil {
		if fresh == nil {
			return abandon(dropNone, endClosed) // it has just expired
		}
		if n.sessions.len() >= n.bounds.sessions {
			ends = append(ends, func() { n.hit(n.bounds.name, f, now) })
			ends = n.removeSession(ends, n.sessions.oldest(), endClosed, now)
		}
		se = n.sessions.insert(f.guest, fresh)
		if fresh.socket != nil {
			n.goroutines.Go(func() { n.read(fresh) })
		}
	}
	s = se.value
	n.sessions.touch(se)
	if pe := s.peers.find(to); pe != nil { // admitted again by a new policy
		pe.value.generation, pe.value.refuse, pe.value.used = a.generation, a.refuse, now
		pe.value.out += uint64(size)
		s.peers.touch(pe)
		return s, dropNone, ends
	}
	if s.peers.len() >= n.bounds.peers {
		ends = n.removePeer(ends, s, s.peers.oldest(), endClosed, now)
	}
	for n.allPeers >= n.bounds.allPeers && n.sessions.len() > 1 {
		ends = n.removeSession(ends, n.sessions.oldest(), endClosed, now)
	}
	n.allPeers++
	s.peers.insert(to, &peer{flow: f, generation: a.generation, refuse: a.refuse, used: now, out: uint64(size), end: a.end})
	return s, dropNone, ends
}

// removePeer takes a peer out and appends to ends what records its end, to be
// run without n.mu. The caller holds n.mu.
func (n *nat) removePeer(ends []func(), s *session, pe *lruEntry[netip.AddrPort, *peer], how string, now time.Time) []func() {
	s.peers.remove(pe)
	n.allPeers--
	p := pe.value
	if p.end == nil {
		return ends
	}
	return append(ends, func() { p.end(p.out, p.in, how, now) })
}

// removeSession takes a session out, with its peers, and appends to ends what
// closes its socket. The caller holds n.mu.
func (n *nat) removeSession(ends []func(), se *lruEntry[netip.AddrPort, *session], how string, now time.Time) []func() {
	s := se.value
	n.sessions.remove(se)
	for pe := range s.peers.all {
		ends = n.removePeer(ends, s, pe, how, now)
	}
	return append(ends, s.close)
}

// run does what had to wait for the lock to be free.
func run(fs []func()) {
	for _, f := range fs {
		f()
	}
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
	if se := n.sessions.find(s.guest); se != nil && se.value == s {
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
	if se := n.sessions.find(s.guest); se != nil && se.value == s {
		n.sessions.touch(se)
	}
	for i := range in.errors {
		e := &in.errors[i]
		e.remote = netip.AddrPort{}
		if pe := s.peers.find(e.to); pe != nil {
			e.remote = pe.value.flow.remote
		} else if e.to.Port() == 0 {
			// Linux forgets the port of what it found too big itself. Any peer
			// there will do, best the latest: an MTU is the address's.
			for pe := range s.peers.all {
				if pe.key.Addr() == e.to.Addr() {
					e.to, e.remote = pe.key, pe.value.flow.remote
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

// repliedLocked counts size bytes from a peer and returns the peer as the guest
// knows it, or the zero AddrPort if it is none. The caller holds nat.mu.
func (s *session) repliedLocked(from netip.AddrPort, size int, now time.Time) netip.AddrPort {
	pe := s.peers.find(from)
	if pe == nil {
		return netip.AddrPort{}
	}
	p := pe.value
	p.used, p.replied = now, true
	p.in += uint64(size)
	s.peers.touch(pe)
	return p.flow.remote
}

// deliverError tells the guest what a router, or the peer itself, said about a
// packet of its.
func (n *nat) deliverError(s *session, e *hostError, now time.Time) {
	r := icmpReport{what: e.what, mtu: e.mtu}
	switch {
	case e.from == e.to.Addr():
		r.from = e.remote.Addr()
	case !e.from.IsLoopback() && e.from.Is4() == s.guest.Addr().Is4():
		r.from = e.from
	}
	n.cfg.reporter.report(r, n.quote(s, e.remote, e), now)
}

// expire ends the peers that have been idle too long, and sessions without any.
func (n *nat) expire(now time.Time) {
	n.mu.Lock()
	var ends []func()
	for se := range n.sessions.all {
		s := se.value
		for pe := range s.peers.all {
			idle := now.Sub(pe.value.used)
			if idle < n.bounds.idleNew {
				break // and so are those used later
			}
			if idle >= n.bounds.idle || !pe.value.replied {
				ends = n.removePeer(ends, s, pe, endTimeout, now)
			}
		}
		if s.peers.len() == 0 {
			ends = n.removeSession(ends, se, endTimeout, now)
		}
	}
	n.mu.Unlock()
	run(ends)
}

// recheck decides every peer again and cuts those that are now denied. It is
// called after the policy was replaced.
func (n *nat) recheck(now time.Time) {
	type member struct {
		s  *session
		to netip.AddrPort
		f  natFlow
	}
	n.mu.Lock()
	var members []member
	for se := range n.sessions.all {
		for pe := range se.value.peers.all {
			members = append(members, member{se.value, pe.key, pe.value.flow})
		}
	}
	n.mu.Unlock()
	for _, m := range members {
		m.f.before = pastAdmitted
		a := n.cfg.admit(m.f, now)
		n.mu.Lock()
		var ends []func()
		if pe := m.s.peers.find(m.to); pe != nil {
			if pe.value.generation, pe.value.refuse = a.generation, a.refuse; !a.allow {
				ends = n.removePeer(nil, m.s, pe, endDenied, now)
			}
		}
		n.mu.Unlock()
		run(ends)
	}
}

// close ends every session and returns when their goroutines have. It is
// idempotent; packets that come later are dropped.
func (n *nat) close() {
	n.mu.Lock()
	if !n.closed {
		n.closed = true
		close(n.done)
	}
	var ends []func()
	for se := range n.sessions.all {
		ends = n.removeSession(ends, se, endClosed, time.Now())
	}
	n.mu.Unlock()
	run(ends)
	n.goroutines.Wait()
}

// count returns the sessions and their peers at this moment.
func (n *nat) count() (sessions, peers int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sessions.len(), n.allPeers
}
