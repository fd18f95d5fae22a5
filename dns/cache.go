package dns

import (
	"time"

	"github.com/sluicenet/sluice/internal/lru"
)

// A cacheKey is what answers differ by. DO and CD are part of it, since they
// change what the upstream sends and what it refuses as bogus; AD isn't, since
// we always ask with it.
type cacheKey struct {
	name   string // text form
	qtype  uint16
	do, cd bool
}

// A cache holds what upstreams said, least recently used out first. Policy is
// applied to what comes out of it, never to what goes in. It isn't safe for
// concurrent use.
type cache struct {
	maxEntries int
	maxBytes   int
	bytes      int
	answers    lru.Table[cacheKey, *answer]
}

func newCache(maxEntries, maxBytes int) *cache {
	return &cache{maxEntries: maxEntries, maxBytes: maxBytes}
}

// get returns the live answer for a question, or nil. name is the text form; it
// is bytes so that a hit costs no allocation.
func (c *cache) get(name []byte, q *query, now time.Time) *answer {
	e := c.answers.Find(cacheKey{name: string(name), qtype: q.qtype, do: q.do, cd: q.cd})
	if e == nil || e.Value.ageAt(now) >= e.Value.ttl {
		return nil // an expired answer stays until its turn to leave, or until the new one takes its place
	}
	c.answers.Touch(e)
	return e.Value
}

// put keeps a, unless it may not be kept or is too large to.
func (c *cache) put(key cacheKey, a *answer) {
	size := a.memory()
	// One large answer must not push out hundreds of small ones.
	if a.ttl == 0 || c.maxEntries <= 0 || size > c.maxBytes/16 {
		return
	}
	if old := c.answers.Find(key); old != nil {
		c.bytes -= old.Value.memory()
	}
	c.bytes += size
	c.answers.Put(key, a)
	for c.bytes > c.maxBytes || c.answers.Len() > c.maxEntries {
		oldest := c.answers.Oldest()
		c.bytes -= oldest.Value.memory()
		c.answers.Remove(oldest)
	}
}

// flush forgets everything: the upstreams are others now, and may see another
// world.
func (c *cache) flush() {
	c.answers = lru.Table[cacheKey, *answer]{}
	c.bytes = 0
}

// memory returns about how many bytes keeping a costs.
func (a *answer) memory() int {
	const overhead = 512 // the structs, the key, the map's and the list's part
	n := overhead + len(a.packed) + 8*len(a.ttls) + 24*len(a.addrs)
	for _, h := range a.hops {
		n += 16 + len(h)
	}
	for _, t := range a.targets {
		n += 16 + len(t)
	}
	return n
}
