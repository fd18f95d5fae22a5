package vnet

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

// ListenICMP opens a UDP socket: what goes through it are ICMP messages all the
// same, and the test's end of it can be any host.
func (l *natLab) ListenICMP(v6 bool) (*net.UDPConn, error) { return l.ListenUDP(v6) }

// expectEcho checks that the guest gets an echo reply.
func (l *natLab) expectEcho(from, to string, ident, seq uint16, payload string) {
	l.t.Helper()
	o := l.next()
	m, v6 := icmpOf(o)
	kind := byte(icmpEchoReply)
	if v6 {
		kind = icmp6EchoReply
	}
	f := o.NetworkLayer().NetworkFlow()
	if len(m) < icmpLen || m[0] != kind || m[1] != 0 || f.Src().String() != from || f.Dst().String() != to ||
		binary.BigEndian.Uint16(m[4:]) != ident || binary.BigEndian.Uint16(m[6:]) != seq || string(m[8:]) != payload {
		l.t.Errorf("the guest got %v; want echo reply %d/%d %q from %s", o, ident, seq, payload, from)
	}
}

// answerEcho receives a request on c, as a host would, and answers it with the
// identifier changed, as the kernel does on its way.
func answerEcho(t testing.TB, c *net.UDPConn, change func(m []byte)) (request string) {
	t.Helper()
	m, from := receiveFrom(t, c)
	b := []byte(m)
	switch b[0] {
	case icmpEcho:
		b[0] = icmpEchoReply
	case icmp6Echo:
		b[0] = icmp6EchoReply
	default:
		t.Errorf("the host got type %d", b[0])
	}
	if change != nil {
		change(b)
	}
	sendTo(t, c, string(b), from)
	return m
}

func TestEcho(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		m := l.icmp()
		host := listenUDP(t, at(c.loopback, 0))
		l.mapTo(at(c.remote, 0), host)
		for seq := range uint16(3) {
			m.handle(l.packet(echo(c.guest, c.remote, 77, seq, "payload")), l.now)
			if got := answerEcho(t, host, nil); !strings.HasSuffix(got, "payload") || binary.BigEndian.Uint16([]byte(got)[6:]) != seq {
				t.Errorf("the host got %q", got)
			}
			l.expectEcho(c.remote, c.guest, 77, seq, "payload")
		}
		// Another identifier is another ping.
		m.handle(l.packet(echo(c.guest, c.remote, 78, 9, "")), l.now)
		answerEcho(t, host, nil)
		l.expectEcho(c.remote, c.guest, 78, 9, "")
		l.wantEvents("open "+at(c.remote, 0), "open "+at(c.remote, 0))
		if n := l.sockets.Load(); n != 2 {
			t.Errorf("%d sockets", n)
		}
		m.remote.expire(time.Now().Add(echoIdle))
		l.wantEvents("close "+at(c.remote, 0)+" 21 21 timeout", "close "+at(c.remote, 0)+" 0 0 timeout")
		l.wantDrops("")
	})
}

// TestEchoIdentifierKept: on Linux the socket's identifier differs from the
// guest's, which the reply gets back.
func TestEchoIdentifierKept(t *testing.T) {
	if !echoSocketsSwapIdent {
		t.Skip("here sockets send the guest's identifier")
	}
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		host := listenUDP(t, at(c.loopback, 0))
		l.mapTo(at(c.remote, 0), host)
		l.icmp().handle(l.packet(echo(c.guest, c.remote, 77, 5, "x")), l.now)
		answerEcho(t, host, func(m []byte) { binary.BigEndian.PutUint16(m[4:], 0xdead) })
		l.expectEcho(c.remote, c.guest, 77, 5, "x")
	})
}

// TestEchoStrangers: what is no echo reply, or not of somebody who was asked, is
// dropped.
func TestEchoStrangers(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		m := l.icmp()
		host, stranger := listenUDP(t, at(c.loopback, 0)), listenUDP(t, at(c.loopback, 0))
		l.mapTo(at(c.remote, 0), host)
		m.handle(l.packet(echo(c.guest, c.remote, 77, 1, "")), l.now)
		request, from := receiveFrom(t, host)
		reply := []byte(request)
		reply[0] = icmpEchoReply
		if c.name == "IPv6" {
			reply[0] = icmp6EchoReply
		}
		sendTo(t, stranger, string(reply), from)
		sendTo(t, host, request, from)           // a request
		sendTo(t, host, string(reply[:7]), from) // cut
		sendTo(t, host, "", from)
		if c.name == "IPv4" {
			// macOS gives the IP header too.
			sendTo(t, host, "E"+strings.Repeat("x", 19)+string(reply), from)
		} else {
			sendTo(t, host, string(reply), from)
		}
		l.expectEcho(c.remote, c.guest, 77, 1, "")
		l.silence()
		l.wantDrops("icmp-peer: 4")
	})
}

// TestEchoGateway: the gateway answers itself, if the policy admits it, and no
// socket is opened.
func TestEchoGateway(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		l.openErr = os.ErrPermission // needs none
		m := l.icmp()
		for seq := range uint16(3) {
			m.handle(l.packet(echo(c.guest, c.gateway, 77, seq, "payload", hops(1))), l.now)
			l.expectEcho(c.gateway, c.guest, 77, seq, "payload")
		}
		l.wantEvents("open " + at(c.gateway, 0))
		l.denyTo(at(c.gateway, 0), icmpProhibited)
		l.gen.Add(1)
		m.recheck(l.now)
		l.wantEvents("close " + at(c.gateway, 0) + " 21 21 denied")
		m.handle(l.packet(echo(c.guest, c.gateway, 77, 9, "payload")), l.now)
		l.expectError(c.gateway, icmpProhibited)
		l.wantDrops("denied: 1")
	})
}

// TestL31Denied: echo obeys the policy.
func TestL31Denied(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		l.denyTo(at(c.remote, 0), icmpNone)
		m := l.icmp()
		for i := range uint16(3) {
			m.handle(l.packet(echo(c.guest, c.remote, 77, i, "x")), l.now)
		}
		l.silence()
		l.wantEvents("deny " + at(c.remote, 0))
		l.wantDrops("denied: 3")
	})
}

// TestL30Rate: requests are limited, whoever they are for.
func TestL30Rate(t *testing.T) {
	t.Parallel()
	l := newNATLab(t, func(cfg *natConfig) { cfg.limits = Limits{ICMPPerSecond: 10} })
	m := l.icmp()
	flood := func(now time.Time) {
		for i := range uint16(100) {
			m.handle(l.packet(echo(guest4, gateway4, 77, i, "")), now)
		}
	}
	flood(l.now)
	l.wantDrops("icmp-rate: 90")
	flood(l.now.Add(500 * time.Millisecond))
	l.wantDrops("icmp-rate: 185")

	none := newNATLab(t, func(cfg *natConfig) { cfg.limits = Limits{ICMPPerSecond: -1} })
	none.icmp().handle(none.packet(echo(guest4, gateway4, 77, 1, "")), none.now)
	none.wantDrops("icmp-rate: 1")
}

// TestReporterRate: so are the errors that a guest is sent.
func TestReporterRate(t *testing.T) {
	t.Parallel()
	l := newNATLab(t)
	l.cfg.reporter.limiter = rate.NewLimiter(10, 10)
	u := l.udp()
	for range 100 {
		u.handle(l.packet(udp(at(guest4, 1000), at(remote4, 9), "x", hops(1))), l.now)
	}
	l.wantDrops("expired: 100, icmp-rate: 90")
	if n := len(l.frames); n != 10 {
		t.Errorf("the guest got %d errors", n)
	}
}

func TestEchoTTL(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		p := l.packet(echo(c.guest, c.remote, 77, 1, "x", hops(1)))
		l.icmp().handle(p, l.now)
		if q := l.expectError(c.gateway, icmpTimeExceed); string(q) != string(p.ip()) {
			t.Errorf("quoted % x, want % x", q, p.ip())
		}
		l.wantDrops("expired: 1")
	})
}

// TestEchoForbidden: a host that forbids echo sockets is said once.
func TestEchoForbidden(t *testing.T) {
	t.Parallel()
	l := newNATLab(t)
	l.openErr = &net.OpError{Op: "listen", Err: os.ErrPermission}
	m := l.icmp()
	for i := range uint16(5) {
		m.handle(l.packet(echo(guest4, remote4, i, 1, "x")), l.now)
		m.handle(l.packet(echo(guest6, remote6, i, 1, "x")), l.now)
	}
	if len(l.warnings) != 1 || !strings.Contains(l.warnings[0], "forbids") {
		t.Errorf("warned %q", l.warnings)
	}
	l.wantDrops("icmp-socket: 10")
	l.silence()

	full := newNATLab(t)
	full.openErr = outOfFiles
	full.icmp().handle(full.packet(echo(guest4, remote4, 1, 1, "x")), full.now)
	if len(full.warnings) != 0 {
		t.Errorf("without descriptors: warned %q", full.warnings)
	}
}

// TestEchoSessionsBounded: a guest that uses ever new identifiers uses up its
// own.
func TestEchoSessionsBounded(t *testing.T) {
	t.Parallel()
	l := newNATLab(t, func(cfg *natConfig) { cfg.limits = Limits{ICMPPerSecond: 1000} })
	m := l.icmp()
	host := listenUDP(t, at("127.0.0.1", 0))
	l.mapTo(at(remote4, 0), host)
	for i := range uint16(3 * maxEchoSessions) {
		m.handle(l.packet(echo(guest4, remote4, i, 1, "x")), l.now)
		if sessions, _ := m.remote.count(); sessions > maxEchoSessions {
			t.Fatalf("%d sessions", sessions)
		}
	}
}

func TestEchoLarge(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		m := l.icmp()
		host := listenUDP(t, at(c.loopback, 0))
		l.mapTo(at(c.remote, 0), host)
		payload := strings.Repeat("sluice ", 9000)[:60000]
		p := new(packet)
		if d := l.guard.checkWhole(echo(c.guest, c.remote, 77, 1, payload).Data, p); d != dropNone {
			t.Fatal(d)
		}
		m.handle(p, l.now)
		answerEcho(t, host, nil)
		ip := l.nextWhole()
		if got := string(ip[len(ip)-len(payload):]); got != payload {
			t.Error("another payload came back")
		}
	})
}

// TestQuoteEcho: an error about the host's request is one about the guest's.
func TestQuoteEcho(t *testing.T) {
	t.Parallel()
	for _, c := range natCases {
		s := &session{guest: addrPort(at(c.guest, 0x1234))}
		for _, data := range []string{"", "\x08\x00\x00\x00\xde\xad\x00\x07payload"} {
			q := quoteEcho(s, addrPort(at(c.remote, 0)), &hostError{data: []byte(data)})
			m := q[len(q)-max(icmpLen, len(data)):]
			if binary.BigEndian.Uint16(m[4:]) != 0x1234 || data != "" && (m[7] != 7 || !strings.HasSuffix(string(m), "payload")) {
				t.Errorf("%s: quoted % x", c.name, m)
			}
		}
	}
}

// TestEchoSocket uses the host's real echo sockets, where it has them.
func TestEchoSocket(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		l.cfg.dialer = NewDialer()
		probe, err := l.cfg.dialer.ListenICMP(c.name == "IPv6")
		if err != nil {
			if errors.Is(err, os.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
				t.Skip("this host has no unprivileged echo sockets:", err)
			}
			t.Fatal(err)
		}
		probe.Close()
		l.targets[addrPort(at(c.remote, 0))] = netip.AddrPortFrom(netip.MustParseAddr(c.loopback), 0)
		m := l.icmp()
		m.handle(l.packet(echo(c.guest, c.remote, 77, 3, "real")), l.now)
		l.expectEcho(c.remote, c.guest, 77, 3, "real")
	})
}
