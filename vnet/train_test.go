package vnet

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/vnet/link"
)

// TestTrain: what may travel together, and what not.
func TestTrain(t *testing.T) {
	t.Parallel()
	s := new(session)
	base := car{s: s, remote: addrPort(at(remote4, 9)), to: addrPort(at(remote4, 9)), ttl: 63, dontFragment: true}
	with := func(change func(*car)) car { c := base; change(&c); return c }
	rows := []struct {
		name string
		c    car
		size int
		ok   bool
	}{
		{"same size", base, 100, true},
		{"smaller, as the last", base, 99, true},
		{"larger", base, 101, false},
		{"empty", base, 0, false},
		{"another session", with(func(c *car) { c.s = new(session) }), 100, false},
		{"another peer", with(func(c *car) { c.to = addrPort(at(remote4, 10)) }), 100, false},
		{"another TTL", with(func(c *car) { c.ttl = 1 }), 100, false},
		{"may be cut", with(func(c *car) { c.dontFragment = false }), 100, false},
	}
	for _, r := range rows {
		var tr train
		for range 2 {
			if !tr.couple(base, make([]byte, 100)) {
				t.Fatal("an empty train does not take a datagram")
			}
		}
		if got := tr.couple(r.c, make([]byte, r.size)); got != r.ok {
			t.Errorf("%s: %v", r.name, got)
		}
		if out := tr.outgoing(); out.segment != 100 || tr.n < 2 {
			t.Errorf("%s: %d datagrams of %d bytes", r.name, tr.n, out.segment)
		}
	}

	var tr train
	tr.couple(base, make([]byte, 100))
	tr.couple(base, make([]byte, 50))
	if tr.couple(base, make([]byte, 50)) {
		t.Error("a datagram travels behind a smaller one")
	}
	tr.reset()
	if !tr.couple(base, nil) || tr.couple(base, nil) {
		t.Error("an empty datagram travels alone")
	}
	if out := tr.outgoing(); out.segment != 0 || len(out.payload) != 0 {
		t.Errorf("an empty datagram is %+v", out)
	}
	tr.reset()
	n := 0
	for tr.couple(base, make([]byte, 100)) {
		n++
	}
	if n != maxTrain {
		t.Errorf("%d small datagrams travel together", n)
	}
	tr.reset()
	for tr.couple(base, make([]byte, 9000)) {
	}
	if len(tr.buf) != 7*9000 {
		t.Errorf("%d bytes travel together", len(tr.buf))
	}
}

// TestUDPTrains: whatever travels together, each datagram arrives as it was, and
// in order.
func TestUDPTrains(t *testing.T) {
	bothFamilies(t, func(t *testing.T, c natCase) {
		l := newNATLab(t)
		u := l.udp()
		a, b := listenUDP(t, at(c.loopback, 0)), listenUDP(t, at(c.loopback, 0))
		l.mapTo(at(c.remote, 1), a)
		l.mapTo(at(c.remote2, 2), b)
		var want []string
		for i, size := range []int{10, 10, 10, 9, 10, 1400, 1400, 0, 0, 7, 8, 8, 8} {
			payload := strings.Repeat(string(rune('a'+i)), size)
			want = append(want, payload)
			u.udpNAT.handle(l.packet(udp(at(c.guest, 1000), at(c.remote, 1), payload)), l.now)
			if i == 5 {
				u.udpNAT.handle(l.packet(udp(at(c.guest, 1000), at(c.remote2, 2), "elsewhere")), l.now)
			}
		}
		u.flush(l.now)
		u.flush(l.now) // nothing is left
		for i, w := range want {
			if got, _ := receiveFrom(t, a); got != w {
				t.Errorf("datagram %d: got %d bytes, want %d", i, len(got), len(w))
			}
		}
		if got, _ := receiveFrom(t, b); got != "elsewhere" {
			t.Errorf("got %q", got)
		}
		l.wantDrops("")
	})
}

func TestDatagrams(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		b    string
		size int
		want string
	}{
		{"", 0, ""}, {"", 5, ""}, {"abc", 3, "abc"}, {"abc", 9, "abc"}, {"abcdef", 3, "abc def"}, {"abcdefg", 3, "abc def g"}, {"abc", 1, "a b c"},
	} {
		var got []string
		for d := range datagrams([]byte(r.b), r.size) {
			got = append(got, string(d))
		}
		if strings.Join(got, " ") != r.want {
			t.Errorf("datagrams(%q, %d) = %q, want %q", r.b, r.size, got, r.want)
		}
	}
}

// TestQUICAfterwards: a flow that begins as something else and turns to QUIC is
// recorded with all that is known of its peer.
func TestQUICAfterwards(t *testing.T) {
	t.Parallel()
	const to = "93.184.216.34:443"
	n := startNet(t, "allow egress a.example udp", func(c *Config) {
		c.Names = tableOfNames{netip.MustParseAddr("93.184.216.34"): {"a.example"}}
	})
	initial := "\xc0\x00\x00\x00\x01\x08" + strings.Repeat("i", 8) + "\x00" + strings.Repeat("x", 1185)
	for _, payload := range []string{"hello", initial} {
		if _, err := n.guest.link.WriteFrames([]link.Frame{udp(n.block.Guest4.String()+":9", to, payload)}); err != nil {
			t.Fatal(err)
		}
	}
	f := n.waitEvent("flow.deny").Flow
	if f.Name != "a.example" || f.NameFrom != "dns" || f.Dialed.String() != to || f.Response != "port-unreachable" {
		t.Errorf("recorded %+v", f)
	}
}

// TestQUICInSegments: a QUIC Initial does not hide behind other datagrams of its
// frame.
func TestQUICInSegments(t *testing.T) {
	t.Parallel()
	initial := "\xc0\x00\x00\x00\x01\x08" + strings.Repeat("i", 8) + "\x00" + strings.Repeat("x", 1185)
	other := strings.Repeat("o", len(initial))
	for payload, want := range map[string]bool{initial: true, other: false, other + initial: true, other + other: false, other + other + initial: true} {
		if got := anyInitial([]byte(payload), len(initial)); got != want {
			t.Errorf("%d datagrams: %v", len(payload)/len(initial), got)
		}
	}
}
