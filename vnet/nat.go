package vnet

import (
	"errors"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluicenet/sluice/internal/lru"
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

	// newFlow reports whether a flow may begin now, or records that there are too
	// many.
	newFlow func(f natFlow, now time.Time) bool
	// admit decides about a flow and records the decision, unless f.before says
	// that the record has it.
	admit func(f natFlow, now time.Time) admission
	// ended records the end of an admitted flow.
	ended func(e natEnd, now time.Time)
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
	verdict    policy.Verdict
	// answer is what the guest is told of a denied flow; icmpNone is silence.
	answer icmpError
	// refuse says which datagrams of an admitted flow get port unreachable, so
	// that clients fall back to TCP.
	refuse policy.Refusal
	// record is what the flow's end will say; nil if the flow was admitted before.
	record *natRecord
}

// A natRecord is what the events of an admitted flow say. It is immutable.
type natRecord struct {
	info    FlowInfo
	opened  time.Time
	release func(time.Time) // lets go of the names that decided
}

// A natEnd is the end of an admitted flow, under the rules that decided it last.
type natEnd struct {
	record     *natRecord
	verdict    policy.Verdict
	generation uint64
	out, in    uint64 // bytes of payload from and to the guest
	how        string
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
	sessions lru.Table[netip.AddrPort, *session]
	allPeers int
	closed   bool

	done       chan struct{}  // closed by close
	goroutines sync.WaitGroup // one for each socket, and the sweeper
}

// natBounds bounds what one guest may use of a nat.
type natBounds struct {
	sessions int
	peers    int // of one session
	allPeers int // of all sessions together
	// What events call the first two: the fields of Limits, where they are some.
	sessionsName, peersName string

	idleNew time.Duration // a peer without a reply is forgotten after that
	idle    time.Duration // and one that has replied after that
}

// init makes the nat ready and starts its sweeper.
func (n *nat) init(cfg *natConfig, b natBounds) {
	n.cfg, n.bounds = cfg, b
	n.hits = rate.NewLimiter(1, 1)
	n.spare = newSpareIncoming()
	n.done = make(chan struct{})
	n.goroutines.Go(n.sweep)
}

// A transit is a packet of the guest's that asks to pass.
type transit struct {
	flow  natFlow
	to    netip.AddrPort // where the host's socket would send it
	size  int            // of its payload, in bytes
	quote []byte         // the IP packet, for an error about it
	now   time.Time
}

// route returns the session and the host's address for a packet of size bytes
// of payload, if the policy admits it. If not, or if there is no socket, it has
// answered quote and counted the drop. Only the link's reader calls it.
func (n *nat) route(f natFlow, size int, quote []byte, now time.Time) (*session, netip.AddrPort, bool) {
	t := transit{flow: f, to: n.cfg.target(f.remote), size: size, quote: quote, now: now}
	for {
		t.flow.before = pastNone
		generation := n.cfg.generation()
		s, known := n.find(&t, generation)
		switch known {
		case peerCurrent:
			return s, t.to, true
		case peerRefused:
			n.refuseDatagram(&t, generation)
			return nil, t.to, false
		case peerOld:
			t.flow.before = pastAdmitted
		case peerUnknown:
			if !n.cfg.newFlow(f, now) {
				n.cfg.drop(dropFlowRate)
				return nil, t.to, false
			}
			if n.denied.recent(t.flow, generation, now) {
				t.flow.before = pastDenied
			}
		}
		a := n.cfg.admit(t.flow, now)
		if !a.allow {
			n.refuse(&t, s, a)
			return nil, t.to, false
		}
		s, reason := n.join(&t, a)
		switch {
		case reason != dropNone:
			n.cfg.drop(reason)
			return nil, t.to, false
		case s == nil:
			continue // the policy or the session changed meanwhile
		case a.refuse.Refuses(f.quic):
			n.refuseDatagram(&t, generation)
			return nil, t.to, false
		}
		return s, t.to, true
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
func (n *nat) find(t *transit, generation uint64) (*session, known) {
	n.mu.Lock()
	defer n.mu.Unlock()
	se := n.sessions.Find(t.flow.guest)
	if se == nil {
		return nil, peerUnknown
	}
	s := se.Value
	pe := s.peers.Find(t.to)
	switch {
	case pe == nil:
		return s, peerUnknown
	case pe.Value.generation != generation:
		return s, peerOld
	case pe.Value.refuse.Refuses(t.flow.quic):
		return s, peerRefused
	}
	n.sessions.Touch(se)
	s.sentLocked(pe, t)
	return s, peerCurrent
}

// refuse answers a denied packet, and cuts the flow if it was admitted once.
func (n *nat) refuse(t *transit, s *session, a admission) {
	if s != nil {
		n.mu.Lock()
		var ends []func()
		if pe := s.peers.Find(t.to); pe != nil {
			pe.Value.decideLocked(a)
			ends = n.removePeer(ends, s, pe, endDenied, t.now)
		}
		n.mu.Unlock()
		run(ends)
	}
	n.denied.add(t.flow, a.generation, t.now)
	n.cfg.drop(dropDenied)
	n.cfg.reporter.report(icmpReport{what: a.answer}, t.quote, t.now)
}

// refuseDatagram answers a datagram that must not pass, of a flow that may.
func (n *nat) refuseDatagram(t *transit, generation uint64) {
	if !n.denied.recent(t.flow, generation, t.now) {
		n.cfg.refused(t.flow, t.now)
	}
	n.denied.add(t.flow, generation, t.now)
	n.cfg.drop(dropDenied)
	n.cfg.reporter.report(icmpReport{what: icmpPortUnreach}, t.quote, t.now)
}

// join makes the peer of an admitted flow, and its session if it is the first.
// No lock is held while a socket is opened. With neither a session nor a reason,
// what was admitted is out of date.
func (n *nat) join(t *transit, a admission) (*session, drop) {
	if n.bounds.sessions <= 0 || n.bounds.peers <= 0 {
		n.hit(n.bounds.sessionsName, t)
		n.endUnused(a, t.now)
		return nil, n.noSocket
	}
	var fresh *session
	if !n.has(t.flow.guest) {
		socket, err := n.open(t)
		if err != nil {
			n.endUnused(a, t.now)
			return nil, n.noSocket
		}
		fresh = &session{guest: t.flow.guest, socket: socket}
	}
	s, reason, ends := n.insert(t, a, fresh)
	run(ends)
	return s, reason
}

// endUnused records the end of a flow that was admitted for nothing.
func (n *nat) endUnused(a admission, now time.Time) {
	if a.record != nil {
		n.cfg.ended(natEnd{record: a.record, verdict: a.verdict, generation: a.generation, how: endFailed}, now)
	}
}

func (n *nat) has(guest netip.AddrPort) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sessions.Find(guest) != nil
}

// open opens a socket. When the process has no descriptor left, the oldest
// session gives way: running out never looks like a deny.
func (n *nat) open(t *transit) (*hostSocket, error) {
	v6 := t.flow.guest.Addr().Is6()
	socket, err := n.listen(v6)
	if !outOfDescriptors(err) {
		return socket, err
	}
	n.hit("RLIMIT_NOFILE", t)
	if !n.evict(t.now) {
		return nil, err
	}
	return n.listen(v6)
}

func outOfDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// hit records that t found a bound, but not every time under a flood.
func (n *nat) hit(limit string, t *transit) {
	if n.hits.AllowN(t.now, 1) {
		n.cfg.limitHit(limit, t.flow, t.now)
	}
}

// hitLater returns what does so when no lock is held. It keeps a copy of t, which
// stays on its stack.
func (n *nat) hitLater(limit string, t *transit) func() {
	kept := *t
	return func() { n.hit(limit, &kept) }
}

// evict ends the oldest session and reports whether there was one.
func (n *nat) evict(now time.Time) bool {
	n.mu.Lock()
	var ends []func()
	oldest := n.sessions.Oldest()
	if oldest != nil {
		ends = n.removeSession(nil, oldest, endClosed, now)
	}
	n.mu.Unlock()
	run(ends)
	return oldest != nil
}
