package link

import (
	"bytes"
	"encoding/binary"
	"unsafe"
)

// openRuns is how many flows of a batch may grow at once. A guest sends each
// flow's window in bursts, so few are mixed in what one read finds.
const openRuns = 8

// A coalescer puts the TCP segments of a batch together again, so that the stack
// sees the 64 KiB frames that a card with segmentation offload would bring. Per
// byte a stack costs ten times less that way.
//
// It merges only segments that a card could have cut from one frame: the same
// headers, sequence numbers without a gap, equal lengths but for the last one, no
// flag but ACK, and PSH on the last. Their checksums are verified before; the
// merged frame says that its own is partial. Whatever else comes is left as it
// is, and the order within a flow is kept. It waits for nothing: a batch is what
// one read brought.
//
// It belongs to its link's reader.
type coalescer struct {
	off    bool    // keep segments as they are
	frames []Frame // of the current batch
	n      int     // frames that are taken
	runs   [openRuns]run
	open   int // runs[:open] may grow
}

// A run is a frame that grows.
type run struct {
	frame    *Frame
	tcp      tcpSegment // of the first segment
	next     uint32     // sequence number of what may follow
	segments int
}

// A tcpSegment says where things are in a TCP segment's frame.
type tcpSegment struct {
	v6      bool
	l4      int // offset of the TCP header
	head    int // offset of the payload
	payload int // bytes
	seq     uint32
	flags   byte
}

// parseTCP describes b if it is a whole TCP segment without IP options,
// extension headers, fragmentation or padding.
func parseTCP(b []byte) (s tcpSegment, ok bool) {
	if len(b) < etherLen+ipv4Len+tcpLen {
		return s, false
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case etherIPv4:
		const fragment = 0x3fff // more fragments, and the offset
		if b[14] != 0x45 || b[23] != protoTCP || binary.BigEndian.Uint16(b[20:])&fragment != 0 ||
			int(binary.BigEndian.Uint16(b[16:])) != len(b)-etherLen {
			return s, false
		}
		s.l4 = etherLen + ipv4Len
	case etherIPv6:
		if len(b) < etherLen+ipv6Len+tcpLen || b[14]>>4 != 6 || b[20] != protoTCP ||
			int(binary.BigEndian.Uint16(b[18:])) != len(b)-etherLen-ipv6Len {
			return s, false
		}
		s.v6, s.l4 = true, etherLen+ipv6Len
	default:
		return s, false
	}
	s.head = s.l4 + int(b[s.l4+12]>>4)*4
	s.payload = len(b) - s.head
	if s.head < s.l4+tcpLen || s.payload < 0 {
		return s, false
	}
	s.seq = binary.BigEndian.Uint32(b[s.l4+4:])
	s.flags = b[s.l4+13]
	return s, true
}

// begin starts a batch.
func (c *coalescer) begin(frames []Frame) {
	c.frames, c.n, c.open = frames, 0, 0
}

// full reports whether every frame of the batch is taken. Segments may still be
// added to them.
func (c *coalescer) full() bool { return c.n == len(c.frames) }

// add copies b, a frame from the guest, into the batch: into a frame that it
// continues, or into the next one. b may lie in the memory of that one, or a
// later one. It reports false if there is none left.
func (c *coalescer) add(b []byte) bool {
	s, tcp := tcpSegment{}, false
	if !c.off {
		s, tcp = parseTCP(b)
	}
	if tcp && c.join(b, s) {
		return true
	}
	if c.full() {
		return false
	}
	f := &c.frames[c.n]
	c.n++
	f.Offload = Offload{}
	if unsafe.SliceData(f.Data) == unsafe.SliceData(b) {
		f.Data = b // it is there already
	} else {
		f.Data = append(f.Data[:0], b...)
	}
	if tcp && s.flags == tcpACK && s.payload > 0 {
		if c.open == openRuns {
			c.close(0)
		}
		c.runs[c.open] = run{frame: f, tcp: s, next: s.seq + uint32(s.payload), segments: 1}
		c.open++
	}
	return true
}

// join appends the payload of b to the frame that it continues, if there is one.
// If b is of a growing flow but does not fit, that flow's frame grows no more:
// what comes later must not get before b.
func (c *coalescer) join(b []byte, s tcpSegment) bool {
	for i := range c.open {
		r := &c.runs[i]
		if !r.sameFlow(b, s) {
			continue
		}
		fits := r.continues(b, s) && (r.segments > 1 || sumsUp(r.frame.Data, r.tcp)) && sumsUp(b, s)
		if fits {
			r.frame.Data = append(r.frame.Data, b[s.head:]...)
			r.frame.Data[r.tcp.l4+13] |= s.flags
			r.next += uint32(s.payload)
			r.segments++
		}
		if !fits || s.flags != tcpACK || s.payload < r.tcp.payload {
			c.close(i)
		}
		return fits
	}
	return false
}

// sameFlow reports whether b is between the same addresses and ports as r.
func (r *run) sameFlow(b []byte, s tcpSegment) bool {
	addrs := s.l4 - 8 // IPv4
	if s.v6 {
		addrs = s.l4 - 32
	}
	return s.v6 == r.tcp.v6 && bytes.Equal(b[addrs:s.l4+4], r.frame.Data[addrs:s.l4+4])
}

// continues reports whether b could be cut from the same frame as r, as the piece
// behind it.
func (r *run) continues(b []byte, s tcpSegment) bool {
	a := r.frame.Data
	if s.seq != r.next || s.payload == 0 || s.payload > r.tcp.payload || s.head != r.tcp.head ||
		s.flags&^tcpPSH != tcpACK {
		return false
	}
	if len(a)+s.payload > min(cap(a), etherLen+1<<16-1) {
		return false
	}
	if s.v6 {
		// All but the payload length.
		if !bytes.Equal(a[:18], b[:18]) || !bytes.Equal(a[20:22], b[20:22]) {
			return false
		}
	} else if !bytes.Equal(a[:16], b[:16]) || !bytes.Equal(a[20:24], b[20:24]) {
		return false // all but the total length, ID and checksum
	}
	// All but the ports, which are equal, and sequence number, flags and checksum.
	t, u := a[s.l4:s.head], b[s.l4:s.head]
	return bytes.Equal(t[8:13], u[8:13]) && bytes.Equal(t[14:16], u[14:16]) && bytes.Equal(t[18:], u[18:])
}

// sumsUp reports whether the checksums of b, which s describes, are right.
func sumsUp(b []byte, s tcpSegment) bool {
	if !s.v6 && sum(0).add(b[etherLen:s.l4]).fold() != 0xffff {
		return false
	}
	return pseudoSum(b, s, len(b)-s.l4).add(b[s.l4:]).fold() == 0xffff
}

// pseudoSum returns the sum of the pseudo-header of a segment of n bytes between
// the addresses of b, which s describes.
func pseudoSum(b []byte, s tcpSegment, n int) sum {
	addrs := b[26:34]
	if s.v6 {
		addrs = b[22:54]
	}
	return sum(0).add(addrs).add16(protoTCP).add16(uint16(n))
}

// close makes run i a finished frame.
func (c *coalescer) close(i int) {
	r := c.runs[i]
	c.open--
	copy(c.runs[i:c.open], c.runs[i+1:])
	c.runs[c.open] = run{}
	if r.segments == 1 {
		return // it is as it came
	}
	b, s := r.frame.Data, r.tcp
	r.frame.Offload = Offload{
		NeedsChecksum:  true,
		ChecksumStart:  uint16(s.l4),
		ChecksumOffset: tcpChecksum,
		GSO:            GSOTCPv4,
		SegmentSize:    uint16(s.payload),
	}
	if s.v6 {
		r.frame.Offload.GSO = GSOTCPv6
		binary.BigEndian.PutUint16(b[18:], uint16(len(b)-s.l4))
	} else {
		binary.BigEndian.PutUint16(b[16:], uint16(len(b)-etherLen))
		clear(b[24:26])
		binary.BigEndian.PutUint16(b[24:], ^sum(0).add(b[etherLen:s.l4]).fold())
	}
	binary.BigEndian.PutUint16(b[s.l4+tcpChecksum:], pseudoSum(b, s, len(b)-s.l4).fold())
}

// end ends the batch and returns how many frames it has.
func (c *coalescer) end() int {
	for c.open > 0 {
		c.close(c.open - 1)
	}
	c.frames = nil // the caller's
	return c.n
}
