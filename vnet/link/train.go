package link

import "encoding/binary"

const (
	// lengthLen is the length of the length before each frame of a stream.
	lengthLen = 4
	// maxPieces is how many pieces one system call takes: IOV_MAX is 1024 on
	// Linux and macOS.
	maxPieces = 1024
	// trainScratch holds what a train writes itself, lengths and headers. At
	// MTU 1500 a segment needs two or three pieces and 58 to 78 bytes, so this
	// is full at about the same time as the pieces are.
	trainScratch = 32 << 10
	// maxMore is how many pieces a frame may have before they are copied
	// together, so that a wire frame always fits in a train. 64 KiB in pieces of
	// a page each are 16.
	maxMore = 128
)

// A train is a run of records: frames as a card without offloads sends them,
// each behind its length. It is made of pieces; lengths and headers are its own,
// the rest lies where the sender left it. A train is filled from the frames of
// one call as often as needed, and written from the front.
//
// The zero train is empty. Its owner is told where one is declared.
type train struct {
	frames []Frame // not yet cut; the first one is in part if open
	open   bool
	cut    cutter // of frames[0]; valid iff open

	pieces [][]byte // of all records
	ends   []int    // for each record, the index in pieces behind its last piece
	own    []byte   // lengths and headers; not reallocated while pieces refer to it
	pos    int      // index of the first piece that is not wholly written
	record int      // index of the first record that is not wholly written
	begun  bool     // a part of that record is written
}

// load gives an empty train frames to carry.
func (t *train) load(frames []Frame) {
	if t.own == nil {
		t.pieces = make([][]byte, 0, maxPieces)
		t.ends = make([]int, 0, maxPieces)
		t.own = make([]byte, 0, trainScratch)
	}
	t.frames, t.open = frames, false
}

// fill replaces the records, all written, by those of the next frames, as many
// as fit. It reports whether there are any. Frames that can't be carried are
// counted in d.
func (t *train) fill(d *drops) bool {
	t.reset()
	for len(t.frames) > 0 {
		if !t.open {
			if t.open = t.begin(&t.frames[0]); !t.open {
				d.unfit.Add(1)
				t.frames = t.frames[1:]
				continue
			}
		}
		if !t.couple() {
			break
		}
		if t.cut.done() {
			t.frames, t.open = t.frames[1:], false
		}
	}
	if len(t.ends) > 0 {
		return true
	}
	t.frames, t.cut.left = nil, cursor{}
	return false
}

// loadRecords fills an empty train with the records that b begins with, as many
// as fit.
func (t *train) loadRecords(b []byte) {
	t.load(nil)
	for len(b) > 0 && len(t.ends) < maxPieces {
		n := lengthLen + int(binary.BigEndian.Uint32(b))
		t.pieces = append(t.pieces, b[:n])
		t.ends = append(t.ends, len(t.pieces))
		b = b[n:]
	}
}

// reset forgets the records, and the senders' memory with them.
func (t *train) reset() {
	clear(t.pieces)
	t.pieces, t.ends, t.own = t.pieces[:0], t.ends[:0], t.own[:0]
	t.pos, t.record, t.begun = 0, 0, false
}

// begin starts on frame f and reports whether it can be carried.
func (t *train) begin(f *Frame) bool {
	if len(f.More) > maxMore {
		g := Frame{Offload: f.Offload, Data: make([]byte, 0, frameLen(f))}
		g.Data = append(g.Data, f.Data...)
		for _, b := range f.More {
			g.Data = append(g.Data, b...)
		}
		f = &g
	}
	return t.cut.begin(f)
}

// couple appends the next record of the open frame, and reports whether it fits.
func (t *train) couple() bool {
	n := lengthLen + t.cut.head
	if len(t.own)+n > cap(t.own) || len(t.pieces)+2+t.cut.left.pieces() > maxPieces {
		return false
	}
	own := t.own[len(t.own):][:n]
	t.own = t.own[:len(t.own)+n]
	binary.BigEndian.PutUint32(own, uint32(t.cut.nextLen()))
	t.pieces = append(t.pieces, own)
	t.pieces = t.cut.next(own[lengthLen:], t.pieces)
	t.ends = append(t.ends, len(t.pieces))
	return true
}

// rest returns the pieces that are not written.
func (t *train) rest() [][]byte { return t.pieces[t.pos:] }

// written reports whether all records are written.
func (t *train) written() bool { return t.record == len(t.ends) }

// start returns the index in pieces of record i's first piece.
func (t *train) start(i int) int {
	if i == 0 {
		return 0
	}
	return t.ends[i-1]
}

// skip says that the next n records are written, or given up.
func (t *train) skip(n int) {
	t.record += n
	t.pos = t.start(t.record)
}

// bytesWritten returns the length of the records that are written, in bytes.
func (t *train) bytesWritten() int {
	n := 0
	for _, b := range t.pieces[:t.pos] {
		n += len(b)
	}
	return n
}

// advance says that the next n bytes are written. The pieces that they end in
// are shortened.
func (t *train) advance(n int) {
	for n > 0 && n >= len(t.pieces[t.pos]) {
		n -= len(t.pieces[t.pos])
		t.pos++
		t.begun = true
		if t.pos == t.ends[t.record] {
			t.record++
			t.begun = false
		}
	}
	if n > 0 {
		t.pieces[t.pos] = t.pieces[t.pos][n:]
		t.begun = true
	}
}

// spill copies all that is not written, frames that are not yet cut included, to
// the end of dst. Records that would make dst longer than limit are dropped and
// counted in d, but never the rest of one that has begun: what follows on a
// stream would be taken for it. The train is empty afterwards.
func (t *train) spill(dst []byte, limit int, d *drops) []byte {
	for {
		for ; t.record < len(t.ends); t.record++ {
			pieces := t.pieces[t.pos:t.ends[t.record]]
			n := 0
			for _, b := range pieces {
				n += len(b)
			}
			if t.begun || len(dst)+n <= limit {
				for _, b := range pieces {
					dst = append(dst, b...)
				}
			} else {
				d.noRoom.Add(1)
			}
			t.pos, t.begun = t.ends[t.record], false
		}
		if !t.fill(d) {
			return dst
		}
	}
}
