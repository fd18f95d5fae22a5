package link

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
)

// coalesce returns what one batch makes of in, in n frames at most, and how many
// of in it took.
func coalesce(in [][]byte, n int) (out []Frame, taken int) {
	var c coalescer
	frames := room(n, MaxFrame)
	c.begin(frames)
	for _, b := range in {
		if !c.add(b) {
			break
		}
		taken++
	}
	return frames[:c.end()], taken
}

// TestCoalesce cuts frames and puts them together again.
func TestCoalesce(t *testing.T) {
	t.Parallel()
	options := []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}
	for _, tt := range []struct {
		name string
		s    segment
		mss  int
		want int // frames
	}{
		{"IPv4", segment{payload: pattern(3000), flags: tcpACK}, 1000, 1},
		{"IPv4, as large as it gets", segment{payload: pattern(65495), flags: tcpACK}, 1448, 1},
		{"IPv4, one byte more", segment{payload: pattern(65496), flags: tcpACK}, 1448, 2},
		{"IPv4, rest", segment{payload: pattern(3001), flags: tcpACK}, 1000, 1},
		{"IPv4, odd", segment{payload: pattern(3001), flags: tcpACK}, 999, 1},
		{"IPv4, PSH on the last", segment{payload: pattern(3001), flags: tcpACK | tcpPSH}, 1000, 1},
		{"IPv4, options", segment{payload: pattern(3001), flags: tcpACK, options: options}, 1000, 1},
		{"IPv4, sequence wraps", segment{payload: pattern(3001), flags: tcpACK, seq: 0xffffff00}, 1000, 1},
		{"IPv6", segment{v6: true, payload: pattern(3001), flags: tcpACK | tcpPSH, options: options}, 1000, 1},
		{"FIN comes alone", segment{payload: pattern(3000), flags: tcpACK | tcpFIN}, 1000, 2},
		{"CWR comes alone", segment{payload: pattern(3000), flags: tcpACK | tcpCWR}, 1000, 2},
		{"URG is nothing to merge", segment{payload: pattern(3000), flags: tcpACK | 0x20}, 1000, 3},
		{"one segment", segment{payload: pattern(1000), flags: tcpACK}, 1000, 1},
		{"no payload", segment{flags: tcpACK}, 1000, 1},
		{"UDP", segment{udp: true, payload: pattern(3000)}, 1000, 3},
	} {
		cut := cutAll(t, tt.s.frame(tt.mss))
		got, taken := coalesce(cut, 64)
		if len(got) != tt.want || taken != len(cut) {
			t.Errorf("%s: %d of %d segments became %d frames, want %d", tt.name, taken, len(cut), len(got), tt.want)
			continue
		}
		if want := tt.s.frame(tt.mss); tt.want == 1 && len(cut) > 1 && (got[0].Offload != want.Offload || !bytes.Equal(got[0].Data, want.Data)) {
			t.Errorf("%s: merged to %+v\n%x\nwant the frame before it was cut, %+v\n%x", tt.name, got[0].Offload, got[0].Data, want.Offload, want.Data)
		}
		sameFlows(t, cut, got)
	}
}

// TestCoalesceNot lists pairs of segments that belong together but for one thing.
// They must come out as they went in.
func TestCoalesceNot(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		ip := etherLen
		l4 := ip + ipv4Len
		if v6 {
			l4 = ip + ipv6Len
		}
		for _, tt := range []struct {
			name   string
			change func(b []byte) []byte // of the second; its checksums are made right
		}{
			{"gap", func(b []byte) []byte { b[l4+7]++; return b }},
			{"again", func(b []byte) []byte { binary.BigEndian.PutUint32(b[l4+4:], 0); return b }},
			{"other source port", func(b []byte) []byte { b[l4+1]++; return b }},
			{"other destination port", func(b []byte) []byte { b[l4+3]++; return b }},
			{"other acknowledgement", func(b []byte) []byte { b[l4+11]++; return b }},
			{"other window", func(b []byte) []byte { b[l4+15]++; return b }},
			{"urgent pointer", func(b []byte) []byte { b[l4+19]++; return b }},
			{"reserved bit", func(b []byte) []byte { b[l4+12] |= 1; return b }},
			{"other option", func(b []byte) []byte { b[l4+31]++; return b }},
			{"other source address", func(b []byte) []byte { b[l4-8]++; return b }},
			{"other destination address", func(b []byte) []byte { b[l4-1]++; return b }},
			{"other TTL", func(b []byte) []byte { b[map[bool]int{false: 22, true: 21}[v6]]++; return b }},
			{"other traffic class", func(b []byte) []byte { b[ip+1] ^= 0x10; return b }},
			{"other MAC", func(b []byte) []byte { b[5]++; return b }},
			{"SYN", func(b []byte) []byte { b[l4+13] |= 2; return b }},
			{"RST", func(b []byte) []byte { b[l4+13] |= 4; return b }},
			{"FIN", func(b []byte) []byte { b[l4+13] |= tcpFIN; return b }},
			{"no ACK", func(b []byte) []byte { b[l4+13] = 0; return b }},
			{"longer than the first", func(b []byte) []byte { return setLength(append(b, 1, 2), v6) }},
			{"no payload", func(b []byte) []byte { return setLength(b[:l4+32], v6) }},
		} {
			s := segment{v6: v6, payload: pattern(200), flags: tcpACK, options: make([]byte, 12)}
			cut := cutAll(t, s.frame(100))
			cut[1] = tt.change(cut[1])
			fixSums(cut[1], v6)
			unchanged(t, fmt.Sprintf("%s, v6=%v", tt.name, v6), cut)
		}
	}
}

// TestCoalesceWrong has segments that are wrong in a way that only their owner may
// judge: they must come out as they went in.
func TestCoalesceWrong(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		which  int
		change func(b []byte) []byte
	}{
		{"first payload", 0, func(b []byte) []byte { b[60]++; return b }},
		{"second payload", 1, func(b []byte) []byte { b[60]++; return b }},
		{"first IP header", 0, func(b []byte) []byte { b[24]++; return b }},
		{"second IP header", 1, func(b []byte) []byte { b[18]++; return b }}, // ID
		{"padding", 1, func(b []byte) []byte { return append(b, 0) }},
		{"more fragments", 1, func(b []byte) []byte { b[20] |= 0x20; fixSums(b, false); return b }},
		{"last fragment", 1, func(b []byte) []byte { b[21] = 1; fixSums(b, false); return b }},
		{"IP options", 1, func(b []byte) []byte { b[14] = 0x46; return b }},
		{"TCP header too long", 1, func(b []byte) []byte { b[46] = 0xf0; return b[:60] }},
		{"TCP header too short", 1, func(b []byte) []byte { b[46] = 0x40; return b }},
		{"no room for TCP", 1, func(b []byte) []byte { return b[:53] }},
	} {
		cut := cutAll(t, segment{payload: pattern(200), flags: tcpACK}.frame(100))
		cut[tt.which] = tt.change(cut[tt.which])
		unchanged(t, tt.name, cut)
	}
}

// TestCoalesceAfter shows that what can't be merged ends the run: a segment that
// would fit the earlier frame must not get before it.
func TestCoalesceAfter(t *testing.T) {
	t.Parallel()
	data := cutAll(t, segment{payload: pattern(400), flags: tcpACK}.frame(100))
	ack := cutAll(t, segment{seq: 200, ack: 9, flags: tcpACK}.frame(100))
	in := [][]byte{data[0], data[1], ack[0], data[2], data[3]}
	got, _ := coalesce(in, 8)
	if len(got) != 3 {
		t.Errorf("%d frames, want 3: two segments, the acknowledgement, two segments", len(got))
	}
	sameFlows(t, in, got)
}

// TestCoalesceFlows mixes flows: up to openRuns grow at once, and more are right
// if not merged.
func TestCoalesceFlows(t *testing.T) {
	t.Parallel()
	for flows, want := range map[int]int{1: 1, 2: 2, openRuns: openRuns, openRuns + 1: 3 * (openRuns + 1)} {
		var in [][]byte
		for i := range 3 {
			for f := range flows {
				s := segment{v6: f%2 == 1, srcPort: uint16(f), payload: pattern(300), flags: tcpACK}
				in = append(in, cutAll(t, s.frame(100))[i])
			}
		}
		got, _ := coalesce(in, 64)
		if len(got) != want {
			t.Errorf("%d flows: %d frames, want %d", flows, len(got), want)
		}
		sameFlows(t, in, got)
	}
}

// TestCoalesceFull checks that a full batch takes what continues a frame of it,
// and refuses what does not.
func TestCoalesceFull(t *testing.T) {
	t.Parallel()
	data := cutAll(t, segment{payload: pattern(300), flags: tcpACK}.frame(100))
	other := cutAll(t, segment{udp: true, payload: pattern(10)}.frame(100))
	in := [][]byte{data[0], other[0], data[1], data[2], other[0]}
	if got, taken := coalesce(in, 2); len(got) != 2 || taken != 4 {
		t.Errorf("%d frames of %d, want 2 of 4", len(got), taken)
	}
}

// TestCoalesceLink runs segments from a guest's end of each medium to ours.
func TestCoalesceLink(t *testing.T) {
	each(t, Config{}, func(t *testing.T, m medium, ours, guests Link) {
		if m.header {
			t.Skip("the guest's kernel does not cut")
		}
		want := segment{v6: true, payload: pattern(1 << 20), flags: tcpACK}
		go func() {
			for sent := 0; sent < len(want.payload); sent += 1 << 15 {
				s := want
				s.seq, s.payload = uint32(sent), want.payload[sent:][:1<<15]
				guests.WriteFrames([]Frame{s.frame(1428)})
			}
		}()
		var payload []byte
		reads, merged := 0, 0
		for len(payload) < len(want.payload) {
			frames := room(8, 1<<16)
			n, err := ours.ReadFrames(frames)
			must(t, err)
			reads++
			for _, f := range frames[:n] {
				p, err := parseFrame(f.Data, !f.Offload.NeedsChecksum)
				must(t, err)
				if p.seq != uint32(len(payload)) {
					t.Fatalf("sequence number %d, want %d", p.seq, len(payload))
				}
				payload = append(payload, p.payload...)
				if f.Offload.GSO == GSOTCPv6 {
					merged++
				}
			}
		}
		if !bytes.Equal(payload, want.payload) {
			t.Error("the payload differs")
		}
		if merged == 0 {
			t.Errorf("nothing was merged in %d reads", reads)
		}
	})
}

// FuzzCoalesce feeds a batch of segments of three flows, with all sorts of
// differences, and any bytes between: cut again, the result must be the same
// frames in the same order within each flow.
func FuzzCoalesce(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0}, []byte("x"))
	f.Add([]byte{0, 1, 2, 0, 1, 2, 0x10, 0x20, 0x33, 0x40, 0x51, 0x60, 0x70, 0x80, 0x90, 0xa0}, pattern(80))
	f.Fuzz(func(t *testing.T, script, any []byte) {
		const mss = 50
		var seq [3]uint32
		var in [][]byte
		for _, op := range script[:min(len(script), 200)] {
			flow := int(op) % 3
			s := segment{v6: flow == 2, srcPort: uint16(flow), seq: seq[flow], flags: tcpACK, payload: pattern(mss)}
			change := func([]byte) {}
			switch op >> 4 {
			case 1:
				s.payload = pattern(int(op))[:op%mss]
			case 2:
				s.flags |= tcpPSH
			case 3:
				s.flags = op
			case 4:
				s.seq++
			case 5:
				s.ack = uint32(op)
			case 6:
				change = func(b []byte) { b[int(op)%len(b)]++ }
			case 7:
				s.options = make([]byte, op%4*4)
			case 8:
				in = append(in, any)
			}
			b := cutAll(t, s.frame(mss))[0]
			change(b)
			in = append(in, b)
			seq[flow] = s.seq + uint32(len(s.payload))
		}
		got, taken := coalesce(in, len(in))
		if taken != len(in) {
			t.Fatalf("%d of %d frames were taken", taken, len(in))
		}
		sameFlows(t, in, got)
	})
}

// sameFlows fails the test unless got, cut again, is in: the same frames in the
// same order within each flow. IPv4's IDs may differ, as nothing depends on them.
func sameFlows(t *testing.T, in [][]byte, got []Frame) {
	t.Helper()
	flows := func(frames [][]byte) map[string][]string {
		m := map[string][]string{}
		for _, b := range frames {
			key := "other"
			if s, ok := parseTCP(b); ok {
				b = bytes.Clone(b)
				key = string(b[s.l4-8 : s.l4+4])
				if !s.v6 && naiveSum(b[14:34]) == 0xffff {
					clear(b[18:20])
					clear(b[24:26])
				}
			}
			m[key] = append(m[key], string(b))
		}
		return m
	}
	var out [][]byte
	for i, f := range got {
		if f.Offload == (Offload{}) {
			out = append(out, f.Data)
			continue
		}
		cut := cutAll(t, f)
		if len(cut) < 2 {
			t.Fatalf("frame %d: %+v is no merged frame", i, f.Offload)
		}
		out = append(out, cut...)
	}
	want, have := flows(in), flows(out)
	for key := range want {
		if fmt.Sprintf("%x", want[key]) != fmt.Sprintf("%x", have[key]) {
			t.Errorf("flow %x:\n%x\nwant\n%x", key, have[key], want[key])
		}
	}
	if len(have) != len(want) {
		t.Errorf("%d flows, want %d", len(have), len(want))
	}
}

// unchanged fails the test unless a batch leaves in as it is.
func unchanged(t *testing.T, name string, in [][]byte) {
	t.Helper()
	got, _ := coalesce(in, len(in))
	if len(got) != len(in) {
		t.Errorf("%s: %d frames became %d", name, len(in), len(got))
		return
	}
	for i, f := range got {
		if f.Offload != (Offload{}) || !bytes.Equal(f.Data, in[i]) {
			t.Errorf("%s: frame %d became %+v %x, want %x", name, i, f.Offload, f.Data, in[i])
		}
	}
}

// setLength makes the IP header of b say how long it is.
func setLength(b []byte, v6 bool) []byte {
	if v6 {
		binary.BigEndian.PutUint16(b[18:], uint16(len(b)-54))
	} else {
		binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
	}
	return b
}

// fixSums makes the checksums of b right, whatever b is.
func fixSums(b []byte, v6 bool) {
	l4, addrs := b[34:], b[26:34]
	if v6 {
		l4, addrs = b[54:], b[22:54]
	} else {
		clear(b[24:26])
		binary.BigEndian.PutUint16(b[24:], ^naiveSum(b[14:34]))
	}
	clear(l4[16:18])
	length := binary.BigEndian.AppendUint16(nil, uint16(len(l4)))
	binary.BigEndian.PutUint16(l4[16:], ^naiveSum(addrs, length, []byte{0, protoTCP}, l4))
}

// BenchmarkCoalesce merges 45 segments: the cost of looking at their checksums
// and of one copy.
func BenchmarkCoalesce(b *testing.B) {
	in := cutAll(b, segment{payload: pattern(65160), flags: tcpACK}.frame(1448))
	frames := room(8, 1<<16)
	var c coalescer
	b.SetBytes(65160)
	b.ReportAllocs()
	for b.Loop() {
		c.begin(frames)
		for _, s := range in {
			c.add(s)
		}
		c.end()
	}
}
