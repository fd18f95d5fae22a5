package vnet

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// maxBuffer is the largest queue of one direction of a flow, in bytes of
	// memory. The window that is told is half of what is free, and one batch of
	// 64 KiB segments must fit several times over; above 4 MiB nothing is gained
	// on a link without distance.
	maxBuffer = 4 << 20
	// firstBuffer is what a flow begins with: a window of 16 KiB holds the first
	// burst of any sender (ten segments, RFC 6928).
	firstBuffer = 32 << 10
	// tightBuffer is what it begins with when the budget runs low, and what an idle
	// one is left with then: as many flows as there may be by default fit into half
	// of 64 MiB.
	tightBuffer = 4 << 10
	// slowBuffer is a queue that slows its flow down: that one can't grow beyond is
	// a limit that was hit.
	slowBuffer = 128 << 10
	// heldBuffer is what a first flight of 64 KiB needs that isn't there at once.
	// In segments of a few bytes it needs more: heldSegment is no less than what
	// each counts beside its bytes.
	heldBuffer  = 512 << 10
	heldSegment = 1 << 10
	// growth is how many times larger a queue gets that turned out too small.
	growth = 4
	// reclaimPause is the time between two looks for memory that isn't needed, and
	// shrunkPause that between two at flows whose queues were made small.
	reclaimPause = 100 * time.Millisecond
	shrunkPause  = time.Second
)

// A budget is the memory that all flows of a guest may hold in their queues. A
// queue's size is taken from it, used or not: what a window has promised, the
// guest may send. Its methods may be called concurrently.
//
//	all of it ── first sizes and growth leave a half ── tight sizes leave nothing
//
// So flows that hold much can't keep others from beginning, only from growing.
// Where nothing is left a SYN is dropped, which the guest repeats.
type budget struct {
	limit int64
	slow  func() // told of each queue that should be larger and can't be

	mu   sync.Mutex // guards the following field
	free int64

	short chan struct{} // holds one element when somebody wanted more than there was
}

func newBudget(limit int, slow func()) *budget {
	return &budget{limit: int64(limit), slow: slow, free: int64(limit), short: make(chan struct{}, 1)}
}

// take takes n bytes if that leaves so much, and reports whether it did.
func (b *budget) take(n, leave int64) bool {
	b.mu.Lock()
	ok := b.free-n >= leave
	if ok {
		b.free -= n
	}
	b.mu.Unlock()
	if !ok {
		select {
		case b.short <- struct{}{}:
		default: // it is known
		}
	}
	return ok
}

// grow takes what makes a queue of a size larger, and reports whether there is
// that much.
func (b *budget) grow(size, more int64) bool {
	ok := b.take(more, b.limit/2)
	if !ok && size < slowBuffer {
		b.slow()
	}
	return ok
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	b.free += n
	b.mu.Unlock()
}

func (b *budget) used() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int(b.limit - b.free)
}

// buffers are the sizes of one flow's two queues. Their methods may be called
// concurrently; the zero buffers are those of a flow that has none.
type buffers struct {
	mu     sync.Mutex // guards the following fields
	budget *budget    // nil when the flow is over
	ep     tcpip.Endpoint

	in  int64 // of the queue to the guest: size, and taken from the budget
	out int64 // of the queue from the guest: taken from the budget
	// size is the size of that queue: less than out once it was shrunk, since the
	// window that was told before can't be taken back. Behind mark, in bytes of
	// the flow, it is used up.
	size  int64
	mark  uint64
	drops uint64 // segments that it had no room for, when it was shrunk
	gap   bool   // one is missing, so that it must not be shrunk
	seen  uint64 // how many bytes the flow had moved when it was looked at last

	writing sync.Mutex // held while the relay writes to the queue to the guest, and while that is made smaller
}

// reserve takes a flow's first sizes from the budget, and reports false if there
// is not even little left.
func (q *buffers) reserve(b *budget) bool {
	size := int64(firstBuffer)
	if !b.take(2*size, b.limit/2) {
		if size = tightBuffer; !b.take(2*size, 0) {
			return false
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.budget, q.in, q.out, q.size = b, size, size, size
	return true
}

// tight reports whether the flow began when the budget ran low.
func (q *buffers) tight() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.size < firstBuffer
}

// begin gives ep, which is not connected yet, the sizes. Not notified, it offers a
// window scale for the largest queue.
func (q *buffers) begin(ep tcpip.Endpoint) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ep.SocketOptions().SetReceiveBufferSize(q.size, false)
	ep.SocketOptions().SetSendBufferSize(q.in, false)
}

// attach gives ep, which is connected, the sizes, and may change them from here on.
func (q *buffers) attach(ep tcpip.Endpoint) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ep = ep
	// Notified, gVisor doesn't make queues larger of its own accord.
	ep.SocketOptions().SetReceiveBufferSize(q.size, true)
	ep.SocketOptions().SetSendBufferSize(q.in, true)
}

// release gives all back, when the flow's queues are empty or gone.
func (q *buffers) release() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.budget != nil {
		q.budget.give(q.in + q.out)
		q.budget, q.ep = nil, nil
	}
}

// write writes to the queue to the guest, which is ep's. gVisor lets go of its locks
// while it copies, and throws away what a queue that has got smaller since has no
// room for: bytes that nobody else has any more.
func (q *buffers) write(ep tcpip.Endpoint, p tcpip.Payloader) (int64, tcpip.Error) {
	q.writing.Lock()
	defer q.writing.Unlock()
	return ep.Write(p, tcpip.WriteOptions{})
}

// growIn makes the queue to the guest larger, if the budget allows, and reports
// whether it is. It was found full.
func (q *buffers) growIn() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	more := min(q.in*growth, maxBuffer) - q.in
	if q.budget == nil || q.ep == nil || more <= 0 || !q.budget.grow(q.in, more) {
		return false
	}
	q.in += more
	q.ep.SocketOptions().SetSendBufferSize(q.in, true)
	return true
}

// expectIn makes the queue to the guest larger, if the budget allows, before n
// bytes that wouldn't fit are written to it.
func (q *buffers) expectIn(n int) {
	q.mu.Lock()
	small := int64(n) >= q.in/2
	q.mu.Unlock()
	if small {
		q.growIn()
	}
}

// sawOut makes the queue from the guest larger, if the budget allows. waiting is
// how many bytes were found in it: half a window, and the window is in the way.
func (q *buffers) sawOut(waiting int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.budget == nil || q.ep == nil || int64(waiting) < q.size/4 || q.size >= maxBuffer {
		return
	}
	size := min(q.size*growth, maxBuffer)
	if more := size - q.out; more > 0 {
		if !q.budget.grow(q.size, more) {
			return
		}
		q.out += more
	}
	q.size = size
	q.ep.SocketOptions().SetReceiveBufferSize(size, true)
}

// hold makes the queue from the guest large enough for a first flight that is held
// there, and of which there are so many bytes in so many segments by now. It may
// use what growth has to leave: a flight that doesn't fit would be denied.
func (q *buffers) hold(bytes, segments int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	size, leave := int64(heldBuffer), int64(0)
	if 2*int64(bytes+segments*heldSegment) > q.size && q.size >= heldBuffer {
		size = min(q.size*growth, maxBuffer)
	}
	if q.budget == nil || q.ep == nil || q.size >= size {
		return
	}
	if size > heldBuffer {
		leave = q.budget.limit / 8
	}
	if more := size - q.out; more > 0 {
		if !q.budget.take(more, leave) {
			return
		}
		q.out += more
	}
	q.size = size
	q.ep.SocketOptions().SetReceiveBufferSize(size, true)
}

// shrink gives back what the queues don't need at this moment: what they have
// grown by, and nearly all if the flow is idle. It reports whether the flow wants
// looking after. out and in are how many bytes the flow has moved.
func (q *buffers) shrink(out, in uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.budget == nil || q.ep == nil {
		return false
	}
	idle, small := out+in == q.seen, int64(tightBuffer)
	if q.seen = out + in; !idle {
		q.gap, small = false, firstBuffer
	}
	q.shrinkInLocked(small)
	q.shrinkOutLocked(out, idle)
	return q.size < q.out
}

// shrinkInLocked makes the queue to the guest as small as size, if it holds less
// and nobody is writing to it.
func (q *buffers) shrinkInLocked(size int64) {
	if q.in <= size || !q.writing.TryLock() {
		return
	}
	defer q.writing.Unlock()
	options := q.ep.SocketOptions()
	options.SetSendBufferSize(size, true)
	if q.ep.Readiness(waiter.WritableEvents) == 0 {
		// Told of, or an acknowledgement of this very moment would have woken
		// nobody.
		options.SetSendBufferSize(q.in, true)
		return
	}
	q.budget.give(q.in - size)
	q.in = size
}

// shrinkOutLocked makes the queue from the guest small if the flow is idle, and
// gives back what it was larger by when the window that was told is used up; bytes
// is how much the flow has brought from the guest.
func (q *buffers) shrinkOutLocked(bytes uint64, idle bool) {
	options := q.ep.SocketOptions()
	drops := q.ep.Stats().(*tcp.Stats).ReceiveErrors.SegmentQueueDropped.Value()
	switch waiting, err := q.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption); {
	case q.size < q.out && bytes >= q.mark:
		q.budget.give(q.out - q.size)
		q.out = q.size
	case q.size < q.out && drops != q.drops:
		// The flow seemed idle, but a segment was missing. Those behind it fill the
		// small queue, and there is no room for the one that would free them.
		q.size, q.gap = q.out, true
		options.SetReceiveBufferSize(q.size, true)
	case q.size > tightBuffer && idle && !q.gap && waiting == 0 && err == nil:
		// What is in the queue and what the window has promised is half its size
		// each. A sender in full flight, which isn't idle, would be left with a piece
		// of a window and wait for its timer.
		q.size, q.mark, q.drops = tightBuffer, bytes+uint64(q.out), drops
		options.SetReceiveBufferSize(tightBuffer, true)
	}
}

// reclaim is a goroutine that looks for memory whenever the budget was found
// short, until the network closes. It takes two looks to see that a flow is idle.
func (n *Network) reclaim() {
	const looks = 2
	var pause <-chan time.Time
	for left := 0; ; {
		var short <-chan struct{}
		if left == 0 {
			short = n.budget.short
		}
		select {
		case <-short:
			left = looks
		case <-pause:
		case <-n.ctx.Done():
			return
		}
		shrunk := false
		n.tcp.each(func(f *tcpFlow) {
			shrunk = f.buffers.shrink(f.bytesOut.Load(), f.bytesIn.Load()) || shrunk
		})
		left = max(left-1, 0)
		switch pause = nil; {
		case left > 0:
			pause = time.After(reclaimPause)
		case shrunk:
			pause = time.After(shrunkPause)
		}
	}
}
