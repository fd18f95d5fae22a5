package link

import (
	"bytes"
	"testing"
)

// TestHeader compares with the bytes that the specification gives, in the order
// of its fields: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset,
// num_buffers.
func TestHeader(t *testing.T) {
	t.Parallel()
	big := pattern(60000)
	tcp4 := segment{payload: big}.frame(1448)
	tcp6 := segment{v6: true, options: make([]byte, 12), payload: big}.frame(1428)
	tcp6.Offload.ECN = true
	udp := segment{udp: true, payload: big}.frame(1400)
	short := segment{payload: []byte("x")}.frame(1448)
	split := Frame{Offload: tcp4.Offload, Data: tcp4.Data[:40], More: [][]byte{tcp4.Data[40:]}}
	for _, tt := range []struct {
		name string
		f    Frame
		want []byte
	}{
		{"plain", Frame{Data: big[:60]}, []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
		{"plain and large: a hint", Frame{Data: big}, []byte{0, 0, 128, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
		{"valid", Frame{Data: big[:60], Offload: Offload{ChecksumValid: true}}, []byte{2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
		{"partial TCP", short, []byte{1, 0, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0}},
		{"TCP over IPv4", tcp4, []byte{1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0}},
		{"TCP over IPv6, ECN", tcp6, []byte{1, 0x84, 86, 0, 0x94, 5, 54, 0, 16, 0, 0, 0}},
		{"UDP segments", udp, []byte{1, 5, 42, 0, 0x78, 5, 34, 0, 6, 0, 0, 0}},
		{"headers not together", split, []byte{1, 1, 40, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0}},
	} {
		got := make([]byte, TAPHeaderLen)
		putHeader(got, &tt.f)
		if !bytes.Equal(got, tt.want) {
			t.Errorf("%s: header %x, want %x", tt.name, got, tt.want)
		}
		if o := parseHeader(got); o != tt.f.Offload {
			t.Errorf("%s: parsed back %+v, want %+v", tt.name, o, tt.f.Offload)
		}
	}
}

func TestParseHeaderHostile(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		in   []byte
		want Offload
	}{
		{"all ones", bytes.Repeat([]byte{0xff}, 12), Offload{
			NeedsChecksum: true, ChecksumValid: true, ChecksumStart: 0xffff, ChecksumOffset: 0xffff,
			GSO: 0x7f, ECN: true, SegmentSize: 0xffff,
		}},
		{"fields without their flags", []byte{0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, Offload{}},
		{"ECN alone", []byte{0, 0x80, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0}, Offload{ECN: true, SegmentSize: 0x0403}},
		{"UFO has no name here", []byte{0, 3, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0}, Offload{GSO: 3, SegmentSize: 0x0403}},
	} {
		if got := parseHeader(tt.in); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// FuzzHeader checks that what was parsed is written and parsed as the same, and
// that the hint stays within the frame.
func FuzzHeader(f *testing.F) {
	f.Add([]byte{1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0}, pattern(100))
	f.Fuzz(func(t *testing.T, h, data []byte) {
		if len(h) < TAPHeaderLen {
			return
		}
		frame := Frame{Offload: parseHeader(h), Data: data}
		again := make([]byte, TAPHeaderLen)
		putHeader(again, &frame)
		if got := parseHeader(again); got != frame.Offload {
			t.Errorf("%+v became %+v", frame.Offload, got)
		}
		if n := int(again[2]) | int(again[3])<<8; n > len(data) {
			t.Errorf("header length %d of a frame of %d bytes", n, len(data))
		}
	})
}
