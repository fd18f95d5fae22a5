package vnet

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/sluicenet/sluice/internal/lru"
)

// Bounds of a reassembler. A guest can only fill its own; when it does, the
// oldest datagram goes, so that one whose fragments come together still passes.
const (
	// defaultSets is how many datagrams may be incomplete at once: Linux keeps
	// 4 MiB for them, which is this many of the largest.
	defaultSets = 64
	// defaultParts is how many fragments a datagram may have. 65535 bytes over
	// the smallest MTU that a host must take, 576, are 119.
	defaultParts = 128
	// defaultWait is how long an incomplete datagram is kept (RFC 791, section
	// 3.2). The fragments of one come in one burst over the guest's link.
	defaultWait = 15 * time.Second
)

// maxWhole is the frame of the largest datagram, which no link could carry.
const maxWhole = etherLen + ipv6Len + 65535

// A reassembler puts UDP and ICMP datagrams together from fragments that passed
// the guard. Its memory is bounded by sets, each of maxWhole bytes. Fragments
// that overlap, even as repetitions, drop the datagram: no sender makes them,
// and what filters and hosts make of them differs (RFC 5722). It is owned by
// one goroutine.
type reassembler struct {
	maxSets  int
	maxParts int
	wait     time.Duration
	drop     func(drop) // counts fragments whose datagram was given up

	sets  lru.Table[fragKey, *fragSet] // never touched: the oldest began first
	whole *fragSet                     // handed out by the last add
	spare []*fragSet                   // of datagrams that are done, for the next
}

// A fragKey says which datagram a fragment belongs to (RFC 791, section 3.2; RFC
// 8200, section 4.5).
type fragKey struct {
	src, dst netip.Addr
	id       uint32
	proto    uint8
}

// A fragSet is a datagram of which fragments are missing.
type fragSet struct {
	began  time.Time
	frame  []byte // the datagram's frame, without fragment header; nil if it was given up
	start  int    // offset of the transport's part in frame
	total  int    // bytes of the transport's part; -1 until the last fragment came
	parts  int    // fragments that came
	ranges []span // what came, in order, not touching each other
}

// A span is a range of bytes of the transport's part.
type span struct{ from, to int }

// newReassembler returns a reassembler with the default bounds. drop is told of
// every fragment that had been kept and was given up.
func newReassembler(drop func(drop)) *reassembler {
	return &reassembler{maxSets: defaultSets, maxParts: defaultParts, wait: defaultWait, drop: drop}
}

// add takes the fragment p and returns the frame of the whole datagram if p
// completes it. The frame is valid until the next call. Otherwise frame is nil,
// and reason says whether p was dropped.
func (r *reassembler) add(p *packet, now time.Time) (frame []byte, reason drop) {
	if r.whole != nil {
		r.recycle(r.whole)
		r.whole = nil
	}
	r.expire(now)
	key := fragKey{p.src, p.dst, p.fragID, p.proto}
	e := r.sets.Find(key)
	if e == nil {
		if r.sets.Len() >= r.maxSets {
			r.giveUp(r.sets.Oldest(), dropReassemblyLimit)
		}
		e = r.sets.Put(key, r.newSet(now))
	}
	set := e.Value
	if set.frame == nil {
		return nil, dropReassemblyOverlap
	}
	if set.parts >= r.maxParts {
		r.spoil(set, dropReassemblyLimit)
		return nil, dropReassemblyLimit
	}
	if !set.put(p) {
		r.spoil(set, dropReassemblyOverlap)
		return nil, dropReassemblyOverlap
	}
	if len(set.ranges) != 1 || set.ranges[0] != (span{0, set.total}) {
		return nil, dropNone
	}
	r.sets.Remove(e)
	r.whole = set
	return set.finish(p.v6, p.proto), dropNone
}

// expire gives up datagrams whose rest did not come in time.
func (r *reassembler) expire(now time.Time) {
	for e := r.sets.Oldest(); e != nil && now.Sub(e.Value.began) >= r.wait; e = r.sets.Oldest() {
		r.giveUp(e, dropReassemblyTimeout)
	}
}

// giveUp forgets the datagram of e.
func (r *reassembler) giveUp(e *lru.Entry[fragKey, *fragSet], why drop) {
	r.sets.Remove(e)
	r.spoil(e.Value, why)
}

// spoil drops what has come of a datagram. If it stays in the table, its later
// fragments are dropped too: "the reassembly of the datagram must be abandoned
// and all the fragments that have been received for that packet must be
// discarded" (RFC 8200, section 4.5).
func (r *reassembler) spoil(set *fragSet, why drop) {
	for range set.parts {
		r.drop(why)
	}
	if set.frame != nil {
		r.recycle(&fragSet{frame: set.frame, ranges: set.ranges})
	}
	set.frame, set.ranges, set.parts = nil, nil, 0
}

func (r *reassembler) newSet(now time.Time) *fragSet {
	var set *fragSet
	if n := len(r.spare); n > 0 {
		set = r.spare[n-1]
		r.spare = r.spare[:n-1]
	} else {
		set = &fragSet{frame: make([]byte, 0, maxWhole)}
	}
	*set = fragSet{began: now, frame: set.frame[:0], total: -1, ranges: set.ranges[:0]}
	return set
}

// recycle keeps a set's memory. Two are enough for a guest that sends one large
// datagram after the other; more would be held for nothing.
func (r *reassembler) recycle(set *fragSet) {
	if len(r.spare) < 2 {
		r.spare = append(r.spare, set)
	}
}

// put copies the fragment to its place and reports whether it agrees with the
// others: no overlap, one end, nothing behind it.
func (s *fragSet) put(p *packet) bool {
	part := span{p.fragOffset, p.fragOffset + p.end - p.l4}
	if s.total >= 0 && (part.to > s.total || !p.moreFrags) {
		return false
	}
	if !p.moreFrags {
		if n := len(s.ranges); n > 0 && s.ranges[n-1].to > part.to {
			return false
		}
		s.total = part.to
	}
	if !s.cover(part) {
		return false
	}
	s.parts++
	s.start = etherLen + ipv4Len
	if p.v6 {
		s.start = etherLen + ipv6Len
	}
	s.frame = s.frame[:max(len(s.frame), s.start+part.to)]
	copy(s.frame[s.start+part.from:], p.frame[p.l4:p.end])
	if part.from == 0 {
		copy(s.frame, p.frame[:s.start])
	}
	return true
}

// cover adds part to what has come, or reports false if they overlap.
func (s *fragSet) cover(part span) bool {
	// Most fragments come in order, so the search begins at the end.
	i := len(s.ranges)
	for i > 0 && s.ranges[i-1].from >= part.to {
		i--
	}
	left := i > 0 && s.ranges[i-1].to == part.from
	right := i < len(s.ranges) && s.ranges[i].from == part.to
	switch {
	case i > 0 && s.ranges[i-1].to > part.from:
		return false
	case left && right:
		s.ranges[i-1].to = s.ranges[i].to
		s.ranges = slices.Delete(s.ranges, i, i+1)
	case left:
		s.ranges[i-1].to = part.to
	case right:
		s.ranges[i].from = part.from
	default:
		s.ranges = slices.Insert(s.ranges, i, part)
	}
	return true
}

// finish turns the headers of the first fragment into those of the datagram.
func (s *fragSet) finish(v6 bool, proto uint8) []byte {
	ip := s.frame[etherLen:]
	if v6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(s.total))
		ip[6] = proto
		return s.frame
	}
	binary.BigEndian.PutUint16(ip[2:], uint16(ipv4Len+s.total))
	binary.BigEndian.PutUint16(ip[6:], 0)
	putChecksum(ip[:ipv4Len], 10, 0)
	return s.frame
}
