package vnet

import (
	"slices"
	"sync"
	"time"
)

// hitInterval is how often one bound is told of: a flood of dropped SYNs is one
// thing to know, not ten thousand.
const hitInterval = time.Second

// limitHits gathers limit.hit events by the bound's name. The first is told at
// once; those behind it are counted, and told with the next or by flush. Its
// methods may be called concurrently; the zero value is ready to use.
type limitHits struct {
	mu  sync.Mutex // guards the following field
	all []limitHit
}

// A limitHit is one bound. There is a handful of names, so nothing here grows.
type limitHit struct {
	name  string
	told  time.Time
	last  Event  // with the flow that hit it last
	count uint64 // hits that nobody was told of
}

// add counts e, and reports whether it is to be told now, with its Count.
func (l *limitHits) add(e Event) (Event, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.all, func(h limitHit) bool { return h.name == e.Limit })
	if i < 0 {
		i = len(l.all)
		l.all = append(l.all, limitHit{name: e.Limit})
	}
	h := &l.all[i]
	h.count++
	h.last = e
	return h.tellLocked(e.Time)
}

// flush returns the events that are due.
func (l *limitHits) flush(now time.Time) (due []Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.all {
		if e, ok := l.all[i].tellLocked(now); ok {
			due = append(due, e)
		}
	}
	return due
}

func (h *limitHit) tellLocked(now time.Time) (Event, bool) {
	if h.count == 0 || now.Sub(h.told) < hitInterval {
		return Event{}, false
	}
	e := h.last
	e.Count, h.count, h.told = h.count, 0, now
	return e, true
}
