// Package lru has a [Table]: a map that knows which of its entries was used the
// longest ago.
//
// A table has no bound of its own. Who fills it takes out the oldest entry, or
// another one that it can spare, and says so where that matters: in most of our
// tables an entry is more than memory, an open socket for example. Entries are
// handed out as pointers, so that a packet that is looked up, judged and counted
// costs one look-up. Caches that evict by themselves offer neither.
package lru

// A Table maps keys to values. The zero Table is empty and ready to use; it must
// not be copied after that. It is not safe for concurrent use.
type Table[K comparable, V any] struct {
	entries map[K]*Entry[K, V]
	// root closes the ring of entries: root.next is the oldest, root.prev the
	// one used last.
	root Entry[K, V]
}

// An Entry is a key's place in a table, with its value, which may be changed.
type Entry[K comparable, V any] struct {
	Value      V
	key        K
	next, prev *Entry[K, V]
}

// Key returns the key that e was put with.
func (e *Entry[K, V]) Key() K { return e.key }

// Len returns the number of entries.
func (t *Table[K, V]) Len() int { return len(t.entries) }

// Find returns the entry of k, or nil. It does not count as use.
func (t *Table[K, V]) Find(k K) *Entry[K, V] { return t.entries[k] }

// Put sets the value of k, whose entry is then the one used last.
func (t *Table[K, V]) Put(k K, v V) *Entry[K, V] {
	if e := t.entries[k]; e != nil {
		e.Value = v
		t.Touch(e)
		return e
	}
	if t.entries == nil {
		t.entries = make(map[K]*Entry[K, V])
		t.root.next, t.root.prev = &t.root, &t.root
	}
	e := &Entry[K, V]{key: k, Value: v}
	t.entries[k] = e
	t.link(e)
	return e
}

// Touch makes e, which must be in the table, the entry used last.
func (t *Table[K, V]) Touch(e *Entry[K, V]) {
	if t.root.prev == e {
		return
	}
	e.unlink()
	t.link(e)
}

// Remove takes e out, which must be in the table.
func (t *Table[K, V]) Remove(e *Entry[K, V]) {
	delete(t.entries, e.key)
	e.unlink()
}

// Oldest returns the entry that was used the longest ago, or nil.
func (t *Table[K, V]) Oldest() *Entry[K, V] {
	if len(t.entries) == 0 {
		return nil
	}
	return t.root.next
}

// All yields the entries, the oldest first. The one that was yielded may be
// removed meanwhile.
func (t *Table[K, V]) All(yield func(*Entry[K, V]) bool) {
	if len(t.entries) == 0 {
		return
	}
	for e := t.root.next; e != &t.root; {
		next := e.next
		if !yield(e) {
			return
		}
		e = next
	}
}

func (t *Table[K, V]) link(e *Entry[K, V]) {
	e.prev, e.next = t.root.prev, &t.root
	e.prev.next, e.next.prev = e, e
}

// unlink takes e out of the ring, whose root is an entry too: there is always a
// neighbour on either side.
func (e *Entry[K, V]) unlink() {
	e.prev.next, e.next.prev = e.next, e.prev
}
