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
	// a peer takes about 300 bytes, so all of them 20 MB.
	maxUDPPeersTotal = 65536
	// udpIdle is the contract's; udpIdleNew holds until the first reply came.
	// RFC 4787, section 4.3, asks for at least two minutes.
	udpIdle    = 120 * time.Second
	udpIdleNew = 30 * time.Second
)

func (l Limits) udpSessions() int { return limit(l.UDPSessions, defaultUDPSessions) }
func (l Limits) udpPeers() int    { return limit(l.UDPPeers, defaultUDPPeers) }

// A udpNAT forwards the guest's datagrams to the host's sockets and back. handle
// belongs to the link's reader; the other methods may be called by any
// goroutine.
type udpNAT struct{ nat }

func newUDPNAT(cfg *natConfig) *udpNAT {
	u := new(udpNAT)
	u.init(cfg, natBounds{
		name: "UDPSessions", sessions: cfg.limits.udpSessions(), peers: cfg.limits.udpPeers(), allPeers: maxUDPPeersTotal,
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

// handle forwards the datagram p, or the datagrams that it stands for. It never
// waits, and does not keep p.
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
	payload := p.data()
	f := natFlow{proto: policy.UDP, guest: p.source(), remote: p.dest(), quic: sniff.QUICInitial(payload)}
	s, to, ok := u.route(f, len(payload), p.ip(), now)
	if !ok {
		return
	}
	d := outgoing{to: to, payload: payload, ttl: max(1, p.ttl-1), dontFragment: p.dontFragment}
	if n, size := p.segments(); n > 1 {
		d.segment = size
	}
	u.send(s, &d, p.ip(), now)
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
	for b := p.data(); ; {
		k := min(size, len(b))
		u.cfg.dns.ServeDatagram(b[:k], reply)
		if b = b[k:]; len(b) == 0 {
			return
		}
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
