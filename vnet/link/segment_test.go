package link

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// cutAll returns f's frames as a card without offloads sends them, joined.
func cutAll(t testing.TB, f Frame) [][]byte {
	t.Helper()
	var d drops
	var tr train
	var out [][]byte
	tr.load([]Frame{f})
	for tr.fill(&d) {
		for i := range tr.ends {
			record := bytes.Join(tr.pieces[tr.start(i):tr.ends[i]], nil)
			out = append(out, record[lengthLen:])
		}
		tr.skip(len(tr.ends))
	}
	if (len(out) == 0) != (d.unfit.Load() == 1) {
		t.Fatalf("%d frames and %d unfit from one", len(out), d.unfit.Load())
	}
	return out
}

// scatter returns f with its bytes in pieces, cut at random.
func scatter(f Frame, rnd *rand.Rand) Frame {
	data := f.Data
	n := rnd.IntN(len(data) + 1)
	out := Frame{Offload: f.Offload, Data: data[:n]}
	for data = data[n:]; len(data) > 0; data = data[n:] {
		n = min(rnd.IntN(1+rnd.IntN(3000)), len(data))
		out.More = append(out.More, data[:n])
	}
	return out
}

func TestSegment(t *testing.T) {
	t.Parallel()
	const fin, psh, ack, cwr = 1, 8, 16, 0x80
	options := []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}
	for _, tt := range []struct {
		name string
		s    segment
		mss  int
		want []int // payload lengths
	}{
		{"IPv4, exact", segment{payload: pattern(2000), flags: ack}, 1000, []int{1000, 1000}},
		{"IPv4, rest", segment{payload: pattern(2001), flags: ack}, 1000, []int{1000, 1000, 1}},
		{"IPv4, flags", segment{payload: pattern(2500), flags: fin | psh | ack | cwr}, 1000, []int{1000, 1000, 500}},
		{"IPv4, options", segment{payload: pattern(2500), flags: ack, options: options}, 988, []int{988, 988, 524}},
		{"IPv4, ID wraps", segment{payload: pattern(30), flags: ack, id: 0xfffe}, 10, []int{10, 10, 10}},
		{"IPv4, sequence wraps", segment{payload: pattern(30), flags: ack, seq: 0xfffffff8}, 10, []int{10, 10, 10}},
		{"IPv4, odd segments", segment{payload: pattern(22), flags: ack}, 7, []int{7, 7, 7, 1}},
		{"IPv6", segment{v6: true, payload: pattern(2500), flags: psh | ack}, 1000, []int{1000, 1000, 500}},
		{"UDP over IPv4", segment{udp: true, payload: pattern(2500)}, 1000, []int{1000, 1000, 500}},
		{"UDP over IPv6", segment{udp: true, v6: true, payload: pattern(2500)}, 1000, []int{1000, 1000, 500}},
		{"no segments, checksum only", segment{payload: pattern(999), flags: psh | ack}, 1000, []int{999}},
		{"no payload, checksum only", segment{flags: ack}, 1000, []int{0}},
		{"UDP, checksum only", segment{udp: true, payload: pattern(999)}, 1000, []int{999}},
	} {
		f := tt.s.frame(tt.mss)
		before := slices.Clone(f.Data)
		got := cutAll(t, f)
		if len(got) != len(tt.want) {
			t.Errorf("%s: %d segments, want %d", tt.name, len(got), len(tt.want))
			continue
		}
		seq := tt.s.seq
		for i, b := range got {
			p, err := parseFrame(b, true)
			if err != nil {
				t.Errorf("%s: segment %d: %v", tt.name, i, err)
				continue
			}
			if len(p.payload) != tt.want[i] {
				t.Errorf("%s: segment %d has %d bytes, want %d", tt.name, i, len(p.payload), tt.want[i])
			}
			flags := tt.s.flags
			if i > 0 {
				flags &^= cwr
			}
			if i < len(got)-1 {
				flags &^= fin | psh
			}
			if p.flags != flags || !bytes.Equal(p.options, tt.s.options) {
				t.Errorf("%s: segment %d: flags %#x options %x, want %#x %x", tt.name, i, p.flags, p.options, flags, tt.s.options)
			}
			if !tt.s.udp && p.seq != seq {
				t.Errorf("%s: segment %d: sequence number %d, want %d", tt.name, i, p.seq, seq)
			}
			if !tt.s.v6 && p.id != tt.s.id+uint16(i) {
				t.Errorf("%s: segment %d: ID %#x, want %#x", tt.name, i, p.id, tt.s.id+uint16(i))
			}
			seq += uint32(tt.want[i])
		}
		if !bytes.Equal(f.Data, before) {
			t.Errorf("%s: the sender's memory was changed", tt.name)
		}
	}
}

// TestSegmentUnfit lists frames that can't be carried: none of them may come out
// in any form.
func TestSegmentUnfit(t *testing.T) {
	t.Parallel()
	tcp := func(change func(*Frame)) Frame {
		f := segment{payload: pattern(3000)}.frame(1000)
		change(&f)
		return f
	}
	for _, tt := range []struct {
		name string
		f    Frame
	}{
		{"nothing", Frame{}},
		{"runt", Frame{Data: make([]byte, etherLen-1)}},
		{"longer than MaxFrame", Frame{Data: make([]byte, MaxFrame+1)}},
		{"longer than MaxFrame together", Frame{Data: make([]byte, MaxFrame), More: [][]byte{{1}}}},
		{"checksum behind the end", Frame{Data: make([]byte, 60), Offload: Offload{NeedsChecksum: true, ChecksumStart: 58, ChecksumOffset: 1}}},
		{"checksum far away", Frame{Data: make([]byte, 6000), Offload: Offload{NeedsChecksum: true, ChecksumStart: 5000, ChecksumOffset: 16}}},
		{"checksum start and offset wrap", Frame{Data: make([]byte, 60), Offload: Offload{NeedsChecksum: true, ChecksumStart: 0xffff, ChecksumOffset: 0xffff}}},
		{"segments of nothing", tcp(func(f *Frame) { f.Offload.SegmentSize = 0 })},
		{"segments without checksum", tcp(func(f *Frame) { f.Offload.NeedsChecksum = false })},
		{"IPv4 said to be IPv6", tcp(func(f *Frame) { f.Offload.GSO = GSOTCPv6 })},
		{"TCP said to be UDP", tcp(func(f *Frame) { f.Offload.GSO = GSOUDP })},
		{"UFO", tcp(func(f *Frame) { f.Offload.GSO = 3 })},
		{"UDP said to be TCP", tcp(func(f *Frame) { f.Data[23] = protoUDP })},
		{"other EtherType", tcp(func(f *Frame) { f.Data[13] = 6 })},
		{"IPv4 with version 6", tcp(func(f *Frame) { f.Data[14] = 0x65 })},
		{"IPv4 header too short", tcp(func(f *Frame) { f.Data[14] = 0x44 })},
		{"IPv4 header longer than said", tcp(func(f *Frame) { f.Data[14] = 0x4f })},
		{"TCP header too short", tcp(func(f *Frame) { f.Data[46] = 0x40 })},
		{"TCP header longer than the frame", tcp(func(f *Frame) { f.Data = f.Data[:60]; f.Data[46] = 0xf0 })},
		{"cut within IPv4", tcp(func(f *Frame) { f.Data = f.Data[:33] })},
		{"cut within TCP", tcp(func(f *Frame) { f.Data = f.Data[:53] })},
		{"checksum elsewhere", tcp(func(f *Frame) { f.Offload.ChecksumOffset = 6 })},
		{"start elsewhere", tcp(func(f *Frame) { f.Offload.ChecksumStart++ })},
		{"segment longer than IP", func() Frame {
			f := segment{payload: pattern(70000)}.frame(1000)
			f.Offload.SegmentSize = 65535
			return f
		}()},
	} {
		if got := cutAll(t, tt.f); len(got) != 0 {
			t.Errorf("%s: %d frames, want none", tt.name, len(got))
		}
	}
}

// TestSegmentMany cuts 64 KiB into the smallest segments there are, which fill
// many trains.
func TestSegmentMany(t *testing.T) {
	t.Parallel()
	payload := pattern(65000)
	f := segment{payload: payload, seq: 5}.frame(1)
	got := cutAll(t, f)
	if len(got) != len(payload) {
		t.Fatalf("%d segments, want %d", len(got), len(payload))
	}
	for i, b := range got {
		p, err := parseFrame(b, true)
		if err != nil || p.seq != uint32(5+i) || !bytes.Equal(p.payload, payload[i:i+1]) {
			t.Fatalf("segment %d: %+v, %v", i, p, err)
		}
	}
}

// TestFrameInManyPieces sends a frame in more pieces than a system call takes.
func TestFrameInManyPieces(t *testing.T) {
	t.Parallel()
	f := segment{payload: pattern(6000)}.frame(1000)
	pieces := Frame{Offload: f.Offload, Data: f.Data[:1]}
	for i := range f.Data[1:] {
		pieces.More = append(pieces.More, f.Data[1+i:2+i])
	}
	if got, want := cutAll(t, pieces), cutAll(t, f); !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("%d segments, want the same %d as in one piece", len(got), len(want))
	}
}

// FuzzSegment checks frames that our stack could send: what comes out holds the
// same bytes, no segment is too long, and an oracle that shares no code with the
// cutter finds every length and checksum right, however the frame lies in
// memory.
func FuzzSegment(f *testing.F) {
	f.Add(false, false, uint16(1448), uint16(60000), uint16(1), uint32(2), byte(0x99), byte(3), uint64(1))
	f.Add(true, false, uint16(1), uint16(100), uint16(0xffff), uint32(0xffffff00), byte(0xff), byte(10), uint64(2))
	f.Add(false, true, uint16(1200), uint16(40000), uint16(9), uint32(0), byte(0), byte(0), uint64(3))
	f.Fuzz(func(t *testing.T, v6, udp bool, mss, n, id uint16, seq uint32, flags, options byte, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		s := segment{v6: v6, udp: udp, id: id, seq: seq, ack: 7, flags: flags, srcPort: 5}
		s.options = make([]byte, options%11*4)
		s.payload = make([]byte, min(int(n), 65535-100))
		for i := range s.payload {
			s.payload[i] = byte(rnd.Uint32())
		}
		size := max(int(mss), 1)
		frame := scatter(s.frame(size), rnd)
		var payload []byte
		for i, b := range cutAll(t, frame) {
			p, err := parseFrame(b, true)
			if err != nil {
				t.Fatalf("segment %d: %v", i, err)
			}
			if len(p.payload) > size {
				t.Fatalf("segment %d has %d bytes, at most %d", i, len(p.payload), size)
			}
			if !udp && p.seq != seq+uint32(len(payload)) {
				t.Fatalf("segment %d: sequence number %d, want %d", i, p.seq, seq+uint32(len(payload)))
			}
			payload = append(payload, p.payload...)
		}
		if !bytes.Equal(payload, s.payload) {
			t.Errorf("%d bytes of payload came out, not the same %d", len(payload), len(s.payload))
		}
	})
}

// FuzzSegmentHostile feeds arbitrary frames: no panic, nothing longer than a
// link carries, and nothing that is not a frame.
func FuzzSegmentHostile(f *testing.F) {
	seed := segment{payload: pattern(200)}.frame(50)
	f.Add(seed.Data, true, seed.Offload.ChecksumStart, seed.Offload.ChecksumOffset, byte(GSOTCPv4), uint16(50), uint64(1))
	seed = segment{v6: true, udp: true, payload: pattern(200)}.frame(50)
	f.Add(seed.Data, true, seed.Offload.ChecksumStart, seed.Offload.ChecksumOffset, byte(GSOUDP), uint16(50), uint64(2))
	f.Fuzz(func(t *testing.T, data []byte, needs bool, start, offset uint16, gso byte, mss uint16, seed uint64) {
		frame := scatter(Frame{Data: data}, rand.New(rand.NewPCG(seed, 0)))
		frame.Offload = Offload{NeedsChecksum: needs, ChecksumStart: start, ChecksumOffset: offset, GSO: GSOType(gso), SegmentSize: mss}
		for _, b := range cutAll(t, frame) {
			if len(b) < etherLen || len(b) > MaxFrame {
				t.Errorf("a frame of %d bytes", len(b))
			}
		}
	})
}

// BenchmarkSegment cuts 64 KiB for MTU 1500: no system call, one pass over the
// payload.
func BenchmarkSegment(b *testing.B) {
	f := segment{payload: pattern(65160)}.frame(1448)
	frames := []Frame{f}
	var tr train
	var d drops
	b.SetBytes(int64(len(f.Data)))
	b.ReportAllocs()
	for b.Loop() {
		tr.load(frames)
		for tr.fill(&d) {
		}
	}
}
