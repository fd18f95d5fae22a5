package vnet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/vnet/link"
)

var epoch = time.Unix(1_000_000, 0)

// dropCounter counts what a reassembler gives up.
type dropCounter [numDrops]int

func (c *dropCounter) drop(d drop) { c[d]++ }

// pieces cuts the transport part of a whole frame into fragments of the given
// size, in order.
func pieces(t testing.TB, whole link.Frame, id uint32, size int) []link.Frame {
	t.Helper()
	var p packet
	g := newGuard(testBlock(t), 65535)
	if d := g.check(&whole, &p); d != dropNone {
		t.Fatalf("the guard drops the datagram: %v", d)
	}
	transport := whole.Data[p.l4:p.end]
	var fs []link.Frame
	for offset := 0; offset < len(transport); offset += size {
		end := min(offset+size, len(transport))
		fs = append(fs, rawIP(p.src.String(), p.dst.String(), p.proto, string(transport[offset:end]), part(id, offset, end < len(transport))))
	}
	return fs
}

// feed passes a frame through the guard to the reassembler.
func (r *reassembler) feed(t testing.TB, f link.Frame, now time.Time) ([]byte, drop) {
	t.Helper()
	var p packet
	if d := newGuard(testBlock(t), 65535).check(&f, &p); d != dropNone || p.kind != kindFragment {
		t.Fatalf("not a fragment: %v, kind %d", d, p.kind)
	}
	return r.add(&p, now)
}

func TestReassemble(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("The quick brown fox. ", 4000)
	wholes := map[string]link.Frame{
		"UDP":        udp(guest4+":1", remote4+":2", text[:3000]),
		"UDP, IPv6":  udp("["+guest6+"]:1", "["+remote6+"]:2", text[:3000]),
		"echo":       echo(guest4, remote4, 1, 2, text[:3000]),
		"echo, IPv6": echo(guest6, remote6, 1, 2, text[:3000]),
		"largest":    udp(guest4+":1", remote4+":2", text[:65507]),
	}
	orders := map[string]func([]link.Frame){
		"in order": func([]link.Frame) {},
		"backward": slices.Reverse[[]link.Frame],
		"shuffled": func(fs []link.Frame) {
			rand.New(rand.NewPCG(5, 6)).Shuffle(len(fs), func(i, j int) { fs[i], fs[j] = fs[j], fs[i] })
		},
	}
	g := newGuard(testBlock(t), 1500)
	for name, whole := range wholes {
		for order, arrange := range orders {
			r := newReassembler(func(d drop) { t.Errorf("%s, %s: dropped: %v", name, order, d) })
			fs := pieces(t, whole, 77, 1480)
			arrange(fs)
			for i, f := range fs {
				got, d := r.feed(t, f, epoch)
				if d != dropNone || (got != nil) != (i == len(fs)-1) {
					t.Fatalf("%s, %s: fragment %d of %d: %v, %v", name, order, i, len(fs), got != nil, d)
				}
				if got == nil {
					continue
				}
				var p, want packet
				if d := g.checkWhole(got, &p); d != dropNone {
					t.Errorf("%s, %s: the guard drops the whole: %v", name, order, d)
				}
				g.checkWhole(whole.Data, &want)
				if p.kind != want.kind || p.src != want.src || p.dst != want.dst || !bytes.Equal(got[p.l4:p.end], whole.Data[want.l4:want.end]) {
					t.Errorf("%s, %s: got another datagram", name, order)
				}
			}
			if r.sets.Len() != 0 {
				t.Errorf("%s, %s: %d sets left", name, order, r.sets.Len())
			}
		}
	}
}

// TestReassembleOverlap: fragments that overlap or disagree drop the datagram,
// and so do all that follow of it.
func TestReassembleOverlap(t *testing.T) {
	t.Parallel()
	frag := func(offset, length int, more bool) link.Frame {
		return rawIP(guest4, remote4, protoUDP, strings.Repeat("x", length), part(9, offset, more))
	}
	first, last := frag(0, 1480, true), frag(1480, 100, false)
	rows := []struct {
		name string
		fs   []link.Frame
	}{
		{"repeated", []link.Frame{first, first}},
		{"repeated end", []link.Frame{last, last}},
		{"begins inside", []link.Frame{first, frag(1472, 16, true)}},
		{"ends inside", []link.Frame{frag(1472, 104, true), first}},
		{"lies inside", []link.Frame{first, frag(8, 8, true)}},
		{"covers", []link.Frame{frag(8, 8, true), first}},
		{"two ends", []link.Frame{last, frag(2000, 100, false)}},
		{"end before the end", []link.Frame{frag(2000, 8, true), last}},
		{"goes on behind the end", []link.Frame{last, frag(1584, 8, true)}},
		{"fills more than the gap", []link.Frame{first, frag(1496, 8, true), frag(1480, 24, true)}},
	}
	for _, r := range rows {
		var c dropCounter
		re := newReassembler(c.drop)
		n := len(r.fs)
		for i, f := range r.fs {
			want := dropNone
			if i == n-1 {
				want = dropReassemblyOverlap
			}
			if got, d := re.feed(t, f, epoch); d != want || got != nil {
				t.Errorf("%s: fragment %d: %v, want %v", r.name, i, d, want)
			}
		}
		if c[dropReassemblyOverlap] < 1 {
			t.Errorf("%s: the fragments kept were not counted", r.name)
		}
		for _, f := range []link.Frame{first, last} {
			if got, d := re.feed(t, f, epoch); got != nil || d != dropReassemblyOverlap {
				t.Errorf("%s: afterwards: %v", r.name, d)
			}
		}
		// The same identification means a new datagram once the time is over.
		re.feed(t, first, epoch.Add(defaultWait))
		if got, d := re.feed(t, last, epoch.Add(defaultWait)); got == nil {
			t.Errorf("%s: after the time: %v", r.name, d)
		}
	}
}

// TestReassembleKeepsDatagramsApart: another address, identification or protocol
// is another datagram.
func TestReassembleKeepsDatagramsApart(t *testing.T) {
	t.Parallel()
	r := newReassembler(func(d drop) { t.Errorf("dropped: %v", d) })
	r.feed(t, rawIP(guest4, remote4, protoUDP, "12345678", part(1, 0, true)), epoch)
	for name, f := range map[string]link.Frame{
		"identification": rawIP(guest4, remote4, protoUDP, "12345678", part(2, 8, false)),
		"destination":    rawIP(guest4, gateway4, protoUDP, "12345678", part(1, 8, false)),
		"protocol":       rawIP(guest4, remote4, protoICMPv4, "12345678", part(1, 8, false)),
		"family":         rawIP(guest6, remote6, protoUDP, "12345678", part(1, 8, false)),
	} {
		if got, _ := r.feed(t, f, epoch); got != nil {
			t.Errorf("a fragment of another %s completed the datagram", name)
		}
	}
	if got, _ := r.feed(t, rawIP(guest4, remote4, protoUDP, "12345678", part(1, 8, false)), epoch); got == nil {
		t.Error("its own did not")
	}
}

// TestL07Bounds: never-completed fragments are bounded in number, bytes and
// time, and a datagram whose fragments come together still passes.
func TestL07Bounds(t *testing.T) {
	t.Parallel()
	var c dropCounter
	r := newReassembler(c.drop)
	for i := range 10 * defaultSets {
		if _, d := r.feed(t, rawIP(guest4, remote4, protoUDP, "12345678", part(uint32(i+1), 65000, true)), epoch); d != dropNone {
			t.Fatalf("datagram %d: %v", i, d)
		}
		if r.sets.Len() > defaultSets {
			t.Fatalf("%d datagrams at once", r.sets.Len())
		}
	}
	if got, want := c[dropReassemblyLimit], 9*defaultSets; got != want {
		t.Errorf("%d given up for want of room, want %d", got, want)
	}
	fs := pieces(t, udp(guest4+":1", remote4+":2", strings.Repeat("x", 3000)), 60000, 1480)
	for i, f := range fs {
		if whole, d := r.feed(t, f, epoch); (whole != nil) != (i == len(fs)-1) {
			t.Errorf("under a flood, fragment %d: %v", i, d)
		}
	}
	r.expire(epoch.Add(defaultWait - 1))
	if r.sets.Len() == 0 {
		t.Error("given up before the time")
	}
	r.expire(epoch.Add(defaultWait))
	if r.sets.Len() != 0 || c[dropReassemblyTimeout] != defaultSets-1 {
		t.Errorf("after the time: %d datagrams, %d timed out", r.sets.Len(), c[dropReassemblyTimeout])
	}

	// Fragments of one datagram.
	c = dropCounter{}
	for i := range defaultParts + 2 {
		_, d := r.feed(t, rawIP(guest4, remote4, protoUDP, "12345678", part(1, i*16, true)), epoch)
		want := dropNone
		switch {
		case i == defaultParts:
			want = dropReassemblyLimit
		case i > defaultParts:
			want = dropReassemblyOverlap // whatever else comes of it
		}
		if d != want {
			t.Fatalf("fragment %d: %v, want %v", i, d, want)
		}
	}
	if c[dropReassemblyLimit] != defaultParts {
		t.Errorf("%d fragments given up, want %d", c[dropReassemblyLimit], defaultParts)
	}
}

// TestReassembleAllocatesNothing: large datagrams one after the other use the
// same memory.
func TestReassembleAllocatesNothing(t *testing.T) {
	r := newReassembler(func(drop) {})
	g := newGuard(testBlock(t), 1500)
	fs := pieces(t, udp(guest4+":1", remote4+":2", strings.Repeat("x", 9000)), 5, 1480)
	ps := make([]packet, len(fs))
	for i := range fs {
		g.check(&fs[i], &ps[i])
	}
	n := testing.AllocsPerRun(100, func() {
		for i := range ps {
			r.add(&ps[i], epoch)
		}
	})
	// The table's entry is the one thing that is made anew.
	if n > 1 {
		t.Errorf("%v allocations for a datagram of %d fragments", n, len(fs))
	}
}

// FuzzReassemble compares with a model that keeps the fragments of one datagram
// in a list: whatever their order, the datagram comes out if and when all is
// there, and never after an overlap.
func FuzzReassemble(f *testing.F) {
	f.Add([]byte{0, 0, 2, 1, 0, 2, 2, 1, 0, 4, 1, 0})
	f.Add([]byte{0, 2, 2, 1, 0, 4, 1, 0, 0, 0, 2, 1})
	f.Add([]byte{0, 0, 2, 1, 0, 1, 2, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		r := newReassembler(func(drop) {})
		var got []span
		spoilt, total := false, -1
		// Four bytes are a fragment: offset (two), length in units of 8, more.
		for ; len(script) >= 4; script = script[4:] {
			offset := int(binary.BigEndian.Uint16(script)) % 8000 * 8
			length := max(1, int(script[2])%8) * 8
			more := script[3]&1 != 0
			if !more {
				length -= int(script[3]) % 8
			}
			if ipv4Len+offset+length > 65535 {
				continue
			}
			frame := make([]byte, etherLen+ipv4Len+length)
			for i := range length {
				frame[etherLen+ipv4Len+i] = byte(offset + i)
			}
			p := packet{kind: kindFragment, frame: frame, proto: protoUDP, l4: etherLen + ipv4Len, end: len(frame), fragOffset: offset, moreFrags: more}
			whole, d := r.add(&p, epoch)

			s := span{offset, offset + length}
			for _, g := range got {
				spoilt = spoilt || s.from < g.to && g.from < s.to || !more && g.to > s.to
			}
			spoilt = spoilt || total >= 0 && (!more || s.to > total)
			if spoilt {
				if whole != nil || d != dropReassemblyOverlap {
					t.Fatalf("overlap passed: %v after %v: %v", s, got, d)
				}
				continue
			}
			got = append(got, s)
			if !more {
				total = s.to
			}
			sum := 0
			for _, g := range got {
				sum += g.to - g.from
			}
			if (whole != nil) != (sum == total) || d != dropNone {
				t.Fatalf("whole: %v, but %d bytes of %d came: %v", whole != nil, sum, total, d)
			}
			if whole == nil {
				continue
			}
			for i, b := range whole[etherLen+ipv4Len:] {
				if b != byte(i) {
					t.Fatalf("byte %d is wrong", i)
				}
			}
			if len(whole) != etherLen+ipv4Len+total {
				t.Fatalf("%d bytes, want %d", len(whole), etherLen+ipv4Len+total)
			}
			got, total = nil, -1
		}
	})
}
