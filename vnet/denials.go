package vnet

import (
	"net/netip"
	"time"

	"github.com/sluicenet/sluice/internal/lru"
	"github.com/sluicenet/sluice/policy"
)

// A guest that is denied goes on trying: DNS clients, ping and QUIC repeat
// their datagrams. That is one denial to tell of, so for a while the others are
// decided, and dropped, without a record.
const (
	maxDenials   = 1024             // remembered at once; the oldest goes
	denialRecent = 30 * time.Second // since it was last repeated
)

// recentDenials remembers which flows were denied. The zero value is ready to
// use. It is not safe for concurrent use.
type recentDenials struct {
	flows lru.Table[deniedFlow, denial]
}

type deniedFlow struct {
	proto  policy.Protocol
	source netip.Addr // not the port: each repetition may come from a new one
	remote netip.AddrPort
}

type denial struct {
	generation uint64
	at         time.Time
}

func denialOf(f natFlow) deniedFlow { return deniedFlow{f.proto, f.guest.Addr(), f.remote} }

// recent reports whether f was denied by this generation of the policy a moment
// ago.
func (r *recentDenials) recent(f natFlow, generation uint64, now time.Time) bool {
	e := r.flows.Find(denialOf(f))
	return e != nil && e.Value.generation == generation && now.Sub(e.Value.at) < denialRecent
}

// add remembers that f was denied.
func (r *recentDenials) add(f natFlow, generation uint64, now time.Time) {
	r.flows.Put(denialOf(f), denial{generation, now})
	if r.flows.Len() > maxDenials {
		r.flows.Remove(r.flows.Oldest())
	}
}
