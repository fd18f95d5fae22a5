package dns

// An lru is a map that knows which of its entries was used least recently. It
// has no bound of its own: who adds to it removes the oldest. The zero lru is
// not usable; make one with newLRU.
type lru[K comparable, V any] struct {
	nodes map[K]*lruNode[K, V]
	ring  lruNode[K, V] // ring.next is the newest entry, ring.prev the oldest
}

// A lruNode is an entry, in the map and in the ring.
type lruNode[K comparable, V any] struct {
	key        K
	value      V
	prev, next *lruNode[K, V]
}

func newLRU[K comparable, V any]() *lru[K, V] {
	l := &lru[K, V]{nodes: make(map[K]*lruNode[K, V])}
	l.ring.prev, l.ring.next = &l.ring, &l.ring
	return l
}

// len returns how many entries there are.
func (l *lru[K, V]) len() int { return len(l.nodes) }

// use moves n to the front.
func (l *lru[K, V]) use(n *lruNode[K, V]) {
	if l.ring.next == n {
		return
	}
	n.unlink()
	l.link(n)
}

// link puts n to the front.
func (l *lru[K, V]) link(n *lruNode[K, V]) {
	n.prev, n.next = &l.ring, l.ring.next
	n.prev.next, n.next.prev = n, n
}

// unlink takes n out of the ring, whose head is a node too: there is always a
// neighbour on either side.
func (n *lruNode[K, V]) unlink() {
	n.prev.next, n.next.prev = n.next, n.prev
}

// get returns the value of key and marks it as used.
func (l *lru[K, V]) get(key K) (v V, ok bool) {
	n, ok := l.nodes[key]
	if !ok {
		return v, false
	}
	l.use(n)
	return n.value, true
}

// put sets the value of key and marks it as used.
func (l *lru[K, V]) put(key K, value V) {
	if n, ok := l.nodes[key]; ok {
		n.value = value
		l.use(n)
		return
	}
	n := &lruNode[K, V]{key: key, value: value}
	l.nodes[key] = n
	l.link(n)
}

// remove removes key, if it is there.
func (l *lru[K, V]) remove(key K) {
	if n, ok := l.nodes[key]; ok {
		n.unlink()
		delete(l.nodes, key)
	}
}

// oldest returns the entry that was used least recently. Not ok means that
// there is none.
func (l *lru[K, V]) oldest() (key K, value V, ok bool) {
	n := l.ring.prev
	if n == &l.ring {
		return key, value, false
	}
	return n.key, n.value, true
}
