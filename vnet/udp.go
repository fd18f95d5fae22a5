package vnet

import (
	"net/netip"
	"time"

	"github.com/sluicenet/sluice/internal/sniff"
	"github.com/sluicenet/sluice/policy"
)

// Bounds of the UDP NAT beside those of Limits.
const (
	// defaultUDPSessions and defaultUDPPeers are the contract's.
	defaultUDPSessions = 1024
	defaultUDPPeers    = 1024
	// maxUDPPeersTotal bounds the memory of a guest that fills every session:
	// a peer with its record takes about 1 KiB, so all of them 64 MiB.
	maxUDPPeersTotal = 65536
	// udpIdle is the contract's; udpIdleNew holds until the first reply came.
	// RFC 4787, section 4.3, asks for at least two minutes.
	udpIdle    = 120 * time.Second
	udpIdleNew = 30 * time.Second
)

func (l Limits) udpSessions() int { return limit(l.UDPSessions, defaultUDPSessions) }
func (l Limits) udpPeers() int    { return limit(l.UDPPeers, defaultUDPPeers) }

// A udpNAT forwards the guest's datagrams to the host's sockets and back. handle
// and flush belong to the link's reader; the other methods may be called by any
// goroutine.
type udpNAT struct {
	nat
	train train // owned by the link's reader
}

func newUDPNAT(cfg *natConfig) *udpNAT {
	u := new(udpNAT)
	u.init(cfg, natBounds{
		sessionsName: "UDPSessions", peersName: "UDPPeers",
		sessions: cfg.limits.udpSessions(), peers: cfg.limits.udpPeers(), allPeers: maxUDPPeersTotal,
		idleNew: udpIdleNew, idle: udpIdle,
	})
	u.noSocket, u.noSend, u.noPeer = dropUDPSocket, dropUDPSend, dropUDPPeer
	u.listen, u.reply, u.quote = u.listenUDP, u.appendReply, quoteDatagram
	return u
}

func (u *udpNAT) listenUDP(v6 bool) (*hostSocket, error) {
	c, err := u.cfg.dialer.ListenUDP(v6)
	if err != nil {
		return nil, err
	}
	return newHostSocket(c, v6)
}

// handle forwards the datagram p, or the datagrams that it stands for, at the
// latest when flush is called. It never waits, and does not keep p.
func (u *udpNAT) handle(p *packet, now time.Time) {
	if p.dstPort == dnsPort {
		u.query(p, now)
		return
	}
	local := u.cfg.builder.gateway(p.v6) == p.dst
	if p.ttl == 1 && !local {
		u.cfg.drop(dropExpired)
		u.cfg.reporter.report(icmpReport{what: icmpTimeExceed}, p.ip(), now)
		return
	}
	_, size := p.segments()
	f := natFlow{proto: policy.UDP, guest: p.source(), remote: p.dest(), quic: anyInitial(p.data(), size)}
	s, to, ok := u.route(f, p.end-p.payload, p.ip(), now)
	if !ok {
		return
	}
	c := car{s: s, remote: f.remote, to: to, ttl: max(1, p.ttl-1), dontFragment: p.dontFragment}
	for b := range datagrams(p.data(), size) {
		if !u.train.couple(c, b) {
			u.flush(now)
			u.train.couple(c, b)
		}
	}
}

// flush sends what handle has gathered. The link's reader calls it when it has
// handled all that one wake-up brought.
func (u *udpNAT) flush(now time.Time) {
	t := &u.train
	if t.n == 0 {
		return
	}
	if err := t.s.socket.send(t.outgoing()); err != nil {
		reason, r := u.failure(err)
		for range t.n {
			u.cfg.drop(reason)
		}
		first := hostError{data: t.buf[:t.size]}
		u.cfg.reporter.report(r, quoteDatagram(t.s, t.remote, &first), now)
	}
	t.reset()
}

// datagrams yields the parts of b of the given size, the last one perhaps
// smaller; an empty b is one empty part.
func datagrams(b []byte, size int) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for {
			k := min(size, len(b))
			if !yield(b[:k]) || k == len(b) {
				return
			}
			b = b[k:]
		}
	}
}

// anyInitial reports whether one of the datagrams in b may open a QUIC
// connection.
func anyInitial(b []byte, size int) bool {
	for d := range datagrams(b, size) {
		if sniff.QUICInitial(d) {
			return true
		}
	}
	return false
}

// query hands what is asked of any port 53 to the proxy, whose answer comes from
// the address that was asked.
func (u *udpNAT) query(p *packet, now time.Time) {
	if u.cfg.dns == nil {
		u.cfg.drop(dropDNS)
		u.cfg.reporter.report(icmpReport{what: icmpPortUnreach, from: p.dst}, p.ip(), now)
		return
	}
	guest, asked := p.source(), p.dest()
	reply := func(answer []byte) {
		var out batch
		if u.cfg.builder.appendUDP(&out, asked, guest, answer) {
			u.cfg.send(&out)
		}
	}
	_, size := p.segments()
	for query := range datagrams(p.data(), size) {
		u.cfg.dns.ServeDatagram(query, reply)
	}
}

// appendReply appends a peer's datagram as the guest gets it. It comes from the
// address that the guest wrote to.
func (u *udpNAT) appendReply(out *batch, s *session, remote netip.AddrPort, buf []byte) {
	if f, ok := u.cfg.builder.wrapUDP(buf, remote, s.guest); ok {
		out.frames = append(out.frames, f)
		return
	}
	u.cfg.builder.appendUDP(out, remote, s.guest, buf[udpHeadroom:])
}

// quoteDatagram makes the guest's datagram anew for a quotation.
func quoteDatagram(s *session, remote netip.AddrPort, e *hostError) []byte {
	head := make([]byte, udpLen, udpLen+len(e.data))
	putUDP(head, s.guest, remote, len(e.data))
	return quoteTransport(nil, s.guest.Addr(), remote.Addr(), protoUDP, append(head, e.data...))
}
