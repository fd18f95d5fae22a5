package link

import (
	"encoding/binary"
	"fmt"
)

// readBuffer is how much of a stream is read at once, in bytes. From 64 to 512
// KiB the speed of the link itself is the same; with several 64 KiB at once the
// guest's segments can be merged to several whole frames.
const readBuffer = 256 << 10

// A deframer cuts a byte stream into frames. It knows nothing of files: what is
// read goes to space and is announced by wrote. The zero deframer is ready.
type deframer struct {
	buf  []byte
	r, w int // buf[r:w] holds what is not yet taken
}

// peek returns the next frame, which is valid until space is called, and the same
// again until take is. It returns false if more bytes are needed, and an error
// matching ErrMalformed if the stream is beyond repair.
func (d *deframer) peek() (frame []byte, ok bool, err error) {
	b := d.buf[d.r:d.w]
	if len(b) < lengthLen {
		return nil, false, nil
	}
	n := binary.BigEndian.Uint32(b)
	if n > MaxFrame {
		return nil, false, fmt.Errorf("%w: length %d, at most %d", ErrMalformed, n, MaxFrame)
	}
	end := lengthLen + int(n)
	if len(b) < end {
		return nil, false, nil
	}
	return b[lengthLen:end], true, nil
}

// take moves past frame, which peek returned.
func (d *deframer) take(frame []byte) { d.r += lengthLen + len(frame) }

// partial reports whether the stream is in the middle of a frame.
func (d *deframer) partial() bool { return d.r < d.w }

// space returns where the next bytes are to be put: never empty, and enough for
// the rest of any frame.
func (d *deframer) space() []byte {
	if d.buf == nil {
		d.buf = make([]byte, readBuffer)
	}
	if d.r > 0 {
		// What is left is a part of one frame: there is little to move.
		d.w = copy(d.buf, d.buf[d.r:d.w])
		d.r = 0
	}
	return d.buf[d.w:]
}

// wrote says that n bytes were put to the beginning of space.
func (d *deframer) wrote(n int) { d.w += n }
