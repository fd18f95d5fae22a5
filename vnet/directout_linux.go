package vnet

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/vnet/link"
)

const (
	// firstTimeout is how long an acknowledgement may take at first. The guest's
	// own may be delayed by 40 ms, and a busy guest's by more.
	firstTimeout = 200 * time.Millisecond
	// lastTimeout bounds how far repeats are apart, and maxRepeats how many go
	// without an answer: after a minute and a half the guest is gone.
	lastTimeout = 10 * time.Second
	maxRepeats  = 14
	// chunkHead is the room for headers in front of a chunk's payload.
	chunkHead = etherLen + ipv6Len + tcpLen
	chunkSize = chunkHead + maxSegmentPayload
	// smallChunk is the largest payload that moves to memory of its own size,
	// rather than hold a whole chunk until it is acknowledged.
	smallChunk = 4 << 10
	// chunkSegments bounds the segments that one frame stands for.
	chunkSegments = 256
	// pumpTurns is how many frames one flow may send before others have a turn.
	pumpTurns = 16
	// maxChunks bounds the frames that are kept, should the guest acknowledge none
	// and the host send crumbs.
	maxChunks = 1024
)

// chunks is the memory of whole chunks, of all networks of the process.
var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// A chunk is bytes that were sent to the guest in one frame, and are kept until it
// has acknowledged them.
type chunk struct {
	seq   uint32 // of the first byte
	n     int
	whole *[chunkSize]byte // its memory, from chunks; else own
	own   []byte
}

// memory returns the chunk's memory: room for headers, and the bytes.
func (k *chunk) memory() []byte {
	if k.whole != nil {
		return k.whole[:chunkHead+k.n]
	}
	return k.own
}

// size is what the chunk takes from the budget.
func (k *chunk) size() int64 {
	if k.whole != nil {
		return chunkSize
	}
	return int64(cap(k.own))
}

// directOut is a direct flow's way from the host to the guest: what RFC 9293,
// section 3.3.1, calls the send sequence, and the bytes that the guest has not
// acknowledged.
type directOut struct {
	una, nxt uint32  // SND.UNA, SND.NXT
	window   uint32  // SND.WND
	chunks   []chunk // from una to nxt
	readable bool    // the socket may have something
	drain    bool    // a read that brings little doesn't say that there is no more
	ended    bool    // the guest was sent the end of the stream, which is before nxt

	// Loss, which takes a link whose queue is full: the window halves, and what
	// is missing is sent again, one frame for each acknowledgement that shows
	// another gap (RFC 6582).
	congestion uint32 // window
	repeats    int    // acknowledgements that said nothing new
	recover    uint32 // nxt at the loss; valid iff recovering
	recovering bool
	resend     bool // the first chunk is due again

	timeout  time.Duration
	deadline time.Time // of an acknowledgement, or a window; zero if none is waited for
	tries    int       // repeats without an answer
	starved  bool      // the budget is spent
	synSent  time.Time
	heard    time.Time // when the guest was heard of last
	probes   int       // that it has not answered since
}

func (o *directOut) begin(iss uint32) {
	o.una, o.nxt, o.congestion, o.timeout = iss+1, iss+1, directWindow, firstTimeout
}

// acked takes a segment's acknowledgement and window. sound is false if it
// acknowledges what was never sent; pump says that there may be something to send.
func (c *directFlow) acked(s *guestSegment, now time.Time) (sound, pump bool) {
	o := &c.toGuest
	if int32(s.ack-o.nxt) > 0 {
		return false, false
	}
	progress := int32(s.ack - o.una)
	if progress < 0 {
		return true, false
	}
	window := s.window << c.scale
	switch {
	case progress > 0:
		o.una = s.ack
		o.freeAcked(c)
		o.repeats, o.tries, o.timeout, o.deadline = 0, 0, firstTimeout, time.Time{}
		o.congestion = min(o.congestion+uint32(progress)/2, directWindow)
		if o.recovering {
			o.recovering = int32(o.recover-s.ack) > 0
			o.resend = o.recovering
		}
		o.expect(c, now)
	case o.una != o.nxt && len(s.data) == 0 && window == o.window && s.flags&flagFIN == 0:
		if o.repeats++; o.repeats == 3 && !o.recovering {
			o.lose()
		}
	}
	if o.una == o.nxt { // the handshake's, or an answer to a probe
		o.tries, o.deadline = 0, time.Time{}
		if window > 0 {
			o.timeout = firstTimeout
		}
	}
	if window == 0 {
		o.tries = 0 // it is there, and has no room: for as long as it likes
	}
	o.window, o.probes = window, 0
	return true, o.resend || o.readable
}

// lose deals with the loss of the first chunk.
func (o *directOut) lose() {
	o.congestion = max((o.nxt-o.una)/2, 4*minMSS)
	o.recover, o.recovering, o.resend = o.nxt, true, true
}

// expect waits for an acknowledgement if one is due.
func (o *directOut) expect(c *directFlow, now time.Time) {
	if o.una != o.nxt && o.deadline.IsZero() {
		o.deadline = now.Add(o.timeout)
		c.wakeBy(o.deadline)
	}
}

// freeAcked lets go of chunks that the guest has.
func (o *directOut) freeAcked(c *directFlow) {
	k := 0
	for k < len(o.chunks) && int32(o.una-o.chunks[k].seq) >= int32(o.chunks[k].n) {
		k++
	}
	o.free(c, k)
}

// free lets go of the first k chunks.
func (o *directOut) free(c *directFlow, k int) {
	for _, old := range o.chunks[:k] {
		c.d.n.budget.give(old.size())
		if old.whole != nil {
			chunks.Put(old.whole)
		}
	}
	if k == len(o.chunks) && cap(o.chunks) > 4 {
		o.chunks = nil
		return
	}
	o.chunks = slices.Delete(o.chunks, 0, k)
}

// room returns how many bytes the guest takes in a frame now.
func (o *directOut) room(mss int) int {
	limit, flight := min(o.window, o.congestion), o.nxt-o.una
	if flight >= limit || len(o.chunks) >= maxChunks {
		return 0
	}
	room := int(limit - flight)
	if room < mss && flight > 0 {
		return 0 // a better one is coming (RFC 9293, section 3.8.6.2.1)
	}
	if room > mss {
		room -= room % mss
	}
	return min(room, min(maxSegmentPayload/mss, chunkSegments)*mss)
}

// pump sends the guest what there is and it takes, and reports whether there is
// more.
func (c *directFlow) pump(now time.Time) (more bool) {
	o := &c.toGuest
	for range pumpTurns {
		if c.state != directOpen {
			return false
		}
		if o.resend {
			o.resend = false
			c.repeat(now)
			continue
		}
		if !o.readable || o.ended {
			return false
		}
		room := o.room(c.mss)
		if room == 0 {
			if o.una == o.nxt && o.deadline.IsZero() {
				// The window is closed: ask for it, should its opening be lost.
				o.deadline = now.Add(o.timeout)
				c.wakeBy(o.deadline)
			}
			return false
		}
		if how := c.carry(room, now); how != "" {
			c.finish(how, true, now)
			return false
		}
	}
	return true
}

// carry reads from the host what fits into one frame, and sends that.
func (c *directFlow) carry(room int, now time.Time) (how string) {
	o, b := &c.toGuest, c.d.n.budget
	taken, room := o.reserve(b, room)
	o.readable = false
	if taken == 0 { // until tick says otherwise
		if !o.starved {
			o.starved = true
			c.d.n.limitHit("BufferBytes", c.flow, now)
		}
		c.wakeBy(now.Add(starvedPause))
		return ""
	}
	whole := chunks.Get().(*[chunkSize]byte)
	n, err := c.socket.read(whole[chunkHead : chunkHead+room])
	if n <= 0 {
		chunks.Put(whole)
		b.give(taken)
	}
	switch {
	case err == unix.EAGAIN:
		o.drain = false
	case err != nil:
		return endReset
	case n == 0:
		o.ended = true
		c.flow.ended.Store(true)
		c.append(o.nxt, flagFIN|flagACK, nil)
		o.nxt++
		o.expect(c, now)
	default:
		o.readable = n == room || o.drain
		k := chunk{seq: o.nxt, n: n, whole: whole}
		if n <= smallChunk {
			k = chunk{seq: o.nxt, n: n, own: append(make([]byte, 0, chunkHead+n), whole[:chunkHead+n]...)}
			chunks.Put(whole)
			b.give(taken - k.size())
		}
		flags := uint8(flagACK)
		if n < room {
			flags |= flagPSH
		}
		o.chunks = append(o.chunks, k)
		o.nxt += uint32(n)
		c.flow.bytesIn.Add(uint64(n))
		c.write(c.frameOf(&k, 0, flags))
		o.expect(c, now)
	}
	return ""
}

// reserve takes memory for a frame of room bytes from the budget, or for fewer where
// that has little, and returns how much; 0 if it has none.
func (o *directOut) reserve(b *budget, room int) (taken int64, fits int) {
	leave := b.limit / 4
	if b.take(chunkSize, leave) {
		return chunkSize, room
	}
	if leave /= 2; len(o.chunks) == 0 {
		leave = 0 // so that no flow stands still for others
	}
	if b.take(chunkHead+smallChunk, leave) {
		return chunkHead + smallChunk, min(room, smallChunk)
	}
	return 0, 0
}

// frameOf makes the frame of a chunk, less its first skip bytes, where it lies.
func (c *directFlow) frameOf(k *chunk, skip int, flags uint8) link.Frame {
	headers := c.ipOffset() + tcpLen
	f := k.memory()[chunkHead+skip-headers:]
	o := c.putHeaders(f, k.seq+uint32(skip), flags, tcpLen, k.n-skip)
	return link.Frame{Data: f, Offload: o}
}

// repeat sends what the guest lacks first.
func (c *directFlow) repeat(now time.Time) {
	o := &c.toGuest
	switch {
	case len(o.chunks) > 0:
		c.write(c.frameOf(&o.chunks[0], int(o.una-o.chunks[0].seq), flagACK|flagPSH))
	case o.ended && o.una != o.nxt:
		c.append(o.una, flagFIN|flagACK, nil)
	}
	o.expect(c, now)
}
