package dns

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/sluicenet/sluice/policy"
)

// The types of events.
const (
	EventQuery   = "dns.query"
	EventLimit   = "limit.hit"
	EventWarning = "warning"
)

// An Event is something that happened, for the record. Its slices must not be
// changed.
type Event struct {
	Type       string // EventQuery, EventLimit or EventWarning
	Time       time.Time
	Generation uint64 // of the policy

	// Valid iff Type is EventQuery:
	Name     string // as compared with the rules; "" if the message had none
	QType    string // A, AAAA, HTTPS, TYPE65280, …
	Protocol policy.Protocol
	Verdict  policy.Verdict // what permitted the name, or what denied it, a hop or an address
	RCode    string         // NOERROR, NXDOMAIN, …
	Reason   string         // why the answer isn't the upstream's, or what it said was wrong; "" if nothing
	Addrs    []netip.Addr   // given to the guest
	Upstream netip.AddrPort // who answered; not valid if nobody was asked
	Cached   bool           // the answer was kept from an earlier query
	Duration time.Duration  // from the query to its answer

	// Valid iff Type is EventLimit: which bound was hit, and how often since the
	// last event about it.
	Limit string
	Count uint64

	Message string // valid iff Type is EventWarning
}

// The bounds that events name.
const (
	limitRate    = "dns.queries_per_second"
	limitWaiting = "dns.waiting"
	limitNames   = "dns.names"     // live entries left the table of names for new ones
	limitAddrs   = "dns.addresses" // addresses were left out of answers, since the table couldn't take them
)

// limitEvery is how often a bound makes an event: a guest that runs into it a
// hundred thousand times a second shall not write as many lines.
const limitEvery = time.Second

// limitHits counts how often bounds were hit. Its zero value is ready; it isn't
// safe for concurrent use.
type limitHits struct {
	byName map[string]*limitHit
}

// A limitHit is one bound.
type limitHit struct {
	count uint64 // not yet told
	told  time.Time
}

// hit counts n and returns how many to tell now; 0 is none.
func (h *limitHits) hit(limit string, n uint64, now time.Time) uint64 {
	if h.byName == nil {
		h.byName = make(map[string]*limitHit)
	}
	l := h.byName[limit]
	if l == nil {
		l = &limitHit{}
		h.byName[limit] = l
	}
	l.count += n
	if !l.told.IsZero() && now.Sub(l.told) < limitEvery {
		return 0 // the next hit tells; what follows no hit is in Stats
	}
	n, l.count, l.told = l.count, 0, now
	return n
}

// Stats counts what a Server did. Every query ends in exactly one of Malformed,
// Local, Denied, Cached, Answered, Failed and Limited.
type Stats struct {
	Queries   uint64 // messages from the guest
	Malformed uint64 // no query, or one that got FORMERR
	Local     uint64 // answered or refused without asking anybody
	Denied    uint64 // by the policy: the name, a hop of its chain, or an address
	Cached    uint64 // from the cache
	Answered  uint64 // by an upstream
	Failed    uint64 // SERVFAIL and the like, by an upstream or for want of one
	Limited   uint64 // over a bound
	Upstream  uint64 // questions put to upstreams, repetitions included
	Evicted   uint64 // live entries that left the table of names for others
}

// counters are the Stats as they grow.
type counters struct {
	queries, malformed, local, denied, cached, answered, failed, limited, upstream, evicted atomic.Uint64
}

// Stats returns the counters' values. They are read one after the other, so that
// a query under way may be in Queries and in none of the rest yet.
func (s *Server) Stats() Stats {
	c := &s.stats
	return Stats{
		Queries: c.queries.Load(), Malformed: c.malformed.Load(), Local: c.local.Load(),
		Denied: c.denied.Load(), Cached: c.cached.Load(), Answered: c.answered.Load(),
		Failed: c.failed.Load(), Limited: c.limited.Load(), Upstream: c.upstream.Load(),
		Evicted: c.evicted.Load(),
	}
}
