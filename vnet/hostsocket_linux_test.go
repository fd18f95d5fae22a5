//go:build !basicsockets

package vnet

import (
	"encoding/binary"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/netlab"
)

// These tests hear what the network says of datagrams: on loopback, and in a
// small internet of namespaces.

// quoted returns the transport part of a quoted packet, after checking that it is
// from the guest to remote.
func quoted(t *testing.T, q []byte, guest, remote string) []byte {
	t.Helper()
	src, dst, start := q[12:16], q[16:20], ipv4Len
	if q[0]>>4 == 6 {
		src, dst, start = q[8:24], q[24:40], ipv6Len
	}
	if addrOf(src).String() != guest || addrOf(dst).String() != remote {
		t.Errorf("quoted %v > %v, want %s > %s", addrOf(src), addrOf(dst), guest, remote)
	}
	return q[start:]
}

// ask handles a packet, again if need be, and returns what the guest gets. Linux
// routers limit the rate of their errors.
func (l *natLab) ask(handle func()) gopacket.Packet {
	l.t.Helper()
	for range 8 {
		handle()
		select {
		case f := <-l.frames:
			return decode(l.t, f)
		case <-time.After(time.Second):
		}
	}
	l.t.Fatalf("the guest got nothing; drops: %v", l.dropped())
	return nil
}

// TestUDPRefused: nobody listens, and the guest hears of it from the peer, with
// its own datagram quoted.
func TestUDPRefused(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		u := l.udp()
		closed := listenUDP(t, at(c.loopback, 0))
		l.mapTo(at(c.remote, 33434), closed)
		closed.Close()
		for range 3 { // an error does not stop what comes after it
			u.handle(l.packet(udp(at(c.guest, 1000), at(c.remote, 33434), "anybody there?")), l.now)
			tr := quoted(t, l.expectError(c.remote, icmpPortUnreach), c.guest, c.remote)
			if binary.BigEndian.Uint16(tr) != 1000 || binary.BigEndian.Uint16(tr[2:]) != 33434 || string(tr[8:]) != "anybody there?" {
				t.Errorf("quoted % x", tr)
			}
		}
		// The gateway's loopback speaks as the gateway.
		port := int(l.targets[addrPort(at(c.remote, 33434))].Port())
		u.handle(l.packet(udp(at(c.guest, 1001), at(c.gateway, port), "x")), l.now)
		quoted(t, l.expectError(c.gateway, icmpPortUnreach), c.guest, c.gateway)
		l.wantDrops("")
	})
}

// TestUDPErrorBesideData: an error that comes while datagrams come is not lost,
// and loses none.
func TestUDPErrorBesideData(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		u := l.udp()
		server, closed := listenUDP(t, at(c.loopback, 0)), listenUDP(t, at(c.loopback, 0))
		l.mapTo(at(c.remote, 1), server)
		l.mapTo(at(c.remote2, 2), closed)
		closed.Close()
		good, bad := udp(at(c.guest, 1000), at(c.remote, 1), "x"), udp(at(c.guest, 1000), at(c.remote2, 2), "x")
		for range 50 {
			u.handle(l.packet(bad), l.now)
			u.handle(l.packet(good), l.now)
			_, from := receiveFrom(t, server)
			sendTo(t, server, "answer", from)
			data, errors := 0, 0
			for data+errors < 2 {
				if o := l.next(); o.TransportLayer() != nil {
					data++
				} else {
					errors++
				}
			}
			if data != 1 || errors != 1 {
				t.Fatalf("%d datagrams, %d errors", data, errors)
			}
		}
		l.wantDrops("")
	})
}

// runIP runs ip(8).
func runIP(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// realHost returns natCases' families with remote an address of the lab's.
func realHost(h *netlab.Host) []natCase {
	cases := make([]natCase, 0, 2)
	for i, a := range []netip.Addr{h.IP4, h.IP6} {
		c := natCases[i]
		c.remote = a.String()
		cases = append(cases, c)
	}
	return cases
}

// TestTraceroute walks to a host four routers away, by UDP and by echo: each
// router says who it is, and the host that it was reached.
func TestTraceroute(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	host := lab.DistantHost(t, 2, "far.example")
	for _, c := range realHost(host) {
		l := newNATLab(t)
		l.cfg.dialer = NewDialer()
		u, m := l.udp(), l.icmp()
		var routers []string
		for ttl := uint8(1); ttl <= 6; ttl++ {
			probe := udp(at(c.guest, 1000), at(c.remote, 33433+int(ttl)), "probe", hops(ttl))
			o := l.ask(func() { u.handle(l.packet(probe), l.now) })
			msg, v6 := icmpOf(o)
			codes := icmpCodes[icmpTimeExceed].v4
			if v6 {
				codes = icmpCodes[icmpTimeExceed].v6
			}
			from := o.NetworkLayer().NetworkFlow().Src().String()
			tr := quoted(t, msg[icmpLen:], c.guest, c.remote)
			if port := int(binary.BigEndian.Uint16(tr[2:])); port != 33433+int(ttl) {
				t.Errorf("%s, TTL %d: the error is about port %d", c.name, ttl, port)
			}
			if [2]byte(msg) != codes {
				if from != c.remote || [2]byte(msg) != icmpCodes[icmpPortUnreach].v4 && [2]byte(msg) != icmpCodes[icmpPortUnreach].v6 {
					t.Errorf("%s, TTL %d: %v", c.name, ttl, o)
				}
				break
			}
			routers = append(routers, from)

			probe = echo(c.guest, c.remote, 77, uint16(ttl), "probe", hops(ttl))
			o = l.ask(func() { m.handle(l.packet(probe), l.now) })
			msg, _ = icmpOf(o)
			tr = quoted(t, msg[icmpLen:], c.guest, c.remote)
			if [2]byte(msg) != codes || o.NetworkLayer().NetworkFlow().Src().String() != from ||
				binary.BigEndian.Uint16(tr[4:]) != 77 || binary.BigEndian.Uint16(tr[6:]) != uint16(ttl) {
				t.Errorf("%s, TTL %d: echo got %v, UDP an error from %s", c.name, ttl, o, from)
			}
		}
		if len(routers) != 4 || routers[0] != c.gateway {
			t.Errorf("%s: on the way to %s: %v; want the gateway, the lab's router and two more", c.name, c.remote, routers)
		}
		m.handle(l.packet(echo(c.guest, c.remote, 77, 99, "hello")), l.now)
		l.expectEcho(c.remote, c.guest, 77, 99, "hello")
	}
}

// TestUDPUnreachable: what routers say of a destination reaches the guest.
func TestUDPUnreachable(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	for _, r := range []struct {
		name string
		cut  func(*netlab.Host)
		want icmpError
	}{
		{"unreachable.example", func(h *netlab.Host) { h.Unreachable() }, icmpNetUnreach},
		{"prohibited.example", func(h *netlab.Host) { h.Prohibit() }, icmpProhibited},
	} {
		host := lab.Host(t, r.name)
		r.cut(host)
		for _, c := range realHost(host) {
			l := newNATLab(t)
			l.cfg.dialer = NewDialer()
			u, probe := l.udp(), udp(at(c.guest, 1000), at(c.remote, 9), "x")
			o := l.ask(func() { u.handle(l.packet(probe), l.now) })
			m, v6 := icmpOf(o)
			router, codes := netlab.Router4, icmpCodes[r.want].v4
			if v6 {
				router, codes = netlab.Router6, icmpCodes[r.want].v6
			}
			if [2]byte(m) != codes || addrOf(o.NetworkLayer().NetworkFlow().Src().Raw()) != router {
				t.Errorf("%s, %s: the guest got %v", r.name, c.name, o)
			}
			quoted(t, m[icmpLen:], c.guest, c.remote)
		}
	}
}

// TestUDPNoRoute: of a destination that this host has no route to the guest is
// told at once, and every datagram that travelled together is counted.
func TestUDPNoRoute(t *testing.T) {
	t.Parallel()
	host := netlab.New(t).Host(t, "noroute.example")
	for _, c := range realHost(host) {
		runIP(t, "route", "add", "unreachable", c.remote)
		t.Cleanup(func() { runIP(t, "route", "del", "unreachable", c.remote) })
		l := newNATLab(t)
		l.cfg.dialer = NewDialer()
		u := l.udp()
		for range 3 {
			u.udpNAT.handle(l.packet(udp(at(c.guest, 1000), at(c.remote, 9), "abc")), l.now)
		}
		u.flush(l.now)
		o := l.next()
		if m, _ := icmpOf(o); m[0] != icmpUnreachable && m[0] != icmp6Unreachable || !strings.HasSuffix(string(m), "abc") {
			t.Errorf("%s: the guest got %v", c.name, o)
		}
		l.silence()
		l.wantDrops("unreachable: 3")
	}
}

// TestUDPTooBig: a datagram that must not be cut and exceeds the path's MTU is
// told so, with the MTU; one that may be cut arrives.
func TestUDPTooBig(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	host := lab.Host(t, "narrow.example")
	host.UDP(9, netlab.EchoDatagram)
	for _, c := range realHost(host) {
		router := netlab.Router4.String()
		if c.name == "IPv6" {
			router = "fe80::1"
		}
		runIP(t, "route", "add", c.remote, "via", router, "dev", "wan", "mtu", "1300")
		t.Cleanup(func() { runIP(t, "route", "del", c.remote) })
		l := newNATLab(t)
		l.cfg.dialer = NewDialer()
		u := l.udp()
		payload := strings.Repeat("x", 1400)
		u.handle(l.packet(udp(at(c.guest, 1000), at(c.remote, 9), payload, dontFrag)), l.now)
		o := l.next()
		m, v6 := icmpOf(o)
		codes := icmpCodes[icmpTooBig].v4
		if v6 {
			codes = icmpCodes[icmpTooBig].v6
		}
		if [2]byte(m) != codes || binary.BigEndian.Uint32(m[4:]) != 1300 {
			t.Errorf("%s: the guest got %v", c.name, o)
		}
		if tr := quoted(t, m[icmpLen:], c.guest, c.remote); binary.BigEndian.Uint16(tr) != 1000 || binary.BigEndian.Uint16(tr[2:]) != 9 {
			t.Errorf("%s: quoted % x", c.name, tr)
		}
		l.wantDrops("too-big: 1")

		p := l.packet(udp(at(c.guest, 1000), at(c.remote, 9), payload))
		p.dontFragment = false
		u.handle(p, l.now)
		l.expectUDP(at(c.remote, 9), at(c.guest, 1000), payload)
		u.handle(l.packet(udp(at(c.guest, 1000), at(c.remote, 9), "small", dontFrag)), l.now)
		l.expectUDP(at(c.remote, 9), at(c.guest, 1000), "small")
	}
}

// TestUDPTTL: the host's socket gets one less than the guest wrote, and that
// anew for every datagram.
func TestUDPTTL(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		u := l.udp()
		server := listenUDP(t, at(c.loopback, 0))
		l.mapTo(at(c.remote, 9), server)
		raw, err := server.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) {
			if c.name == "IPv6" {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVHOPLIMIT, 1)
			} else {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVTTL, 1)
			}
		}); err != nil {
			t.Fatal(err)
		}
		for _, ttl := range []uint8{64, 2, 255, 255, 17} {
			u.handle(l.packet(udp(at(c.guest, 1000), at(c.remote, 9), "x", hops(ttl))), l.now)
			oob := make([]byte, 64)
			if err := server.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			_, n, _, _, err := server.ReadMsgUDPAddrPort(make([]byte, 9), oob)
			if err != nil {
				t.Fatal(err)
			}
			messages, err := unix.ParseSocketControlMessage(oob[:n])
			if err != nil || len(messages) != 1 {
				t.Fatalf("control messages %v, %v", messages, err)
			}
			if got := binary.NativeEndian.Uint32(messages[0].Data); got != uint32(ttl)-1 {
				t.Errorf("TTL %d arrived as %d, want one less", ttl, got)
			}
		}
	})
}

// TestNoBroadcast: a guest can't make this host broadcast, by no address that
// the policy would admit.
func TestNoBroadcast(t *testing.T) {
	t.Parallel()
	netlab.New(t) // for its network
	l := newNATLab(t)
	l.cfg.dialer = NewDialer()
	l.udp().handle(l.packet(udp(at(guest4, 1000), "192.168.50.255:9", "x")), l.now)
	l.expectError(gateway4, icmpProhibited)
	l.wantDrops("unreachable: 1")
}

// FuzzParseError: whatever a control message holds, reading it does not panic.
func FuzzParseError(f *testing.F) {
	ok := make([]byte, unix.CmsgSpace(32))
	binary.NativeEndian.PutUint64(ok, uint64(unix.CmsgLen(32)))
	binary.NativeEndian.PutUint32(ok[8:], unix.SOL_IP)
	binary.NativeEndian.PutUint32(ok[12:], unix.IP_RECVERR)
	f.Add(ok)
	f.Fuzz(func(t *testing.T, oob []byte) {
		var e hostError
		if parseError(&e, oob) && (e.what == icmpNone || e.what >= numICMPErrors) {
			t.Errorf("an error that is none: %+v", e)
		}
	})
}
