package vnet

import (
	"net/netip"
	"sync"
)

// A lastSeen remembers the IPv6 address that the guest used last, of those that
// it gave itself (RFC 4862): nobody else knows them, and published ports may be
// open there only. Its zero value has seen none.
type lastSeen struct {
	latest netip.Addr // owned by the reader: addr, without the lock

	mu   sync.Mutex // guards the following field
	addr netip.Addr
}

// note looks at a packet that passed the guard, which vouches for its source.
// Only the reader calls it.
func (l *lastSeen) note(p *packet, block *Block) {
	if !p.v6 {
		return
	}
	a := p.src
	if b := p.frame[p.l4:p.end]; p.kind == kindNDP && a == netip.IPv6Unspecified() && b[0] == ndpNeighborSolicit && len(b) >= ndpSolicitLen {
		// The probe for a new address (RFC 4862, section 5.4) may be all that a
		// guest that only serves ever says of it.
		a = netip.AddrFrom16([16]byte(b[8:24]))
	}
	if a == l.latest || a == block.Guest6 || a == block.Gateway6 || !block.Prefix6.Contains(a) {
		return
	}
	l.latest = a
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addr = a
}

// get returns the address; the zero Addr if there was none.
func (l *lastSeen) get() netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.addr
}
