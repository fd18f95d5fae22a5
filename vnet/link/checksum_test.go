package link

import (
	"math/rand/v2"
	"testing"
)

func TestSum(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		in   []byte
		want uint16 // not complemented
	}{
		{"nothing", nil, 0},
		{"RFC 1071, section 3", []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}, 0xddf2},
		{"one byte is a left half", []byte{0x12}, 0x1200},
		{"odd", []byte{0x12, 0x34, 0x56}, 0x6834},
		{"end-around carry", []byte{0xff, 0xff, 0x00, 0x01}, 0x0001},
		{"all ones", []byte{0xff, 0xff, 0xff, 0xff}, 0xffff},
	} {
		if got := sum(0).add(tt.in).fold(); got != tt.want {
			t.Errorf("%s: sum of %x = %#x, want %#x", tt.name, tt.in, got, tt.want)
		}
		if got := naiveSum(tt.in); got != tt.want {
			t.Errorf("%s: the oracle says %#x, want %#x", tt.name, got, tt.want)
		}
	}
}

// TestSumLengths compares with the oracle for every length around the unrolled
// loop's, every alignment, and bytes that carry as much as bytes can.
func TestSumLengths(t *testing.T) {
	t.Parallel()
	ones := make([]byte, 300)
	for i := range ones {
		ones[i] = 0xff
	}
	for _, b := range [][]byte{pattern(300), ones} {
		for from := range 9 {
			for to := from; to <= len(b); to++ {
				if got, want := sum(0).add(b[from:to]).fold(), naiveSum(b[from:to]); got != want {
					t.Fatalf("sum of bytes %d to %d = %#x, want %#x", from, to, got, want)
				}
			}
		}
	}
}

func TestSumCarries(t *testing.T) {
	t.Parallel()
	full := ^sum(0)
	if got := full.plus(full); got != full {
		t.Errorf("all ones plus all ones = %#x", got)
	}
	if got := full.add([]byte{0, 1}).fold(); got != 1 {
		t.Errorf("all ones plus 1 = %#x, want 1", got)
	}
	if got := sum(0).add16(0x1234).add32(0x00010002).fold(); got != 0x1237 {
		t.Errorf("0x1234 + 0x0001 + 0x0002 = %#x, want 0x1237", got)
	}
}

func TestChecksumIsNeverZero(t *testing.T) {
	t.Parallel()
	if got := sum(0).add([]byte{0xff, 0xff}).checksum(); got != 0xffff {
		t.Errorf("checksum of ones = %#x, want 0xffff, since 0 means none in UDP", got)
	}
	if got := sum(0).checksum(); got != 0xffff {
		t.Errorf("checksum of nothing = %#x, want 0xffff", got)
	}
}

// FuzzPieceSum checks that it does not matter how bytes are cut into pieces.
func FuzzPieceSum(f *testing.F) {
	f.Add([]byte("abcdefghijk"), uint64(1))
	f.Add(pattern(2000), uint64(7))
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		var s pieceSum
		for left := b; len(left) > 0; {
			n := min(1+rnd.IntN(100), len(left))
			s.add(left[:n])
			left = left[n:]
		}
		if got, want := s.sum.fold(), naiveSum(b); got != want {
			t.Errorf("sum = %#x, want %#x", got, want)
		}
		if s.odd != (len(b)%2 == 1) {
			t.Errorf("odd = %v for %d bytes", s.odd, len(b))
		}
	})
}

func BenchmarkSum(b *testing.B) {
	data := pattern(1460)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		sum(0).add(data)
	}
}
