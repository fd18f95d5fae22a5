package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
)

// rawStream returns a stream link and the guest's end of its bytes.
func rawStream(t *testing.T, cfg Config) (*stream, net.Conn) {
	t.Helper()
	ours, guest := net.Pipe()
	s := cfg.OpenConn(ours).(*stream)
	t.Cleanup(func() {
		s.Close()
		guest.Close()
	})
	return s, guest
}

// TestStreamHostile has the guest send what is no stream of frames. What came
// before is delivered; what came after can't be.
func TestStreamHostile(t *testing.T) {
	t.Parallel()
	good := appendRecord(nil, pattern(60))
	for _, tt := range []struct {
		name   string
		in     []byte
		frames int
		want   error
	}{
		{"nothing", nil, 0, io.EOF},
		{"end within a length", []byte{0, 0}, 0, io.EOF},
		{"end within a frame", good[:40], 0, io.EOF},
		{"end within the second frame", append(good[:len(good):len(good)], good[:5]...), 1, io.EOF},
		{"no bytes", append([]byte{0, 0, 0, 0}, good...), 2, io.EOF},
		{"13 bytes", append(appendRecord(nil, good[:13]), good...), 2, io.EOF},
		{"65551 bytes", binary.BigEndian.AppendUint32(nil, MaxFrame+1), 0, ErrMalformed},
		{"2^32-1 bytes", binary.BigEndian.AppendUint32(good[:len(good):len(good)], 1<<32-1), 1, ErrMalformed},
	} {
		s, guest := rawStream(t, Config{})
		go func() {
			guest.Write(tt.in)
			guest.Close()
		}()
		frames, n := room(4, 1<<16), 0
		var err error
		for err == nil {
			var k int
			k, err = s.ReadFrames(frames)
			n += k
		}
		if n != tt.frames || !errors.Is(err, tt.want) {
			t.Errorf("%s: %d frames, %v; want %d, %v", tt.name, n, err, tt.frames, tt.want)
		}
		if _, again := s.ReadFrames(frames); !errors.Is(again, tt.want) {
			t.Errorf("%s: ReadFrames after the end: %v, want %v", tt.name, again, tt.want)
		}
		if _, werr := s.WriteFrames([]Frame{{Data: pattern(60)}}); !errors.Is(werr, tt.want) {
			t.Errorf("%s: WriteFrames after the end: %v, want %v", tt.name, werr, tt.want)
		}
	}
}

// TestStreamMalformedWakes shows that the reader's end is the flusher's too, which
// waits for a guest that does not read.
func TestStreamMalformedWakes(t *testing.T) {
	t.Parallel()
	s, guest := rawStream(t, Config{})
	write(t, s, Frame{Data: pattern(60)})
	go guest.Write([]byte{0xff, 0xff, 0xff, 0xff})
	if _, err := s.ReadFrames(room(1, 60)); !errors.Is(err, ErrMalformed) {
		t.Fatalf("ReadFrames: %v", err)
	}
	<-s.out.done
	must(t, s.Close())
}

// TestStreamBytes pins the format on the wire.
func TestStreamBytes(t *testing.T) {
	t.Parallel()
	s, guest := rawStream(t, Config{})
	write(t, s, Frame{Data: pattern(14), More: [][]byte{{1}, {2, 3}}})
	want := append([]byte{0, 0, 0, 17}, append(pattern(14), 1, 2, 3)...)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(guest, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %x, %v; want %x", got, err, want)
	}
}
