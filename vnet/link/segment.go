package link

import "encoding/binary"

// maxHeaders is more than the longest headers that can be cut, in bytes: 14 of
// Ethernet, 60 of IPv4 and 60 of TCP.
const maxHeaders = 256

// A cutter turns one frame with an Offload into the frames that a card without
// offloads would send: segments of at most SegmentSize bytes of payload, each
// with its own lengths, sequence number and checksums.
//
// It writes headers only; payload is never copied, but summed once where it
// lies. The frame's memory is not changed, since its sender may need it for a
// retransmission.
type cutter struct {
	kind   kind
	left   cursor // payload that is not yet cut
	more   int    // bytes in left
	mss    int    // payload bytes per segment
	index  int    // of the next segment
	v6     bool
	l4     int              // offset of the transport header
	head   int              // length of all headers
	field  int              // offset of the transport checksum; valid iff kind is not plain
	header [maxHeaders]byte // as the sender left them, fields below cleared; head bytes valid
	// Of what does not change between segments:
	ipSum sum // IPv4 header without total length, ID and checksum
	l4Sum sum // transport header and pseudo-header, without what set writes
	id    uint16
	seq   uint32
	flags byte
}

// kind says what is left to do to a frame.
type kind uint8

const (
	plain    kind = iota // nothing
	complete             // finish the checksum
	cutTCP
	cutUDP
)

// begin starts on f and reports whether f can be carried at all.
func (c *cutter) begin(f *Frame) bool {
	n := frameLen(f)
	c.left = cursor{f.Data, f.More}
	c.index, c.head, c.kind = 0, 0, plain
	o := &f.Offload
	switch {
	case o.GSO != GSONone:
		return c.beginSegments(o, n)
	case n < etherLen || n > MaxFrame:
		return false
	case o.NeedsChecksum:
		c.kind = complete
		c.l4 = int(o.ChecksumStart)
		c.field = c.l4 + int(o.ChecksumOffset)
		c.head = c.field + 2
		if c.head > min(n, maxHeaders) {
			return false
		}
		c.left.read(c.header[:c.head])
	}
	c.more, c.mss = n-c.head, n
	return true
}

// beginSegments starts on a frame of n bytes that is to be cut. It believes
// nothing: what the offload says must be what the headers say.
func (c *cutter) beginSegments(o *Offload, n int) bool {
	if n < etherLen+ipv4Len || o.SegmentSize == 0 || !o.NeedsChecksum {
		return false
	}
	h := &c.header
	c.left.read(h[:etherLen+ipv4Len])
	if !c.locate(o.GSO) || c.head > n ||
		int(o.ChecksumStart) != c.l4 || int(o.ChecksumStart)+int(o.ChecksumOffset) != c.field {
		return false
	}
	c.left.read(h[etherLen+ipv4Len : c.head])
	if c.kind == cutTCP {
		fixed := c.head
		c.head = c.l4 + int(h[c.l4+12]>>4)*4
		if c.head < fixed || c.head > n {
			return false
		}
		c.left.read(h[fixed:c.head]) // options
	}
	c.more, c.mss = n-c.head, int(o.SegmentSize)
	if c.head-etherLen+min(c.mss, c.more) > 1<<16-1 {
		return false // the segment would be longer than IP can say
	}
	c.prepare()
	return true
}

// locate finds the transport header from the IP header, and reports whether both
// are of the kind that gso says. head is then the end of the transport header
// without options.
func (c *cutter) locate(gso GSOType) bool {
	ip := c.header[etherLen:]
	var proto byte
	switch etherType := binary.BigEndian.Uint16(c.header[12:]); {
	case etherType == etherIPv4 && ip[0]>>4 == 4 && ip[0]&15 >= 5 && gso != GSOTCPv6:
		c.v6, proto, c.l4 = false, ip[9], etherLen+int(ip[0]&15)*4
	case etherType == etherIPv6 && ip[0]>>4 == 6 && gso != GSOTCPv4:
		// Extension headers are not walked: our stack sends none before TCP or
		// UDP, and without them the transport header has one place.
		c.v6, proto, c.l4 = true, ip[6], etherLen+ipv6Len
	default:
		return false
	}
	switch {
	case proto == protoTCP && (gso == GSOTCPv4 || gso == GSOTCPv6):
		c.kind, c.field, c.head = cutTCP, c.l4+tcpChecksum, c.l4+tcpLen
	case proto == protoUDP && gso == GSOUDP:
		c.kind, c.field, c.head = cutUDP, c.l4+udpChecksum, c.l4+udpLen
	default:
		return false
	}
	return true
}

// prepare takes the fields that differ between segments out of the headers and
// sums the rest.
func (c *cutter) prepare() {
	h := c.header[:c.head]
	ip, l4 := h[etherLen:c.l4], h[c.l4:]
	if c.v6 {
		c.l4Sum = sum(0).add(ip[8:40]).add16(uint16(ip[6])) // RFC 8200, section 8.1
	} else {
		c.l4Sum = sum(0).add(ip[12:20]).add16(uint16(ip[9])) // RFC 9293, section 3.1
		c.id = binary.BigEndian.Uint16(ip[4:])
		clear(ip[2:6])
		clear(ip[10:12])
		c.ipSum = sum(0).add(ip)
	}
	if c.kind == cutUDP {
		clear(l4[4:8])
	} else {
		c.seq = binary.BigEndian.Uint32(l4[4:])
		c.flags = l4[13]
		clear(l4[4:8])
		l4[13] = 0
		clear(l4[tcpChecksum : tcpChecksum+2])
	}
	c.l4Sum = c.l4Sum.add(l4)
}

// done reports whether nothing is left of the frame.
func (c *cutter) done() bool { return c.index > 0 && c.more == 0 }

// nextLen returns the length of what next cuts.
func (c *cutter) nextLen() int { return c.head + min(c.more, c.mss) }

// next cuts the next segment: it puts its headers, c.head bytes, into dst and
// appends its payload to pieces. It must not be called when done.
func (c *cutter) next(dst []byte, pieces [][]byte) [][]byte {
	n := min(c.more, c.mss)
	copy(dst, c.header[:c.head])
	var payload pieceSum
	for left := n; left > 0; {
		b := c.left.next(left)
		left -= len(b)
		if c.kind != plain {
			payload.add(b)
		}
		pieces = append(pieces, b)
	}
	c.more -= n
	switch c.kind {
	case complete:
		c.finish(dst, payload)
	case cutTCP, cutUDP:
		c.set(dst, payload.sum, n)
	}
	c.index++
	return pieces
}

// finish completes the one checksum of a frame that stays whole. The field holds
// the pseudo-header's sum and is part of what is summed.
func (c *cutter) finish(dst []byte, payload pieceSum) {
	var s pieceSum
	s.add(dst[c.l4:c.head])
	s.join(payload)
	binary.BigEndian.PutUint16(dst[c.field:], s.sum.checksum())
}

// set writes the fields of the segment that differ from the frame's: n is its
// payload's length, payload its sum.
func (c *cutter) set(dst []byte, payload sum, n int) {
	ip, l4 := dst[etherLen:c.l4], dst[c.l4:c.head]
	l4Len := uint16(len(l4) + n)
	if c.v6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip))-ipv6Len+l4Len)
	} else {
		total, id := uint16(len(ip))+l4Len, c.id+uint16(c.index)
		binary.BigEndian.PutUint16(ip[2:], total)
		binary.BigEndian.PutUint16(ip[4:], id)
		binary.BigEndian.PutUint16(ip[10:], ^c.ipSum.add16(total).add16(id).fold())
	}
	s := c.l4Sum.plus(payload).add16(l4Len)
	if c.kind == cutUDP {
		binary.BigEndian.PutUint16(l4[4:], l4Len)
		s = s.add16(l4Len)
	} else {
		seq := c.seq + uint32(c.index)*uint32(c.mss)
		flags := c.flags
		if c.more > 0 {
			flags &^= tcpFIN | tcpPSH // they belong to the last byte
		}
		if c.index > 0 {
			flags &^= tcpCWR // said once: RFC 3168, section 6.1.2
		}
		binary.BigEndian.PutUint32(l4[4:], seq)
		l4[13] = flags
		s = s.add32(seq).add16(uint16(flags))
	}
	binary.BigEndian.PutUint16(dst[c.field:], s.checksum())
}

// A cursor walks over the bytes of a frame.
type cursor struct {
	data []byte
	more [][]byte
}

// next returns the next bytes that lie together, at most n, and moves past them.
// It returns nothing only when nothing is left.
func (c *cursor) next(n int) []byte {
	for len(c.data) == 0 && len(c.more) > 0 {
		c.data, c.more = c.more[0], c.more[1:]
	}
	n = min(n, len(c.data))
	b := c.data[:n]
	c.data = c.data[n:]
	return b
}

// pieces returns a bound of how many calls of next return something.
func (c *cursor) pieces() int { return 1 + len(c.more) }

// read copies the next len(dst) bytes, which must be there, to dst.
func (c *cursor) read(dst []byte) {
	for len(dst) > 0 {
		n := copy(dst, c.next(len(dst)))
		dst = dst[n:]
	}
}
