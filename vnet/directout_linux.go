package vnet

import (
	"slices"
	"sync"
	"sync/atomic"
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
// acknowledged. Its fields are guarded by directFlow.mu unless they say otherwise.
type directOut struct {
	seq atomic.Uint32 // nxt, for acknowledgements

	una, nxt uint32  // SND.UNA, SND.NXT
	window   uint32  // SND.WND
	chunks   []chunk // from una to nxt
	readable bool    // the socket may have something
	drain    bool    // a read that brings little doesn't say that there is no more
	ended    bool    // the guest was sent the end of the stream, which is before nxt

	// One goroutine at a time reads the socket and sends frames with bytes. It
	// alone frees chunks, which a frame under way refers to.
	pumping bool
	acked   []chunk       // to be freed
	frame   [1]link.Frame // owned by who pumps
	control batch         // likewise, of frames without bytes

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
	o.seq.Store(o.nxt)
}

// ackedLocked takes a segment's acknowledgement and window. sound is false if it
// acknowledges what was never sent; pump says that there may be something to send.
func (c *directFlow) ackedLocked(s *guestSegment, now time.Time) (sound, pump bool) {
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
		o.freeLocked(c)
		o.repeats, o.tries, o.timeout, o.deadline = 0, 0, firstTimeout, time.Time{}
		o.congestion = min(o.congestion+uint32(progress)/2, directWindow)
		if o.recovering {
			o.recovering = int32(o.recover-s.ack) > 0
			o.resend = o.recovering
		}
		o.expectLocked(c, now)
	case o.una != o.nxt && len(s.data) == 0 && window == o.window && s.flags&flagFIN == 0:
		if o.repeats++; o.repeats == 3 && !o.recovering {
			o.loseLocked()
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

// loseLocked deals with the loss of the first chunk.
func (o *directOut) loseLocked() {
	o.congestion = max((o.nxt-o.una)/2, 4*minMSS)
	o.recover, o.recovering, o.resend = o.nxt, true, true
}

// expectLocked waits for an acknowledgement if one is due.
func (o *directOut) expectLocked(c *directFlow, now time.Time) {
	if o.una != o.nxt && o.deadline.IsZero() {
		o.deadline = now.Add(o.timeout)
		c.timer.set(c, o.deadline)
	}
}

// freeLocked lets go of chunks that the guest has.
func (o *directOut) freeLocked(c *directFlow) {
	k := 0
	for k < len(o.chunks) && int32(o.una-o.chunks[k].seq) >= int32(o.chunks[k].n) {
		k++
	}
	if o.pumping {
		o.acked = append(o.acked, o.chunks[:k]...)
	} else {
		freeChunks(c, o.chunks[:k])
	}
	if k == len(o.chunks) && cap(o.chunks) > 4 {
		o.chunks = nil
		return
	}
	o.chunks = slices.Delete(o.chunks, 0, k)
}

func freeChunks(c *directFlow, all []chunk) {
	for i := range all {
		c.d.n.budget.give(all[i].size())
		if all[i].whole != nil {
			chunks.Put(all[i].whole)
		}
		all[i] = chunk{}
	}
}

// dropLocked ends the direction.
func (o *directOut) dropLocked(c *directFlow) {
	if o.pumping {
		o.acked = append(o.acked, o.chunks...)
	} else {
		freeChunks(c, o.chunks)
	}
	o.chunks = nil
}

// roomLocked returns how many bytes the guest takes in a frame now.
func (o *directOut) roomLocked(mss int) int {
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
	c.mu.Lock()
	if o.pumping {
		c.mu.Unlock()
		return false // who pumps looks again before it stops
	}
	o.pumping = true
	how, turns := "", 0
	for ; how == "" && c.state == directOpen && turns < pumpTurns; turns++ {
		if o.resend {
			o.resend = false
			c.repeatLocked(now)
		} else if room := o.roomLocked(c.mss); o.readable && !o.ended && room > 0 {
			how = c.carryLocked(room, now)
		} else {
			break
		}
		if len(o.frame[0].Data)+len(o.control.frames) == 0 {
			continue
		}
		c.mu.Unlock()
		c.writePumped()
		c.mu.Lock()
		freeChunks(c, o.acked)
		o.acked = o.acked[:0]
	}
	o.pumping = false
	freeChunks(c, o.acked)
	o.acked = nil
	switch {
	case c.state == directOver:
		c.releaseLocked()
	case o.readable && !o.ended && o.una == o.nxt && o.deadline.IsZero() && turns < pumpTurns:
		// The window is closed: ask for it, should its opening be lost.
		o.deadline = now.Add(o.timeout)
		c.timer.set(c, o.deadline)
	}
	c.mu.Unlock()
	if how != "" {
		var out batch
		c.finish(&out, how, true, now)
		c.d.send(&out)
		return false
	}
	return turns == pumpTurns
}

// writePumped writes the frame of who pumps, or its control frames.
func (c *directFlow) writePumped() {
	o, n := &c.toGuest, c.d.n
	if len(o.control.frames) > 0 {
		c.d.send(&o.control)
	}
	if len(o.frame[0].Data) == 0 {
		return
	}
	_ = n.write(o.frame[:])
	o.frame[0] = link.Frame{}
}

// carryLocked reads from the host what fits into one frame, and makes that. It
// lets go of the lock meanwhile.
func (c *directFlow) carryLocked(room int, now time.Time) (how string) {
	o, b := &c.toGuest, c.d.n.budget
	taken, leave := int64(chunkSize), b.limit/4
	if !b.take(taken, leave) {
		taken, room = chunkHead+smallChunk, min(room, smallChunk)
		if leave /= 2; len(o.chunks) == 0 {
			leave = 0 // so that no flow stands still for others
		}
	}
	if taken < chunkSize && !b.take(taken, leave) {
		if !o.starved {
			o.starved = true
			c.d.n.limitHit("BufferBytes", c.flow, now)
		}
		o.readable = false // until tick says otherwise
		c.timer.set(c, now.Add(starvedPause))
		return ""
	}
	o.readable = false
	c.mu.Unlock()
	whole := chunks.Get().(*[chunkSize]byte)
	n, err := c.socket.read(whole[chunkHead : chunkHead+room])
	c.mu.Lock()
	if n <= 0 || c.state == directOver {
		chunks.Put(whole)
		b.give(taken)
	}
	switch {
	case c.state == directOver:
	case err == unix.EAGAIN:
		o.drain = false
	case err != nil:
		return endReset
	case n == 0:
		o.ended = true
		c.flow.ended.Store(true)
		c.append(&o.control, o.nxt, flagFIN|flagACK, nil)
		o.nxt++
		o.seq.Store(o.nxt)
		o.expectLocked(c, now)
	default:
		o.readable = o.readable || n == room || o.drain
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
		o.seq.Store(o.nxt)
		c.flow.bytesIn.Add(uint64(n))
		c.frameLocked(&k, 0, flags)
		o.expectLocked(c, now)
	}
	return ""
}

// frameLocked makes the frame of a chunk, less its first skip bytes, where it lies.
func (c *directFlow) frameLocked(k *chunk, skip int, flags uint8) {
	headers := c.ipOffset() + tcpLen
	f := k.memory()[chunkHead+skip-headers:]
	o := c.putHeaders(f, k.seq+uint32(skip), flags, tcpLen, k.n-skip)
	c.toGuest.frame[0] = link.Frame{Data: f, Offload: o}
}

// repeatLocked makes the frame that the guest lacks first.
func (c *directFlow) repeatLocked(now time.Time) {
	o := &c.toGuest
	switch {
	case len(o.chunks) > 0:
		c.frameLocked(&o.chunks[0], int(o.una-o.chunks[0].seq), flagACK|flagPSH)
	case o.ended && o.una != o.nxt:
		c.append(&o.control, o.una, flagFIN|flagACK, nil)
	}
	o.expectLocked(c, now)
}
