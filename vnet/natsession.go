package vnet

import (
	"net/netip"
	"time"

	"github.com/sluicenet/sluice/internal/lru"
	"github.com/sluicenet/sluice/policy"
)

// A session is one source of the guest's, with its socket. Its fields are
// guarded by nat.mu, but the first two, which never change.
type session struct {
	guest  netip.AddrPort
	socket *hostSocket                      // nil if the gateway itself answers
	peers  lru.Table[netip.AddrPort, *peer] // by where the socket sends
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
	generation uint64 // that decided it last
	verdict    policy.Verdict
	refuse     policy.Refusal
	record     *natRecord
	used       time.Time
	replied    bool
	out, in    uint64 // bytes of payload from and to the guest
}

// decideLocked notes how the peer was decided. The caller holds nat.mu.
func (p *peer) decideLocked(a admission) {
	p.generation, p.verdict, p.refuse = a.generation, a.verdict, a.refuse
}

// sentLocked counts a packet to a peer. The caller holds nat.mu.
func (s *session) sentLocked(pe *lru.Entry[netip.AddrPort, *peer], t *transit) {
	s.peers.Touch(pe)
	pe.Value.used = t.now
	pe.Value.out += uint64(t.size)
}

// repliedLocked counts size bytes from a peer and returns the peer as the guest
// knows it, or the zero AddrPort if it is none. The caller holds nat.mu.
func (s *session) repliedLocked(from netip.AddrPort, size int, now time.Time) netip.AddrPort {
	pe := s.peers.Find(from)
	if pe == nil {
		return netip.AddrPort{}
	}
	p := pe.Value
	p.used, p.replied = now, true
	p.in += uint64(size)
	s.peers.Touch(pe)
	return p.flow.remote
}

// insert puts the admitted packet's peer into its session, which is fresh if
// there is none yet, and counts the packet. It makes room where a bound is
// reached. What it returns in ends is to be run without n.mu. Only the link's
// reader calls it, so nobody else makes a session meanwhile.
func (n *nat) insert(t *transit, a admission, fresh *session) (s *session, reason drop, ends []func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	se := n.sessions.Find(t.flow.guest)
	var pe *lru.Entry[netip.AddrPort, *peer]
	if se != nil {
		pe = se.Value.peers.Find(t.to)
	}
	switch {
	case n.closed:
		return nil, dropNATClosed, n.abandon(t, a, fresh)
	case se == nil && fresh == nil, pe == nil && t.flow.before == pastAdmitted:
		return nil, dropNone, n.abandon(t, a, fresh) // it has just expired
	// Whoever replaces the policy decides the peers that are here again, so one
	// that an older policy admitted must not come in after that.
	case a.generation != n.cfg.generation():
		return nil, dropNone, n.abandon(t, a, fresh)
	}
	if se == nil {
		if n.sessions.Len() >= n.bounds.sessions {
			ends = append(ends, n.hitLater(n.bounds.sessionsName, t))
			ends = n.removeSession(ends, n.sessions.Oldest(), endClosed, t.now)
		}
		se = n.sessions.Put(t.flow.guest, fresh)
		if fresh.socket != nil {
			n.goroutines.Go(func() { n.read(fresh) })
		}
	}
	s = se.Value
	n.sessions.Touch(se)
	if pe == nil {
		ends = n.makeRoom(ends, s, t)
		n.allPeers++
		pe = s.peers.Put(t.to, &peer{flow: t.flow, record: a.record})
	}
	pe.Value.decideLocked(a)
	s.sentLocked(pe, t)
	return s, dropNone, ends
}

// abandon returns what undoes an admission that came too late.
func (n *nat) abandon(t *transit, a admission, fresh *session) (ends []func()) {
	if fresh != nil {
		ends = append(ends, fresh.close)
	}
	now := t.now
	return append(ends, func() { n.endUnused(a, now) })
}

// makeRoom evicts, if need be, so that s may have another peer. The caller holds
// n.mu.
func (n *nat) makeRoom(ends []func(), s *session, t *transit) []func() {
	full := s.peers.Len() >= n.bounds.peers
	if full {
		ends = n.removePeer(ends, s, s.peers.Oldest(), endClosed, t.now)
	}
	for n.allPeers >= n.bounds.allPeers && n.sessions.Len() > 1 {
		full = true
		ends = n.removeSession(ends, n.sessions.Oldest(), endClosed, t.now)
	}
	if full {
		ends = append(ends, n.hitLater(n.bounds.peersName, t))
	}
	return ends
}

// removePeer takes a peer out and appends to ends what records its end, to be
// run without n.mu. The caller holds n.mu.
func (n *nat) removePeer(ends []func(), s *session, pe *lru.Entry[netip.AddrPort, *peer], how string, now time.Time) []func() {
	s.peers.Remove(pe)
	n.allPeers--
	p := pe.Value
	return append(ends, func() {
		n.cfg.ended(natEnd{p.record, p.verdict, p.generation, p.out, p.in, how}, now)
	})
}

// removeSession takes a session out, with its peers, and appends to ends what
// closes its socket. The caller holds n.mu.
func (n *nat) removeSession(ends []func(), se *lru.Entry[netip.AddrPort, *session], how string, now time.Time) []func() {
	s := se.Value
	n.sessions.Remove(se)
	for pe := range s.peers.All {
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

// sweepInterval is how often idle peers are looked for, and how much too long
// they may be kept.
const sweepInterval = 10 * time.Second

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

// expire ends the peers that have been idle too long, and sessions without any.
func (n *nat) expire(now time.Time) {
	n.mu.Lock()
	var ends []func()
	for se := range n.sessions.All {
		s := se.Value
		for pe := range s.peers.All {
			idle := now.Sub(pe.Value.used)
			if idle < n.bounds.idleNew {
				break // and so are those used later
			}
			if idle >= n.bounds.idle || !pe.Value.replied {
				ends = n.removePeer(ends, s, pe, endTimeout, now)
			}
		}
		if s.peers.Len() == 0 {
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
	for se := range n.sessions.All {
		for pe := range se.Value.peers.All {
			members = append(members, member{se.Value, pe.Key(), pe.Value.flow})
		}
	}
	n.mu.Unlock()
	for _, m := range members {
		m.f.before = pastAdmitted
		a := n.cfg.admit(m.f, now)
		n.mu.Lock()
		var ends []func()
		if pe := m.s.peers.Find(m.to); pe != nil {
			if pe.Value.decideLocked(a); !a.allow {
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
	for se := range n.sessions.All {
		ends = n.removeSession(ends, se, endClosed, time.Now())
	}
	n.mu.Unlock()
	run(ends)
	n.goroutines.Wait()
}

// appendFlows appends what is known of the peers of this moment.
func (n *nat) appendFlows(all []FlowInfo, now time.Time) []FlowInfo {
	n.mu.Lock()
	defer n.mu.Unlock()
	for se := range n.sessions.All {
		for pe := range se.Value.peers.All {
			p := pe.Value
			info := p.record.info
			info.BytesOut, info.BytesIn, info.Duration = p.out, p.in, now.Sub(p.record.opened)
			all = append(all, info)
		}
	}
	return all
}

// count returns the sessions and their peers at this moment.
func (n *nat) count() (sessions, peers int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sessions.Len(), n.allPeers
}
