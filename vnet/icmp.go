package vnet

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluicenet/sluice/policy"
)

// Bounds of the ICMP NAT.
const (
	// maxEchoSessions is how many identifiers, each of them a ping, may be in
	// use at once. Their sockets come out of the descriptors in reserve.
	maxEchoSessions = 64
	// maxEchoPeers bounds the addresses that one of them may ask.
	maxEchoPeers = 256
	// echoIdle is what RFC 5508, section 3.2, asks for at least.
	echoIdle = 60 * time.Second
)

// An icmpNAT forwards the guest's echo requests through the host's unprivileged
// echo sockets, and the replies back, with the guest's identifiers and sequence
// numbers. Requests to the gateway it answers itself. handle belongs to the
// link's reader; the other methods may be called by any goroutine.
type icmpNAT struct {
	remote nat           // by way of the host's sockets
	local  nat           // of the gateway: sessions without a socket
	limits *rate.Limiter // of requests
	told   atomic.Bool   // the user, that there are no echo sockets
	out    batch         // the gateway's answer; owned by the link's reader
}

func newICMPNAT(cfg *natConfig) *icmpNAT {
	m := &icmpNAT{limits: newICMPLimiter(cfg.limits)}
	for _, n := range []*nat{&m.remote, &m.local} {
		n.init(cfg, natBounds{
			sessionsName: "EchoSessions", peersName: "EchoPeers",
			sessions: maxEchoSessions, peers: maxEchoPeers, allPeers: maxEchoSessions * maxEchoPeers,
			idleNew: echoIdle, idle: echoIdle,
		})
		n.noSocket, n.noSend, n.noPeer = dropICMPSocket, dropICMPSend, dropICMPPeer
		n.header = icmpLen
		n.reply, n.quote = m.appendReply, quoteEcho
	}
	m.remote.listen = m.listen
	m.local.listen = func(bool) (*hostSocket, error) { return nil, nil }
	return m
}

// listen opens an echo socket. Where there are none, the user is told once.
func (m *icmpNAT) listen(v6 bool) (*hostSocket, error) {
	c, err := m.remote.cfg.dialer.ListenICMP(v6)
	if err != nil {
		if !outOfDescriptors(err) && !m.told.Swap(true) {
			m.remote.cfg.warn(fmt.Sprintf("this host forbids echo requests, so the guest's pings are dropped: %v", err))
		}
		return nil, err
	}
	return newHostSocket(c, v6)
}

// handle forwards the echo request p, or answers it for the gateway. It never
// waits, and does not keep p.
func (m *icmpNAT) handle(p *packet, now time.Time) {
	cfg := m.remote.cfg
	if !m.limits.AllowN(now, 1) {
		cfg.drop(dropICMPRate)
		return
	}
	ident, seq := p.echoIdent()
	f := natFlow{proto: policy.ICMPv4, guest: netip.AddrPortFrom(p.src, ident), remote: netip.AddrPortFrom(p.dst, 0)}
	if p.v6 {
		f.proto = policy.ICMPv6
	}
	size := p.end - p.payload
	if cfg.builder.gateway(p.v6) == p.dst {
		if s, to, ok := m.local.route(f, size, p.ip(), now); ok {
			m.local.replied(s, to, size, now)
			m.out.reset()
			cfg.builder.appendEchoReply(&m.out, p.dst, p.src, ident, seq, p.data())
			cfg.send(&m.out)
		}
		return
	}
	if p.ttl == 1 {
		cfg.drop(dropExpired)
		cfg.reporter.report(icmpReport{what: icmpTimeExceed}, p.ip(), now)
		return
	}
	if s, to, ok := m.remote.route(f, size, p.ip(), now); ok {
		// The host's socket puts its own identifier in place of the guest's.
		d := outgoing{to: to, payload: p.frame[p.l4:p.end], ttl: p.ttl - 1, dontFragment: p.dontFragment}
		if err := s.socket.send(&d); err != nil {
			reason, r := m.remote.failure(err)
			cfg.drop(reason)
			cfg.reporter.report(r, p.ip(), now)
		}
	}
}

// appendReply appends a peer's echo reply as the guest gets it.
func (m *icmpNAT) appendReply(out *batch, s *session, remote netip.AddrPort, buf []byte) {
	b := buf[udpHeadroom:]
	want := byte(icmpEchoReply)
	if s.guest.Addr().Is6() {
		want = icmp6EchoReply
	} else if len(b) > ipv4Len && b[0] == 0x45 {
		b = b[ipv4Len:] // macOS gives the header too; no ICMP type is 0x45
	}
	if len(b) < icmpLen || b[0] != want || !echoSocketsSwapIdent && binary.BigEndian.Uint16(b[4:]) != s.guest.Port() {
		m.remote.cfg.drop(dropICMPPeer)
		return
	}
	seq := binary.BigEndian.Uint16(b[6:])
	m.remote.cfg.builder.appendEchoReply(out, remote.Addr(), s.guest.Addr(), s.guest.Port(), seq, b[icmpLen:])
}

// quoteEcho makes the guest's request anew for a quotation, with the identifier
// that the guest gave it.
func quoteEcho(s *session, remote netip.AddrPort, e *hostError) []byte {
	proto, kind := uint8(protoICMPv4), byte(icmpEcho)
	if s.guest.Addr().Is6() {
		proto, kind = protoICMPv6, icmp6Echo
	}
	// The host's own errors come without the datagram.
	b := make([]byte, max(icmpLen, len(e.data)))
	b[0] = kind
	copy(b, e.data)
	binary.BigEndian.PutUint16(b[4:], s.guest.Port())
	return quoteTransport(nil, s.guest.Addr(), remote.Addr(), proto, b)
}

// recheck decides every flow again, after the policy was replaced.
func (m *icmpNAT) recheck(now time.Time) {
	m.remote.recheck(now)
	m.local.recheck(now)
}

// close ends every session and returns when their goroutines have. It is
// idempotent.
func (m *icmpNAT) close() {
	m.remote.close()
	m.local.close()
}
