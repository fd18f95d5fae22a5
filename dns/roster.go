package dns

import (
	"net/netip"
	"time"
)

// penalty is how long an upstream that timed out goes last.
const penalty = 30 * time.Second

// A roster remembers how upstreams behaved, for the order in which they are
// asked. It isn't safe for concurrent use.
type roster struct {
	states map[netip.AddrPort]upstreamState
}

// upstreamState is what is known of an upstream. Its zero value is that of one
// never asked.
type upstreamState struct {
	lastUntil time.Time // it goes last until then
	noEDNS    bool      // it refuses queries with an OPT record
	foldsCase bool      // it doesn't repeat the question's case
}

// order returns servers in the order to be asked: as configured, those that
// timed out lately behind the others.
func (r *roster) order(servers []netip.AddrPort, now time.Time) []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(servers))
	for _, late := range []bool{false, true} {
		for _, s := range servers {
			if now.Before(r.states[s].lastUntil) == late {
				out = append(out, s)
			}
		}
	}
	return out
}

// state returns what is known of s.
func (r *roster) state(s netip.AddrPort) upstreamState { return r.states[s] }

// timedOut notes that s was silent.
func (r *roster) timedOut(s netip.AddrPort, now time.Time) {
	u := r.states[s]
	u.lastUntil = now.Add(penalty)
	r.set(s, u)
}

// learn notes what an exchange with s taught, and whether s answered in it.
func (r *roster) learn(s netip.AddrPort, u upstreamState, answered bool) {
	u.lastUntil = r.states[s].lastUntil
	if answered {
		u.lastUntil = time.Time{}
	}
	r.set(s, u)
}

func (r *roster) set(s netip.AddrPort, u upstreamState) {
	if r.states[s] == u {
		return
	}
	if r.states == nil {
		r.states = make(map[netip.AddrPort]upstreamState)
	}
	r.states[s] = u
}

// reset forgets everything: the upstreams are others now.
func (r *roster) reset() { r.states = nil }
