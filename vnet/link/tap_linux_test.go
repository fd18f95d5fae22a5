package link

import (
	"bytes"
	"testing"
)

// TestTAPEcho has the guest's kernel echo 60000 bytes over TCP. They go there as
// one segment with a partial checksum, which it must take apart and believe, and
// come back as such.
func TestTAPEcho(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		l := startGuest(t, 1500)
		sent := pattern(60000)
		got, largest := echoTCP(t, l, v6, sent)
		if !bytes.Equal(got, sent) {
			t.Fatalf("v6=%v: %d bytes came back, want the %d sent", v6, len(got), len(sent))
		}
		if largest <= 1500 {
			t.Errorf("v6=%v: largest frame from the guest was %d bytes: no segmentation offload", v6, largest)
		}
		if d := l.Dropped(); d != 0 {
			t.Errorf("v6=%v: %d frames dropped", v6, d)
		}
	}
}

// echoTCP is a TCP client that trusts its network: it sends data in one segment
// and returns what comes back, and the length of the largest frame.
func echoTCP(t *testing.T, l Link, v6 bool, data []byte) (got []byte, largest int) {
	t.Helper()
	s := segment{v6: v6, srcPort: 4000, seq: 1000}
	send := func(flags byte, options, payload []byte) {
		s.flags, s.options, s.payload = flags, options, payload
		if n, err := l.WriteFrames([]Frame{s.frame(1400)}); n != 1 || err != nil {
			t.Fatalf("WriteFrames = %d, %v", n, err)
		}
		s.seq += uint32(len(payload))
	}
	const fin, syn, ack = 1, 2, 16
	send(syn, []byte{2, 4, 1400 >> 8, 1400 & 255}, nil)
	frames := room(8, 1<<16)
	for len(got) < len(data) {
		n, err := l.ReadFrames(frames)
		must(t, err)
		for _, f := range frames[:n] {
			p, err := parseFrame(f.Data, !f.Offload.NeedsChecksum)
			if err != nil || p.udp || p.srcPort != guestPort {
				continue // the guest's kernel has things of its own to say
			}
			largest = max(largest, len(f.Data))
			switch {
			case p.flags&syn != 0:
				s.ack = p.seq + 1
				s.seq++
				send(ack, nil, nil)
				send(ack, nil, data)
			case p.flags&fin != 0:
				t.Fatal("the guest closed early")
			case p.seq == s.ack && len(p.payload) > 0:
				got = append(got, p.payload...)
				s.ack += uint32(len(p.payload))
				send(ack, nil, nil)
			}
		}
	}
	return got, largest
}
