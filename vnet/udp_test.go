package vnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/vnet/link"
)

// DialTCP makes natLab a Dialer; nothing here dials.
func (l *natLab) DialTCP(context.Context, netip.AddrPort) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

func TestUDPForward(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		u := l.udp()
		server := listenUDP(t, at(c.loopback, 0))
		l.mapTo(at(c.remote, 9), server)
		u.handle(l.packet(udp(at(c.guest, 1000), at(c.remote, 9), "question")), l.now)
		got, from := receiveFrom(t, server)
		if got != "question" {
			t.Errorf("the server got %q", got)
		}
		sendTo(t, server, "answer", from)
		l.expectUDP(at(c.remote, 9), at(c.guest, 1000), "answer")
		// Another datagram is the same flow, from the same socket.
		u.handle(l.packet(udp(at(c.guest, 1000), at(c.remote, 9), "")), l.now)
		if got, again := receiveFrom(t, server); got != "" || again != from {
			t.Errorf("then it got %q from %v, first from %v", got, again, from)
		}
		l.wantEvents("open " + at(c.remote, 9))
		u.close()
		l.wantEvents("close " + at(c.remote, 9) + " 8 6 closed")
		l.wantDrops("")
	})
}

// TestUDPEndpointIndependent: one source has one socket, whoever it writes to,
// and another source another one.
func TestUDPEndpointIndependent(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		u := l.udp()
		a, b := listenUDP(t, at(c.loopback, 0)), listenUDP(t, at(c.loopback, 0))
		l.mapTo(at(c.remote, 1), a)
		l.mapTo(at(c.remote2, 2), b)
		u.handle(l.packet(udp(at(c.guest, 1000), at(c.remote, 1), "x")), l.now)
		u.handle(l.packet(udp(at(c.guest, 1000), at(c.remote2, 2), "x")), l.now)
		u.handle(l.packet(udp(at(c.guest, 1001), at(c.remote, 1), "x")), l.now)
		_, fromA := receiveFrom(t, a)
		_, fromA2 := receiveFrom(t, a)
		_, fromB := receiveFrom(t, b)
		if fromA != fromB || fromA == fromA2 {
			t.Errorf("sockets %v and %v for one source, %v for another", fromA, fromB, fromA2)
		}
		sendTo(t, b, "from b", fromB)
		l.expectUDP(at(c.remote2, 2), at(c.guest, 1000), "from b")
		sendTo(t, a, "to the other", fromA2)
		l.expectUDP(at(c.remote, 1), at(c.guest, 1001), "to the other")
		if sessions, peers := u.count(); sessions != 2 || peers != 3 {
			t.Errorf("%d sessions, %d peers", sessions, peers)
		}
	})
}

// TestL29ThirdParty: a reply passes only from an address and port that the guest
// wrote to.
func TestL29ThirdParty(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		u := l.udp()
		server, stranger := listenUDP(t, at(c.loopback, 0)), listenUDP(t, at(c.loopback, 0))
		l.mapTo(at(c.remote, 9), server)
		u.handle(l.packet(udp(at(c.guest, 1000), at(c.remote, 9), "x")), l.now)
		_, from := receiveFrom(t, server)
		sendTo(t, stranger, "let me in", from)
		sendTo(t, server, "answer", from)
		l.expectUDP(at(c.remote, 9), at(c.guest, 1000), "answer")
		l.silence()
		l.wantDrops("udp-peer: 1")
	})
}

// TestUDPGateway: the gateway's address is the host's loopback, both ways.
func TestUDPGateway(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		u := l.udp()
		server := listenUDP(t, at(c.loopback, 0))
		port := server.LocalAddr().(*net.UDPAddr).Port
		// TTL 1 is enough: the gateway is the next hop.
		u.handle(l.packet(udp(at(c.guest, 1000), at(c.gateway, port), "x", hops(1))), l.now)
		_, from := receiveFrom(t, server)
		sendTo(t, server, "answer", from)
		l.expectUDP(at(c.gateway, port), at(c.guest, 1000), "answer")
	})
}

func TestUDPDenied(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		u := l.udp()
		server := listenUDP(t, at(c.loopback, 0))
		l.mapTo(at(c.remote, 9), server)
		l.denyTo(at(c.remote, 9), icmpNone)
		frame := udp(at(c.guest, 1000), at(c.remote, 9), "x")
		for range 3 {
			u.handle(l.packet(frame), l.now)
		}
		l.silence()
		l.wantEvents("deny " + at(c.remote, 9)) // repetitions are one attempt
		l.wantDrops("denied: 3")
		if n := l.sockets.Load(); n != 0 {
			t.Errorf("%d sockets were opened for a denied flow", n)
		}
		u.handle(l.packet(frame), l.now.Add(time.Minute))
		l.wantEvents("deny " + at(c.remote, 9))

		// What has become allowed, by a name that was just looked up, say, is
		// allowed at once.
		l.allow(at(c.remote, 9))
		u.handle(l.packet(frame), l.now)
		if got, _ := receiveFrom(t, server); got != "x" {
			t.Errorf("the server got %q", got)
		}
		l.wantEvents("open " + at(c.remote, 9))
	})
}

// TestUDPReject: where the guest is told, its datagram is quoted.
func TestUDPReject(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		for _, answer := range []icmpError{icmpProhibited, icmpPortUnreach, icmpNetUnreach} {
			l := newNATLab(t)
			l.denyTo(at(c.remote, 9), answer)
			p := l.packet(udp(at(c.guest, 1000), at(c.remote, 9), "x"))
			l.udp().handle(p, l.now)
			if q := l.expectError(c.gateway, answer); string(q) != string(p.ip()) {
				t.Errorf("quoted % x, want % x", q, p.ip())
			}
		}
	})
}

// TestUDPPolicyReplaced: peers are decided again, and cut if they are now
// denied; the others go on.
func TestUDPPolicyReplaced(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		for _, eager := range []bool{true, false} {
			l := newNATLab(t)
			u := l.udp()
			a, b := listenUDP(t, at(c.loopback, 0)), listenUDP(t, at(c.loopback, 0))
			l.mapTo(at(c.remote, 1), a)
			l.mapTo(at(c.remote2, 2), b)
			toA, toB := udp(at(c.guest, 1000), at(c.remote, 1), "x"), udp(at(c.guest, 1000), at(c.remote2, 2), "x")
			u.handle(l.packet(toA), l.now)
			u.handle(l.packet(toB), l.now)
			_, from := receiveFrom(t, a)
			receiveFrom(t, b)
			l.wantEvents("open "+at(c.remote, 1), "open "+at(c.remote2, 2))

			l.denyTo(at(c.remote, 1), icmpNone)
			l.gen.Add(1)
			if eager {
				u.recheck(l.now)
			} else {
				u.handle(l.packet(toA), l.now)
			}
			l.wantEvents("close " + at(c.remote, 1) + " 1 0 denied")
			sendTo(t, a, "late", from)
			u.handle(l.packet(toA), l.now)
			u.handle(l.packet(toB), l.now)
			receiveFrom(t, b)
			sendTo(t, b, "still here", from)
			l.expectUDP(at(c.remote2, 2), at(c.guest, 1000), "still here")
			l.silence()
			if l.drops[dropDenied].Load() == 0 || l.drops[dropUDPPeer].Load() != 1 {
				t.Errorf("eager %v: dropped %s", eager, l.dropped())
			}
		}
	})
}

func TestUDPIdle(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		u := l.udp()
		a, b := listenUDP(t, at(c.loopback, 0)), listenUDP(t, at(c.loopback, 0))
		l.mapTo(at(c.remote, 1), a)
		l.mapTo(at(c.remote2, 2), b)
		u.handle(l.packet(udp(at(c.guest, 1000), at(c.remote, 1), "x")), l.now)
		u.handle(l.packet(udp(at(c.guest, 1001), at(c.remote2, 2), "x")), l.now)
		_, from := receiveFrom(t, a)
		sendTo(t, a, "answer", from)
		l.expectUDP(at(c.remote, 1), at(c.guest, 1000), "answer")
		answered := time.Now()
		l.recorded()

		u.expire(l.now.Add(udpIdleNew - time.Second))
		l.wantEvents()
		u.expire(answered.Add(udpIdleNew))
		l.wantEvents("close " + at(c.remote2, 2) + " 1 0 timeout")
		u.expire(l.now.Add(udpIdle - time.Second))
		l.wantEvents()
		u.expire(answered.Add(udpIdle))
		l.wantEvents("close " + at(c.remote, 1) + " 1 6 timeout")
		if sessions, peers := u.count(); sessions != 0 || peers != 0 {
			t.Errorf("%d sessions, %d peers are left", sessions, peers)
		}
	})
}

// TestL27Flood: sockets and peers are bounded; the oldest give way.
func TestL27Flood(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t, func(cfg *natConfig) { cfg.limits = Limits{UDPSessions: 4, UDPPeers: 8} })
		u := l.udp()
		server := listenUDP(t, at(c.loopback, 0))
		for i := range 50 {
			l.mapTo(at(c.remote, 1+i), server)
		}
		for i := range 50 {
			u.handle(l.packet(udp(at(c.guest, 1000), at(c.remote, 1+i), "x")), l.now)
		}
		if sessions, peers := u.count(); sessions != 1 || peers != 1 {
			// All targets are one socket here, and so one peer.
			t.Errorf("%d sessions, %d peers", sessions, peers)
		}
		for i := range 50 {
			u.handle(l.packet(udp(at(c.guest, 2000+i), at(c.remote, 1), "x")), l.now)
			if sessions, _ := u.count(); sessions > 4 {
				t.Fatalf("%d sessions", sessions)
			}
		}
		if got := l.recorded(); !slices.Contains(got, "limit UDPSessions") || strings.Count(strings.Join(got, " "), "limit") > 3 {
			t.Errorf("recorded %q", got)
		}
		u.handle(l.packet(udp(at(c.guest, 3000), at(c.remote, 7), "last")), l.now)
		eventually(t, "the last flow works", func() bool { got, _ := receiveFrom(t, server); return got == "last" })
	})
}

func TestUDPPeersBounded(t *testing.T) {
	t.Parallel()
	l := newNATLab(t, func(cfg *natConfig) { cfg.limits = Limits{UDPSessions: 4, UDPPeers: 8} })
	u := l.udp()
	u.bounds.allPeers = 20
	for s := range 4 {
		for i := range 20 {
			// Nobody listens there; the peers count all the same.
			l.targets[addrPort(at(remote4, 1+i))] = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(1+i))
			u.handle(l.packet(udp(at(guest4, 1000+s), at(remote4, 1+i), "x")), l.now)
			if sessions, peers := u.count(); peers > min(20, sessions*8) {
				t.Fatalf("%d peers in %d sessions", peers, sessions)
			}
		}
	}
	if sessions, peers := u.count(); sessions < 2 || peers < 9 {
		t.Errorf("%d sessions, %d peers", sessions, peers)
	}
}

func TestUDPNoSockets(t *testing.T) {
	t.Parallel()
	l := newNATLab(t)
	u := l.udp()
	server := listenUDP(t, at("127.0.0.1", 0))
	l.mapTo(at(remote4, 9), server)
	u.handle(l.packet(udp(at(guest4, 1), at(remote4, 9), "x")), l.now)
	receiveFrom(t, server)
	l.recorded()

	// The oldest session gives way once; when that does not help, the datagram
	// is dropped, and nobody says that it was denied.
	l.openErr = outOfFiles
	u.handle(l.packet(udp(at(guest4, 2), at(remote4, 9), "x")), l.now)
	l.wantEvents("open "+at(remote4, 9), "limit RLIMIT_NOFILE", "close "+at(remote4, 9)+" 1 0 closed", "close "+at(remote4, 9)+" 0 0 failed")
	l.wantDrops("udp-socket: 1")
	l.openErr = nil
	u.handle(l.packet(udp(at(guest4, 2), at(remote4, 9), "x")), l.now)
	receiveFrom(t, server)

	none := newNATLab(t, func(cfg *natConfig) { cfg.limits = Limits{UDPSessions: -1} })
	none.udp().handle(none.packet(udp(at(guest4, 2), at(remote4, 9), "x")), none.now)
	none.wantDrops("udp-socket: 1")
}

// TestL13TTL: TTL 1 ends at the gateway; else the host's socket gets one less.
func TestL13TTL(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		u := l.udp()
		p := l.packet(udp(at(c.guest, 1000), at(c.remote, 33434), "x", hops(1)))
		u.handle(p, l.now)
		if q := l.expectError(c.gateway, icmpTimeExceed); string(q) != string(p.ip()) {
			t.Errorf("quoted % x, want % x", q, p.ip())
		}
		l.wantDrops("expired: 1")
		if l.sockets.Load() != 0 {
			t.Error("a socket was opened for it")
		}
	})
}

// TestUDPLarge: the largest datagrams go through both ways.
func TestUDPLarge(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		u := l.udp()
		server := listenUDP(t, at(c.loopback, 0))
		l.mapTo(at(c.remote, 9), server)
		// Loopback carries 65535 bytes of IPv4 packet, and as much of IPv6.
		payload := strings.Repeat("sluice!", 9362)[:65487]
		r := newReassembler(l.drop)
		for _, f := range pieces(t, udp(at(c.guest, 1000), at(c.remote, 9), payload), 5, 1448) {
			if whole, _ := r.feed(t, f, l.now); whole != nil {
				p := new(packet)
				if d := l.guard.checkWhole(whole, p); d != dropNone {
					t.Fatal(d)
				}
				u.handle(p, l.now)
			}
		}
		got, from := receiveFrom(t, server)
		if got != payload {
			t.Fatalf("the server got %d bytes of %d; drops %s", len(got), len(payload), l.dropped())
		}
		sendTo(t, server, payload, from)
		checkUDP(t, l.nextWhole(), addrPort(at(c.remote, 9)), addrPort(at(c.guest, 1000)), []byte(payload))
	})
}

// TestUDPSegments: a frame that stands for many datagrams becomes as many.
func TestUDPSegments(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		u := l.udp()
		server := listenUDP(t, at(c.loopback, 0))
		l.mapTo(at(c.remote, 9), server)
		start := uint16(etherLen + ipv4Len)
		if c.name == "IPv6" {
			start = etherLen + ipv6Len
		}
		payload := strings.Repeat("0123456789", 1000)
		for _, size := range []int{1000, 999, 100, 1400, 9999} {
			l.guard.mtu = 10_100 // for the last size
			u.handle(l.packet(udp(at(c.guest, 1000), at(c.remote, 9), payload, offload(segmented(start, 6, link.GSOUDP, uint16(size))))), l.now)
			var got string
			for len(got) < len(payload) {
				d, _ := receiveFrom(t, server)
				if want := min(size, len(payload)-len(got)); len(d) != want {
					t.Errorf("size %d: a datagram of %d bytes, want %d", size, len(d), want)
				}
				got += d
			}
			if got != payload {
				t.Errorf("size %d: another payload", size)
			}
		}
		l.wantDrops("")
	})
}

// fakeDNS answers in upper case, at once or when it is told to.
type fakeDNS struct{ later []func() }

func (d *fakeDNS) ServeDatagram(query []byte, reply func([]byte)) {
	answer := []byte(strings.ToUpper(string(query)))
	if string(query) == "later" {
		d.later = append(d.later, func() { reply(answer) })
		return
	}
	reply(answer)
}

func (d *fakeDNS) ServeConn(c net.Conn) { c.Close() }

// TestUDPDNS: port 53 of any address is the proxy's, which answers from there.
func TestUDPDNS(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		d := new(fakeDNS)
		l := newNATLab(t, func(cfg *natConfig) { cfg.dns = d })
		u := l.udp()
		for _, server := range []string{c.gateway, c.remote} {
			u.handle(l.packet(udp(at(c.guest, 1000), at(server, 53), "query")), l.now)
			l.expectUDP(at(server, 53), at(c.guest, 1000), "QUERY")
		}
		// TTL 1 is enough: the proxy is here.
		u.handle(l.packet(udp(at(c.guest, 1000), at(c.remote, 53), "near", hops(1))), l.now)
		l.expectUDP(at(c.remote, 53), at(c.guest, 1000), "NEAR")
		u.handle(l.packet(udp(at(c.guest, 1000), at(c.remote, 53), "later")), l.now)
		l.silence()
		d.later[0]()
		l.expectUDP(at(c.remote, 53), at(c.guest, 1000), "LATER")
		l.wantEvents()
		if l.sockets.Load() != 0 {
			t.Error("a socket was opened for DNS")
		}

		none := newNATLab(t)
		none.udp().handle(none.packet(udp(at(c.guest, 1000), at(c.remote, 53), "query")), none.now)
		none.expectError(c.remote, icmpPortUnreach)
		none.wantDrops("dns: 1")
	})
}

func TestUDPClose(t *testing.T) {
	t.Parallel()
	l := newNATLab(t)
	u := l.udp()
	server := listenUDP(t, at("127.0.0.1", 0))
	l.mapTo(at(remote4, 9), server)
	for i := range 20 {
		u.handle(l.packet(udp(at(guest4, 1000+i), at(remote4, 9), "x")), l.now)
	}
	u.close()
	u.close()
	u.handle(l.packet(udp(at(guest4, 1), at(remote4, 9), "x")), l.now)
	l.wantDrops("closed: 1")
	if sessions, peers := u.count(); sessions != 0 || peers != 0 {
		t.Errorf("%d sessions, %d peers are left", sessions, peers)
	}
	opened, ended := 0, 0
	for _, e := range l.recorded() {
		if strings.HasPrefix(e, "open") {
			opened++
		} else {
			ended++
		}
	}
	if opened != 21 || ended != 21 {
		t.Errorf("%d flows were opened, %d ended", opened, ended)
	}
}

func TestUDPAllocatesNothing(t *testing.T) {
	l := newNATLab(t)
	u := l.udp()
	server := listenUDP(t, at("127.0.0.1", 0))
	l.mapTo(at(remote4, 9), server)
	p := l.packet(udp(at(guest4, 1000), at(remote4, 9), "x"))
	seg := l.packet(udp(at(guest4, 1000), at(remote4, 9), strings.Repeat("x", 1000), offload(segmented(34, 6, link.GSOUDP, 100))))
	u.handle(p, l.now)
	if n := testing.AllocsPerRun(100, func() { u.handle(p, l.now) }); n != 0 {
		t.Errorf("%v allocations for a datagram out", n)
	}
	if n := testing.AllocsPerRun(100, func() { u.handle(seg, l.now) }); n != 0 {
		t.Errorf("%v allocations for segments out", n)
	}

	// And back, from the socket's side of a session.
	s := u.sessions.Oldest().Value
	in := u.spare.get()
	in.n = 1
	d := &in.datagrams[0]
	d.from = server.LocalAddr().(*net.UDPAddr).AddrPort()
	d.buf = in.memory[:udpHeadroom+100]
	l.cfg.send = func(*batch) {}
	if n := testing.AllocsPerRun(100, func() { u.deliver(s, in, l.now) }); n != 0 {
		t.Errorf("%v allocations for a datagram in", n)
	}
}
