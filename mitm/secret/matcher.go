package secret

import (
	"encoding/binary"
	"slices"
	"unsafe"
)

// A matcher finds the first of several patterns in a text. It is immutable.
//
// Most bytes of most texts begin no form, so two filters stand before the patterns,
// made from the first bytes of all forms. The pairs at offsets 0 and 1 are a set: of
// each two neighbouring positions one look-up in it is enough, and four of them fit
// in a load of eight bytes. Where that says perhaps, the first six bytes are looked
// up in a Bloom filter, which rejects nearly all of what isn't a form.
type matcher struct {
	patterns []pattern
	pairs    bitset
	opens    bitset
	// short says that some form is shorter than openBytes, so that opens doesn't
	// have them all.
	short bool
	first [256][]int // the patterns that begin with what stands for a byte, longest first
	all   []int      // all of them
}

// Lengths of what the filters know.
const (
	pairBytes = 3 // two pairs
	openBytes = 6 // enough to tell an escape of ASCII from another behind one or two bytes
)

// newMatcher returns the matcher of patterns, nil for none.
func newMatcher(patterns []pattern) *matcher {
	if len(patterns) == 0 {
		return nil
	}
	patterns = slices.Clone(patterns)
	slices.SortStableFunc(patterns, func(a, b pattern) int { return len(b.text) - len(a.text) })
	m := &matcher{patterns: patterns}
	for i := range patterns {
		p := &patterns[i]
		m.all = append(m.all, i)
		for c := range m.first {
			if p.accepts(0, byte(c)) {
				m.first[c] = append(m.first[c], i)
			}
		}
		for _, o := range p.openings {
			m.add(o)
		}
	}
	return m
}

// add tells the filters an opening, which is shorter than openBytes only where the
// whole form is.
func (m *matcher) add(o string) {
	for _, second := range []byte(anyOf(o, 1)) {
		m.pairs.add(pair(o[0], second))
		for _, third := range []byte(anyOf(o, 2)) {
			m.pairs.add(pair(second, third))
		}
	}
	if len(o) < openBytes {
		m.short = true
		return
	}
	first, second := hash(bytesOf(o))
	m.opens.add(first)
	m.opens.add(second)
}

// anyOf returns the bytes that may stand at k of an opening: all, behind its end.
func anyOf(o string, k int) string {
	if k < len(o) {
		return o[k : k+1]
	}
	return everyByte
}

var everyByte = func() string {
	var all [256]byte
	for i := range all {
		all[i] = byte(i)
	}
	return string(all[:])
}()

// pair returns two bytes as a little-endian load has them.
func pair(first, second byte) uint16 { return uint16(first) | uint16(second)<<8 }

// hash spreads the first openBytes of data over 16 bits, in two ways: a set of which
// both must be members is a Bloom filter. The factor is odd and without pattern.
func hash(data []byte) (first, second uint16) {
	word := uint64(binary.LittleEndian.Uint32(data)) | uint64(binary.LittleEndian.Uint16(data[4:]))<<32
	word *= 0x9e3779b97f4a7c15
	return uint16(word >> 48), uint16(word >> 32)
}

// A bitset is a set of 16-bit numbers.
type bitset [1 << 16 / 64]uint64

func (b *bitset) add(n uint16) { b[n>>6] |= 1 << (n & 63) }

// bit returns a word whose lowest bit says whether n is in the set.
func (b *bitset) bit(n uint16) uint64 { return b[n>>6] >> (n & 63) }

// A hit is a form of a pattern in a text, or the beginning of one at its end.
type hit struct {
	start, end int
	subject    int
	spelling   Spelling
	open       bool // may become one when more bytes come; only start is valid
}

// find returns the first hit in data that starts at from or later; of those that
// start at the same byte, that of the longest pattern. With final nothing follows
// data, and no hit is open.
func (m *matcher) find(data []byte, from int, final bool) (hit, bool) {
	if m == nil {
		return hit{}, false
	}
	for i := from; i+1 < len(data); i += 2 {
		if i = m.candidate(data, i); i+1 >= len(data) {
			break
		}
		for start := max(i-1, from); start <= i; start++ {
			if m.rejects(data[start:]) {
				continue
			}
			if h, ok := m.try(data, start, final); ok {
				return h, true
			}
		}
	}
	// A form that starts in the last bytes hasn't both pairs there.
	for start := max(from, len(data)-pairBytes+1); start < len(data); start++ {
		if h, ok := m.try(data, start, final); ok {
			return h, true
		}
	}
	return hit{}, false
}

// candidate returns the first of the positions i, i+2, … whose pair the filter knows,
// or one from which there is none.
func (m *matcher) candidate(data []byte, i int) int {
	p := &m.pairs
	for ; i+8 <= len(data); i += 8 {
		w := binary.LittleEndian.Uint64(data[i:])
		if (p.bit(uint16(w))|p.bit(uint16(w>>16))|p.bit(uint16(w>>32))|p.bit(uint16(w>>48)))&1 != 0 {
			break
		}
	}
	for ; i+1 < len(data); i += 2 {
		if p.bit(pair(data[i], data[i+1]))&1 != 0 {
			break
		}
	}
	return i
}

// rejects reports whether no form begins as data does.
func (m *matcher) rejects(data []byte) bool {
	if m.short || len(data) < openBytes {
		return false
	}
	first, second := hash(data)
	return m.opens.bit(first)&m.opens.bit(second)&1 == 0
}

// try returns the hit that starts at start.
func (m *matcher) try(data []byte, start int, final bool) (hit, bool) {
	open := false
	data = data[start:]
	for plain, escaped := m.begin(data, final); len(plain)+len(escaped) > 0; {
		// Both are in the order of the patterns' lengths, and so is what is tried.
		next := &plain
		if len(plain) == 0 || len(escaped) > 0 && escaped[0] < plain[0] {
			next = &escaped
		}
		p := &m.patterns[(*next)[0]]
		*next = (*next)[1:]
		n, s, f := p.at(data, final)
		switch {
		case f == fitsSoFar, f == fits && open: // a longer one may still come to fit
			open = true
		case f == fits:
			return hit{start: start, end: start + n, subject: p.subject, spelling: s}, true
		}
	}
	return hit{start: start, open: true}, open
}

// begin returns the patterns that may begin as data does: those whose first byte is
// data's, and those whose first byte is what an escape at its beginning stands for.
func (m *matcher) begin(data []byte, final bool) (plain, escaped []int) {
	var u unit
	var whole bool
	switch plain = m.first[data[0]]; data[0] {
	case '%':
		u, whole = readPercent(data, final)
	case '\\':
		u, whole = readJSON(data, final)
	case '+':
		return plain, m.first[' ']
	default:
		return plain, nil
	}
	switch {
	case !whole:
		return m.all, nil
	case u.width == 1:
		return plain, nil
	}
	return plain, m.first[u.stands[0]]
}

// bytesOf returns the bytes of a string, which must not be written to, without a
// copy.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
