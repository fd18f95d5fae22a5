package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
)

// appendRecord appends a frame as a stream carries it.
func appendRecord(dst []byte, frame []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(frame)))
	return append(dst, frame...)
}

// deframe feeds b to a deframer, cut as cut says: the length of the next piece,
// at most the argument. It returns the frames and the error.
func deframe(t testing.TB, b []byte, cut func(most int) int) (frames [][]byte, err error) {
	t.Helper()
	var d deframer
	for {
		frame, ok, err := d.peek()
		switch {
		case err != nil:
			if _, _, again := d.peek(); !errors.Is(again, ErrMalformed) {
				t.Errorf("after %v it goes on: %v", err, again)
			}
			return frames, err
		case ok:
			frames = append(frames, bytes.Clone(frame))
			d.take(frame)
		case len(b) == 0:
			return frames, nil
		default:
			space := d.space()
			if len(space) == 0 {
				t.Fatal("no space, but no frame either")
			}
			n := min(cut(min(len(b), len(space))), len(b), len(space))
			copy(space, b[:n])
			d.wrote(n)
			b = b[n:]
		}
	}
}

func TestDeframer(t *testing.T) {
	t.Parallel()
	small, large := pattern(60), pattern(MaxFrame)
	valid := appendRecord(appendRecord(appendRecord(nil, small), large), small)
	u32 := func(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
	for _, tt := range []struct {
		name      string
		in        []byte
		want      int // frames
		malformed bool
	}{
		{"nothing", nil, 0, false},
		{"part of a length", []byte{0, 0, 0}, 0, false},
		{"three frames", valid, 3, false},
		{"end within a frame", valid[:len(valid)-1], 2, false},
		{"no bytes is a frame for the guard", append(u32(0), valid...), 4, false},
		{"a runt too", append(appendRecord(nil, small[:13]), valid...), 4, false},
		{"the largest", appendRecord(nil, large), 1, false},
		{"one byte more", append(u32(MaxFrame+1), large...), 0, true},
		{"as said before there is anything", u32(65551), 0, true},
		{"2^31", u32(1 << 31), 0, true},
		{"2^32-1", u32(1<<32 - 1), 0, true},
		{"after good frames", append(valid[:len(valid):len(valid)], u32(1<<32-1)...), 3, true},
		{"little-endian", []byte{60, 0, 0, 0}, 0, true},
	} {
		for _, step := range []int{1, 3, 4096, 1 << 30} {
			if step == 1 && len(tt.in) > 1000 {
				step = 7
			}
			frames, err := deframe(t, tt.in, func(int) int { return step })
			if len(frames) != tt.want || errors.Is(err, ErrMalformed) != tt.malformed {
				t.Errorf("%s, %d bytes at a time: %d frames, %v; want %d, malformed %v", tt.name, step, len(frames), err, tt.want, tt.malformed)
			}
		}
	}
}

// TestDeframerMemory checks that a length takes no memory: only what a stream's
// buffer always has.
func TestDeframerMemory(t *testing.T) {
	t.Parallel()
	var d deframer
	d.wrote(copy(d.space(), []byte{0xff, 0xff, 0xff, 0xff}))
	d.peek()
	if len(d.buf) != readBuffer {
		t.Errorf("the buffer has %d bytes, want %d", len(d.buf), readBuffer)
	}
}

// FuzzDeframer checks that the same bytes give the same frames however they are
// cut, and that the frames put together again are the bytes.
func FuzzDeframer(f *testing.F) {
	f.Add(appendRecord(appendRecord(nil, pattern(60)), pattern(1514)), uint64(1))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 9, 0, 1, 0, 15}, uint64(2))
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		whole, wholeErr := deframe(t, b, func(most int) int { return most })
		rnd := rand.New(rand.NewPCG(seed, 0))
		cut, cutErr := deframe(t, b, func(most int) int { return 1 + rnd.IntN(most) })
		if (wholeErr == nil) != (cutErr == nil) || len(whole) != len(cut) {
			t.Fatalf("at once %d frames, %v; cut %d frames, %v", len(whole), wholeErr, len(cut), cutErr)
		}
		var joined []byte
		for i := range whole {
			if !bytes.Equal(whole[i], cut[i]) {
				t.Fatalf("frame %d differs", i)
			}
			joined = appendRecord(joined, whole[i])
		}
		if !bytes.HasPrefix(b, joined) {
			t.Fatal("the frames are not those of the stream")
		}
		if wholeErr == nil && len(b)-len(joined) > lengthLen+MaxFrame {
			t.Fatalf("%d bytes are left over", len(b)-len(joined))
		}
	})
}
