package mitm

import "net"

// smallFrames is a server's connection of HTTP/2 on which it asks for no frames
// larger than it must take. net/http gets a buffer as large as a frame, up to half a
// megabyte, for each request with a body before there is any: who opened two
// thousand would have a gigabyte. Larger frames gain nothing, since TLS cuts them.
//
// It belongs to the connection's one reader.
type smallFrames struct {
	net.Conn
	head     [9]byte // of the frame at hand, RFC 9113 section 4.1
	headSeen int
	left     int // bytes of its payload to come
	at       int // of a SETTINGS frame: bytes of the payload that were seen
	id       [2]byte
}

// Of HTTP/2, RFC 9113 sections 6.5 and 6.5.2.
const (
	frameSettings      = 4
	smallestFrame      = 16 << 10 // what SETTINGS_MAX_FRAME_SIZE must at least say
	settingBytes       = 6
	settingMaxFrame    = 5
	smallestFrameBytes = "\x00\x00\x40\x00" // smallestFrame, as it is sent
)

// Read reads what the server sends, with its settings changed.
func (c *smallFrames) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for b := p[:n]; len(b) > 0; {
		if c.left == 0 {
			b = c.readHead(b)
			continue
		}
		k := min(c.left, len(b))
		if c.head[3] == frameSettings {
			c.change(b[:k])
		}
		c.left -= k
		b = b[k:]
	}
	return n, err
}

// readHead takes what belongs to a frame's head from b.
func (c *smallFrames) readHead(b []byte) []byte {
	k := copy(c.head[c.headSeen:], b)
	if c.headSeen += k; c.headSeen == len(c.head) {
		c.headSeen, c.at = 0, 0
		c.left = int(c.head[0])<<16 | int(c.head[1])<<8 | int(c.head[2])
	}
	return b[k:]
}

// change changes the next bytes of a SETTINGS frame's payload.
func (c *smallFrames) change(b []byte) {
	for i := range b {
		switch k := c.at % settingBytes; {
		case k < len(c.id):
			c.id[k] = b[i]
		case c.id == [2]byte{0, settingMaxFrame}:
			b[i] = smallestFrameBytes[k-len(c.id)]
		}
		c.at++
	}
}
