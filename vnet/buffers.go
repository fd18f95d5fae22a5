package vnet

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
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
	// tightBuffer is what it begins with when the budget runs low, so that as
	// many flows as there may be by default fit into 64 MiB.
	tightBuffer = 8 << 10
	// heldBuffer is what a first flight of 64 KiB needs that isn't there at once.
	// In segments of a few bytes it needs more: heldSegment is no less than what
	// each counts beside its bytes.
	heldBuffer  = 512 << 10
	heldSegment = 1 << 10
	// growth is how many times larger a queue gets that turned out too small.
	growth = 4
	// reclaimPause is the time between two looks for memory that isn't needed.
	reclaimPause = 100 * time.Millisecond
)

// A budget is the memory that all flows of a guest may hold in their queues. A
// queue's size is taken from it, used or not: what a window has promised, the
// guest may send. Its methods may be called concurrently.
//
//	all of it ── first sizes leave an eighth ── growth leaves a quarter
//
// So a few flows that nobody reads from can't keep others from beginning, only
// from growing. Where nothing is left a SYN is dropped, which the guest repeats.
type budget struct {
	limit int64

	mu   sync.Mutex // guards the following field
	free int64

	short chan struct{} // holds one element when somebody wanted more than there was
}

func newBudget(limit int) *budget {
	return &budget{limit: int64(limit), free: int64(limit), short: make(chan struct{}, 1)}
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
	size int64
	mark uint64
	seen uint64 // the flow's bytes when it was looked at last
}

// reserve takes a flow's first sizes from the budget, and reports false if there
// is not even little left.
func (q *buffers) reserve(b *budget) bool {
	size := int64(firstBuffer)
	if !b.take(2*size, b.limit/8) {
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

// growIn makes the queue to the guest larger, if the budget allows, and reports
// whether it is. It was found full.
func (q *buffers) growIn() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	more := min(q.in*growth, maxBuffer) - q.in
	if q.budget == nil || q.ep == nil || more <= 0 || !q.budget.take(more, q.budget.limit/4) {
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
		if !q.budget.take(more, q.budget.limit/4) {
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

// shrink gives back what the queues have grown by and don't need at this moment;
// bytesOut is how much the flow has brought from the guest.
func (q *buffers) shrink(bytesOut uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.budget == nil || q.ep == nil {
		return
	}
	options := q.ep.SocketOptions()
	if q.in > firstBuffer {
		options.SetSendBufferSize(firstBuffer, true)
		if q.ep.Readiness(waiter.WritableEvents) != 0 { // it holds less than that
			q.budget.give(q.in - firstBuffer)
			q.in = firstBuffer
		} else {
			// Told of, or an acknowledgement of this very moment would have woken
			// nobody.
			options.SetSendBufferSize(q.in, true)
		}
	}
	idle := bytesOut == q.seen
	q.seen = bytesOut
	switch waiting, err := q.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption); {
	case q.size > firstBuffer && (!idle || waiting > 0 || err != nil):
		// A sender in full flight that is left with a piece of a window waits for
		// its timer.
	case q.size > firstBuffer:
		// What is in the queue and what the window has promised is half its size
		// each.
		q.size, q.mark = firstBuffer, bytesOut+uint64(q.out)
		options.SetReceiveBufferSize(firstBuffer, true)
	case q.out > q.size && bytesOut >= q.mark:
		q.budget.give(q.out - q.size)
		q.out = q.size
	}
}

// reclaim is a goroutine that looks for memory whenever the budget was found
// short, until the network closes.
func (n *Network) reclaim() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-n.budget.short:
			n.tcp.each(func(f *tcpFlow) { f.buffers.shrink(f.bytesOut.Load()) })
		case <-n.ctx.Done():
			return
		}
		pause.Reset(reclaimPause)
		select {
		case <-pause.C:
		case <-n.ctx.Done():
			return
		}
	}
}
