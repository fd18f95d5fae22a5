package vnet

import "time"

// A Bucket configures a token bucket: Burst tokens that are spent first and
// never come back, then Size tokens that refill continuously, all of them
// within Refill. The zero Bucket limits nothing.
type Bucket struct {
	Size   uint64        // tokens; at least 1 unless the Bucket is zero
	Refill time.Duration // at least 1 ms
	Burst  uint64        // tokens
}

// A Rate limits one direction of a card. A zero Bucket in it limits nothing.
type Rate struct {
	Bandwidth Bucket // tokens are bytes of Ethernet frames, without link headers
	Ops       Bucket // tokens are frames, 64 KiB segments counting as one
}

// A RateLimit limits a guest's card in both directions. The zero RateLimit
// limits nothing.
type RateLimit struct {
	Egress, Ingress Rate // from and to the guest
}

// limits reports whether there is anything to limit.
func (r Rate) limits() bool { return r.Bandwidth.Size > 0 || r.Ops.Size > 0 }

// A bucket is a token bucket at work. What is taken beyond its tokens is a
// debt, which refilling pays first: so a frame larger than the bucket passes
// once, and the rate holds all the same. It is not safe for concurrent use.
type bucket struct {
	size, burst float64
	perSecond   float64 // 0: unlimited
	tokens      float64 // negative: a debt
	at          time.Time
}

func newBucket(c Bucket, now time.Time) bucket {
	if c.Size == 0 {
		return bucket{}
	}
	return bucket{
		size: float64(c.Size), burst: float64(c.Burst), tokens: float64(c.Size),
		perSecond: float64(c.Size) / c.Refill.Seconds(), at: now,
	}
}

// refill adds what has accrued until now.
func (b *bucket) refill(now time.Time) {
	if d := now.Sub(b.at); d > 0 {
		b.tokens = min(b.size, b.tokens+d.Seconds()*b.perSecond)
		b.at = now
	}
}

// wait returns how long after now the bucket is out of debt, with at least one
// token or the burst.
func (b *bucket) wait(now time.Time) time.Duration {
	if b.perSecond == 0 {
		return 0
	}
	b.refill(now)
	missing := min(1, b.size) - b.tokens - b.burst
	if missing <= 0 {
		return 0
	}
	return time.Duration(missing/b.perSecond*float64(time.Second)) + 1 // never early
}

// take spends n tokens, the burst first.
func (b *bucket) take(n float64) {
	if b.perSecond == 0 {
		return
	}
	first := min(b.burst, n)
	b.burst -= first
	b.tokens -= n - first
}

// A meter is the two buckets of one direction.
type meter struct{ bytes, frames bucket }

func newMeter(r Rate, now time.Time) meter {
	return meter{newBucket(r.Bandwidth, now), newBucket(r.Ops, now)}
}

func (m *meter) wait(now time.Time) time.Duration {
	return max(m.bytes.wait(now), m.frames.wait(now))
}

func (m *meter) take(bytes int) {
	m.bytes.take(float64(bytes))
	m.frames.take(1)
}
