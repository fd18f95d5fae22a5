package vnet

// An lru is a table that knows which of its entries was used the longest ago,
// so that a bound on it can be kept. The zero lru is empty and ready to use. It
// is not safe for concurrent use.
type lru[K comparable, V any] struct {
	entries map[K]*lruEntry[K, V]
	// root closes the ring of entries: root.next is the oldest, root.prev the
	// one used last.
	root lruEntry[K, V]
}

// An lruEntry is a key's place in an lru, with its value.
type lruEntry[K comparable, V any] struct {
	key        K
	value      V
	next, prev *lruEntry[K, V]
}

// find returns the entry of k, or nil. It does not count as use.
func (l *lru[K, V]) find(k K) *lruEntry[K, V] { return l.entries[k] }

// len returns the number of entries.
func (l *lru[K, V]) len() int { return len(l.entries) }

// insert adds k, which must not be there, as the entry used last.
func (l *lru[K, V]) insert(k K, v V) *lruEntry[K, V] {
	if l.entries == nil {
		l.entries = make(map[K]*lruEntry[K, V])
		l.root.next, l.root.prev = &l.root, &l.root
	}
	e := &lruEntry[K, V]{key: k, value: v}
	l.entries[k] = e
	l.link(e)
	return e
}

// touch makes e the entry used last.
func (l *lru[K, V]) touch(e *lruEntry[K, V]) {
	if l.root.prev == e {
		return
	}
	e.unlink()
	l.link(e)
}

// remove takes e out.
func (l *lru[K, V]) remove(e *lruEntry[K, V]) {
	delete(l.entries, e.key)
	e.unlink()
}

// oldest returns the entry that was used the longest ago, or nil.
func (l *lru[K, V]) oldest() *lruEntry[K, V] {
	if len(l.entries) == 0 {
		return nil
	}
	return l.root.next
}

// all yields the entries, the oldest first. The one that was yielded may be
// removed meanwhile.
func (l *lru[K, V]) all(yield func(*lruEntry[K, V]) bool) {
	if len(l.entries) == 0 {
		return
	}
	for e := l.root.next; e != &l.root; {
		next := e.next
		if !yield(e) {
			return
		}
		e = next
	}
}

func (l *lru[K, V]) link(e *lruEntry[K, V]) {
	e.prev, e.next = l.root.prev, &l.root
	e.prev.next, e.next.prev = e, e
}

func (e *lruEntry[K, V]) unlink() {
	e.prev.next, e.next.prev = e.next, e.prev
}
