package vnet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strconv"
	"testing"
)

// TestSum compares with the sum as RFC 1071 writes it, at every length around
// the widths that the loop works in, and for the bytes that carry the most.
func TestSum(t *testing.T) {
	t.Parallel()
	random := make([]byte, 300)
	for i := range random {
		random[i] = byte(i*i*7 + i)
	}
	for _, data := range [][]byte{random, bytes.Repeat([]byte{0xff}, 300), bytes.Repeat([]byte{0}, 300), bytes.Repeat([]byte{0xff, 0xfe}, 150)} {
		for n := range len(data) {
			for _, initial := range []uint16{0, 1, 0xffff, 0x1234} {
				got, want := sum(data[:n], initial), addSums(slowSum(data[:n]), initial)
				if got%0xffff != want%0xffff { // zero has two forms
					t.Fatalf("sum of %d bytes % x..., from %#x: got %#x, want %#x", n, data[:min(n, 4)], initial, got, want)
				}
			}
		}
	}
}

// TestSumParts: a sum can be taken in parts, as long as only the last is odd.
func TestSumParts(t *testing.T) {
	t.Parallel()
	b := []byte("a datagram of some length, cut at any even place")
	for i := 0; i <= len(b); i += 2 {
		if got, want := sum(b[i:], sum(b[:i], 0)), sum(b, 0); got != want {
			t.Errorf("cut at %d: got %#x, want %#x", i, got, want)
		}
	}
}

func TestPseudoSum(t *testing.T) {
	t.Parallel()
	rows := []struct {
		src, dst string
		proto    uint8
		length   int
	}{
		{"1.2.3.4", "255.255.255.255", 6, 20},
		{"172.16.0.2", "93.184.216.34", 17, 65515},
		{"fd42::2", "2606::34", 58, 65535},
		{"fd42::2", "2606::34", 17, 70000}, // wider than 16 bits
	}
	for _, r := range rows {
		src, dst := netip.MustParseAddr(r.src), netip.MustParseAddr(r.dst)
		b := append(src.AsSlice(), dst.AsSlice()...)
		b = binary.BigEndian.AppendUint32(b, uint32(r.length))
		b = append(b, 0, 0, 0, r.proto)
		if got, want := pseudoSum(src, dst, r.proto, r.length), slowSum(b); got != want {
			t.Errorf("pseudoSum(%s, %s, %d, %d) = %#x, want %#x", r.src, r.dst, r.proto, r.length, got, want)
		}
	}
}

// TestChecksumField: a UDP checksum that comes out as zero is sent as all ones
// (RFC 768).
func TestChecksumField(t *testing.T) {
	t.Parallel()
	for s, want := range map[uint16]uint16{0xffff: 0xffff, 0: 0xffff, 1: 0xfffe, 0x1234: 0xedcb} {
		if got := checksumField(s); got != want {
			t.Errorf("checksumField(%#x) = %#x, want %#x", s, got, want)
		}
	}
}

func FuzzSum(f *testing.F) {
	f.Add([]byte("abc"), uint16(0))
	f.Fuzz(func(t *testing.T, b []byte, initial uint16) {
		if got, want := sum(b, initial), addSums(slowSum(b), initial); got%0xffff != want%0xffff {
			t.Errorf("sum(% x, %#x) = %#x, want %#x", b, initial, got, want)
		}
	})
}

func BenchmarkSum(b *testing.B) {
	for _, n := range []int{64, 1460, 65536} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			data := bytes.Repeat([]byte{0xa5}, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				sum(data, 0)
			}
		})
	}
}
