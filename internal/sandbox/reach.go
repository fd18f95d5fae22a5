package sandbox

import (
	"net/netip"
	"sync"
)

// maxReach bounds the addresses whose reachability is remembered. A full table
// is begun again: looking one up is cheap.
const maxReach = 4096

// reach tells which addresses the host has a way to, as far as its routes say.
// Its methods may be called by several goroutines.
//
// hasRoute, per platform, asks the system: whether there is a route to an
// address and, for a global IPv6 one, a source that others can answer, which is
// a global address, or a unique local one on a host with a default route (whose
// network translates it).
type reach struct {
	mu    sync.Mutex // guards the following fields
	host  hostNet
	known map[netip.Addr]bool
}

// newReach returns the reach of a host's network as it was last read.
func newReach(h hostNet) *reach {
	return &reach{host: h, known: make(map[netip.Addr]bool)}
}

// reset forgets everything: the host's network is now h.
func (r *reach) reset(h hostNet) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.host, r.known = h, make(map[netip.Addr]bool)
}

// usable reports whether the host has a way to an address.
func (r *reach) usable(a netip.Addr) bool {
	r.mu.Lock()
	h := r.host
	ok, known := r.known[a]
	r.mu.Unlock()
	if known {
		return ok
	}
	switch {
	case a.Is4() && !h.usable4, a.Is6() && !h.usable6:
		ok = false
	default:
		ok = hasRoute(h, a) // a system call: without the lock
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) >= maxReach {
		clear(r.known)
	}
	// If reset came in between, this may be stale until the next one; a dial
	// tells the truth in any case.
	r.known[a] = ok
	return ok
}
