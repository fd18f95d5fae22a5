package mitm

import (
	"net/http"
	"sync/atomic"
	"time"
)

// requestCost is what a request under way takes beside its head, in bytes: the
// goroutines of both legs, buffers, and what net/http keeps of it.
const requestCost = 24 << 10

// headCopies is how often a head is held: as the guest's, and as ours with
// secrets in it or on its way through HPACK.
const headCopies = 2

// A budget bounds the memory of all requests under way. HPACK writes in two bytes
// what takes four thousand, so that without it one connection could ask for any
// amount. Its methods may be called concurrently.
type budget struct {
	limit int64
	used  atomic.Int64
	told  atomic.Int64 // the second in which a refusal was told last
}

// take takes n bytes, and reports false if there aren't as many.
func (b *budget) take(n int64) bool {
	if b.used.Add(n) <= b.limit {
		return true
	}
	b.used.Add(-n)
	return false
}

func (b *budget) give(n int64) { b.used.Add(-n) }

// news reports whether a refusal at now is to be told: one a second is, or a guest
// could fill the record with them.
func (b *budget) news(now time.Time) bool {
	last := b.told.Load()
	return now.Unix() != last && b.told.CompareAndSwap(last, now.Unix())
}

// headSize returns how large a header is in memory, in bytes.
func headSize(h http.Header) (n int64) {
	const field = 64 // of a map and a slice
	for name, values := range h {
		n += int64(len(name)) + field
		for _, v := range values {
			n += int64(len(v)) + field
		}
	}
	return n
}
