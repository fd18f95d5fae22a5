package dns

import (
	"container/heap"
	"net/netip"
	"time"

	"github.com/sluicenet/sluice/internal/lru"
)

const (
	// minNameTTL is the least life of an entry before the grace: an answer with
	// TTL 0 must outlive the connection that it was asked for.
	minNameTTL = 5 * time.Second

	// nameGrace is how long an entry outlives its TTL, and the last flow that it
	// decided: programs keep addresses longer than they should.
	nameGrace = 10 * time.Minute
)

// A nameTable remembers which names the upstreams gave for which addresses:
// P(A) of the contract. An entry is a pair of name and address.
//
// Invariants: a name in byName has at least one pair; a pair is in its name's
// pairs, in the list of its address, and either held by flows or in expiry; a
// name is in idle iff none of its pairs is held.
//
// Each of the four bounds is the guest's to run into, who chooses what it asks
// for and, with a domain of its own, what is answered. What is over one is never
// an open flow's: first goes what is unused, then the new is refused.
//
// It isn't safe for concurrent use.
type nameTable struct {
	maxNames  int // names at once
	maxPairs  int // pairs at once
	maxAddrs  int // addresses of one name
	maxShared int // names of one address

	byName map[string]*namedAddrs
	byAddr map[netip.Addr]*sharedAddr
	idle   lru.Table[string, *namedAddrs] // names that may go when there are too many
	expiry pairHeap                       // pairs that go when their time comes
	pairs  int
	round  uint64 // counts calls of add
}

// namedAddrs is a name with its addresses.
type namedAddrs struct {
	name  string
	pairs []*namePair
	held  int // pairs that flows hold
}

// sharedAddr is an address with its names. Every flow to it holds all of them, and
// the policy looks at each, so their number bounds what a flow costs.
type sharedAddr struct {
	newest *namePair // first of the list of pairs with this address
	pairs  int
}

// A namePair is an entry of the table.
type namePair struct {
	owner      *namedAddrs
	addr       netip.Addr
	expires    time.Time // valid unless held
	held       int       // flows that this pair decided and that are open
	round      uint64    // the add that last confirmed it
	index      int       // in expiry; -1 while held
	prev, next *namePair // of the same address
}

func newNameTable(l Limits) *nameTable {
	return &nameTable{
		maxNames: l.Names, maxPairs: l.Pairs, maxAddrs: l.AddrsPerName, maxShared: l.NamesPerAddr,
		byName: make(map[string]*namedAddrs),
		byAddr: make(map[netip.Addr]*sharedAddr),
	}
}

// add records that addrs were answered for name, until expires. It returns how
// many of them, counted from the first, are now in the table, and how many live
// pairs had to leave for them. An address that isn't in the table must not reach
// the guest: a flow to it would look as if nobody had ever named it.
func (t *nameTable) add(name string, addrs []netip.Addr, expires, now time.Time) (kept, evicted int) {
	t.expire(now) // before anything that lives has to leave
	if len(addrs) == 0 {
		return 0, 0
	}
	n := t.byName[name]
	if n == nil {
		for len(t.byName) >= t.maxNames {
			dropped := t.evictName(nil)
			if dropped == 0 { // flows hold every name
				return 0, evicted
			}
			evicted += dropped
		}
		n = &namedAddrs{name: name}
		t.byName[name] = n
		t.idle.Put(name, n)
	} else if n.held == 0 {
		t.idle.Put(name, n) // to the end of the queue: it was just used
	}
	t.round++
	for _, a := range addrs {
		dropped, ok := t.addPair(n, a, expires)
		evicted += dropped
		if !ok {
			break
		}
		kept++
	}
	if len(n.pairs) == 0 { // not one found room
		t.forget(n)
	}
	return kept, evicted
}

// addPair records or prolongs one pair.
func (t *nameTable) addPair(n *namedAddrs, addr netip.Addr, expires time.Time) (evicted int, ok bool) {
	for _, p := range n.pairs {
		if p.addr == addr {
			p.round = t.round
			// Never sooner: an answer with a shorter life doesn't take back what
			// another has promised.
			if expires.After(p.expires) {
				p.expires = expires
				if p.index >= 0 {
					heap.Fix(&t.expiry, p.index)
				}
			}
			return 0, true
		}
	}
	if len(n.pairs) >= t.maxAddrs {
		// Names with changing answers push out their own oldest addresses, but
		// one answer never pushes out itself: its surplus is what is dropped.
		if !t.evictPairOf(n) {
			return 0, false
		}
		evicted++
	}
	if at := t.byAddr[addr]; at != nil && at.pairs >= t.maxShared {
		if !t.evictNameOf(at) {
			return evicted, false
		}
		evicted++
	}
	for t.pairs >= t.maxPairs {
		// Whole names: of half a one some addresses would pass and others not.
		dropped := t.evictName(n)
		if dropped == 0 {
			return evicted, false
		}
		evicted += dropped
	}
	at := t.byAddr[addr] // perhaps gone meanwhile, with its last name
	if at == nil {
		at = new(sharedAddr)
		t.byAddr[addr] = at
	}
	p := &namePair{owner: n, addr: addr, expires: expires, round: t.round, next: at.newest}
	if p.next != nil {
		p.next.prev = p
	}
	at.newest = p
	at.pairs++
	n.pairs = append(n.pairs, p)
	t.pairs++
	heap.Push(&t.expiry, p)
	return evicted, true
}

// appendNames appends to dst the names that are live for addr, the newest pair
// first. It removes nothing: the way of a packet is no place to tidy up.
func (t *nameTable) appendNames(dst []string, addr netip.Addr, now time.Time) []string {
	at := t.byAddr[addr]
	if at == nil {
		return dst
	}
	for p := at.newest; p != nil; p = p.next {
		if p.held > 0 || now.Before(p.expires) {
			dst = append(dst, p.owner.name)
		}
	}
	return dst
}

// hold keeps the live pairs of addr and names until release: a flow that they
// decided is open. It returns them.
func (t *nameTable) hold(addr netip.Addr, names []string, now time.Time) []*namePair {
	var pairs []*namePair
	for _, name := range names {
		p := t.pair(name, addr)
		if p == nil || p.held == 0 && !now.Before(p.expires) {
			continue // gone since the flow was decided
		}
		if p.held == 0 { // from now on neither time nor a bound removes it
			heap.Remove(&t.expiry, p.index)
			if p.owner.held == 0 {
				t.idle.Remove(t.idle.Find(name))
			}
			p.owner.held++
		}
		p.held++
		pairs = append(pairs, p)
	}
	return pairs
}

// pair returns the pair of name and addr, or nil.
func (t *nameTable) pair(name string, addr netip.Addr) *namePair {
	if n := t.byName[name]; n != nil {
		for _, p := range n.pairs {
			if p.addr == addr {
				return p
			}
		}
	}
	return nil
}

// release ends what hold began: the grace of the pairs starts now.
func (t *nameTable) release(pairs []*namePair, now time.Time) {
	for _, p := range pairs {
		if p.held--; p.held > 0 {
			continue
		}
		if grace := now.Add(nameGrace); grace.After(p.expires) {
			p.expires = grace
		}
		heap.Push(&t.expiry, p)
		if p.owner.held--; p.owner.held == 0 {
			t.idle.Put(p.owner.name, p.owner)
		}
	}
}

// expire removes the pairs whose time has come, and names with their last pair. No
// timer does: who looks compares times, so a pair that is over matters only as
// memory, which the next add needs.
func (t *nameTable) expire(now time.Time) {
	for len(t.expiry) > 0 && !now.Before(t.expiry[0].expires) {
		p := t.expiry[0]
		t.removePair(p)
		if len(p.owner.pairs) == 0 {
			t.forget(p.owner)
		}
	}
}

// evictName removes the name that was used least recently among those that no
// flow holds, other than keep, and returns how many pairs it had.
func (t *nameTable) evictName(keep *namedAddrs) (pairs int) {
	oldest := t.idle.Oldest()
	if oldest == nil || oldest.Value == keep {
		return 0 // keep was just used: if it is the oldest, it is the only one
	}
	n := oldest.Value
	pairs = len(n.pairs)
	for len(n.pairs) > 0 { // from the end, where removePair moves nothing
		t.removePair(n.pairs[len(n.pairs)-1])
	}
	t.forget(n)
	return pairs
}

// evictPairOf removes the pair of n that expires first among those that no flow
// holds and the current answer didn't confirm. It reports whether there was one.
func (t *nameTable) evictPairOf(n *namedAddrs) bool {
	var victim *namePair
	for _, p := range n.pairs {
		if p.held == 0 && p.round != t.round && (victim == nil || p.expires.Before(victim.expires)) {
			victim = p
		}
	}
	if victim == nil {
		return false
	}
	t.removePair(victim)
	return true
}

// evictNameOf removes, of the pairs of an address that no flow holds, the one that
// expires first. It reports whether there was one.
func (t *nameTable) evictNameOf(at *sharedAddr) bool {
	var victim *namePair
	for p := at.newest; p != nil; p = p.next {
		if p.held == 0 && (victim == nil || p.expires.Before(victim.expires)) {
			victim = p
		}
	}
	if victim == nil {
		return false
	}
	t.removePair(victim)
	if len(victim.owner.pairs) == 0 {
		t.forget(victim.owner)
	}
	return true
}

// removePair removes a pair that isn't held. A name that has lost its last pair
// is the caller's to forget, or to give another.
func (t *nameTable) removePair(p *namePair) {
	heap.Remove(&t.expiry, p.index)
	at := t.byAddr[p.addr]
	if at.pairs--; at.pairs == 0 {
		delete(t.byAddr, p.addr)
	}
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		at.newest = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	}
	n := p.owner
	for i, q := range n.pairs {
		if q == p { // their order means nothing
			last := len(n.pairs) - 1
			n.pairs[i], n.pairs[last] = n.pairs[last], nil
			n.pairs = n.pairs[:last]
			break
		}
	}
	t.pairs--
}

// forget removes a name without pairs.
func (t *nameTable) forget(n *namedAddrs) {
	delete(t.byName, n.name)
	t.idle.Remove(t.idle.Find(n.name))
}

// A pairHeap has the pair that expires first on top. It implements
// heap.Interface.
type pairHeap []*namePair

func (h pairHeap) Len() int           { return len(h) }
func (h pairHeap) Less(i, j int) bool { return h[i].expires.Before(h[j].expires) }

func (h pairHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push is for package heap only.
func (h *pairHeap) Push(x any) {
	p := x.(*namePair)
	p.index = len(*h)
	*h = append(*h, p)
}

// Pop is for package heap only.
func (h *pairHeap) Pop() any {
	old := *h
	p := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	p.index = -1
	return p
}
