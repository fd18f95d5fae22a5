package dns

import (
	"time"

	"github.com/sluicenet/sluice/internal/lru"
)

const (
	// maxOrigins bounds the questions that one target is remembered for.
	maxOrigins = 8

	// maxTargetDepth bounds how many service records lead from a question to a
	// target: as many as CNAME records.
	maxTargetDepth = maxChain
)

// A targetTable remembers which names SRV, MX, SVCB and HTTPS records of
// permitted questions point to: they may be looked up for the question's sake,
// and their addresses count for the question's host name too. It isn't safe for
// concurrent use.
type targetTable struct {
	max     int
	targets lru.Table[string, []origin]
}

// An origin is a question whose answer led to a target.
type origin struct {
	name    string // in text form, as asked
	qtype   uint16
	depth   int // service records between the question and the target
	expires time.Time
}

func newTargetTable(max int) *targetTable {
	return &targetTable{max: max}
}

// add records that the answer for o points to target. Where o's own name is a
// target, the target belongs to o's origins as well.
func (t *targetTable) add(target string, o origin, now time.Time) {
	add := append([]origin{o}, t.origins(nil, o.name, now)...)
	have := t.origins(nil, target, now) // without those that are over
	for i, o := range add {
		if i > 0 { // one of o's origins is one record further away than o
			o.depth++
		}
		if o.name != target && o.depth <= maxTargetDepth {
			have = addOrigin(have, o)
		}
	}
	if len(have) == 0 {
		return
	}
	t.targets.Put(target, have) // a new list: who holds the old one may read on
	for t.targets.Len() > t.max {
		t.targets.Remove(t.targets.Oldest())
	}
}

// addOrigin adds o to list, or prolongs it there; of too many the one that
// expires first goes.
func addOrigin(list []origin, o origin) []origin {
	first := 0
	for i := range list {
		if list[i].name == o.name && list[i].qtype == o.qtype {
			if o.expires.After(list[i].expires) {
				list[i].expires = o.expires
			}
			list[i].depth = min(list[i].depth, o.depth)
			return list
		}
		if list[i].expires.Before(list[first].expires) {
			first = i
		}
	}
	if len(list) < maxOrigins {
		return append(list, o)
	}
	list[first] = o
	return list
}

// origins appends to dst the live questions that led to target.
func (t *targetTable) origins(dst []origin, target string, now time.Time) []origin {
	e := t.targets.Find(target)
	if e == nil {
		return dst
	}
	t.targets.Touch(e)
	for _, o := range e.Value {
		if now.Before(o.expires) {
			dst = append(dst, o)
		}
	}
	return dst
}
