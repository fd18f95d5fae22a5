package secret

import (
	"encoding/binary"
	"slices"
	"unsafe"
)

// opening is the number of bytes of a form that the filter knows.
const opening = 3

// A matcher finds the first of several patterns in a text. It is immutable.
//
// Most bytes of most texts begin no form. The filter is a set of byte pairs: those
// at offset 0 and 1 of any form. So of each two neighbouring positions one look-up
// is enough, and four of them fit in a load of eight bytes.
type matcher struct {
	patterns []pattern
	filter   [1 << 16 / 64]uint64
	heads    [256][]int // the patterns of which a form begins with a byte, longest first
}

// newMatcher returns the matcher of patterns, nil for none.
func newMatcher(patterns []pattern) *matcher {
	if len(patterns) == 0 {
		return nil
	}
	patterns = slices.Clone(patterns)
	slices.SortStableFunc(patterns, func(a, b pattern) int { return len(b.text) - len(a.text) })
	m := &matcher{patterns: patterns}
	for i := range patterns {
		patterns[i].openings(make([]byte, 0, opening), func(o []byte) { m.add(i, o) })
	}
	return m
}

// add takes an opening of pattern i, shorter than the constant where the whole
// form is.
func (m *matcher) add(i int, o []byte) {
	if head := &m.heads[o[0]]; len(*head) == 0 || (*head)[len(*head)-1] != i {
		*head = append(*head, i)
	}
	for _, first := range anyOf(o, 0) {
		for _, second := range anyOf(o, 1) {
			m.mark(first, second)
			for _, third := range anyOf(o, 2) {
				m.mark(second, third)
			}
		}
	}
}

// anyOf returns the bytes that may stand at k of an opening: all, behind its end.
func anyOf(o []byte, k int) []byte {
	if k < len(o) {
		return o[k : k+1]
	}
	return everyByte
}

var everyByte = func() []byte {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	return all
}()

func (m *matcher) mark(first, second byte) {
	pair := uint16(first) | uint16(second)<<8
	m.filter[pair>>6] |= 1 << (pair & 63)
}

// marked reports whether a pair of bytes, the first in the low byte, may be at
// offset 0 or 1 of a form.
func (m *matcher) marked(pair uint16) bool {
	return m.filter[pair>>6]>>(pair&63)&1 != 0
}

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
	i := from
	for i+1 < len(data) {
		if i = m.candidate(data, i); i+1 >= len(data) {
			break
		}
		for start := max(i-1, from); start <= i; start++ {
			if h, ok := m.try(data, start, final); ok {
				return h, true
			}
		}
		i += 2
	}
	// A form that starts in the last bytes has no two bytes for the filter.
	for start := max(from, len(data)-opening+1); start < len(data); start++ {
		if h, ok := m.try(data, start, final); ok {
			return h, true
		}
	}
	return hit{}, false
}

// candidate returns the first position i, i+2, … at which the filter knows the two
// bytes there, or one from which there aren't two.
func (m *matcher) candidate(data []byte, i int) int {
	for ; i+8 <= len(data); i += 8 {
		w := binary.LittleEndian.Uint64(data[i:])
		a, b, c, d := uint16(w), uint16(w>>16), uint16(w>>32), uint16(w>>48)
		bits := m.filter[a>>6]>>(a&63) | m.filter[b>>6]>>(b&63) | m.filter[c>>6]>>(c&63) | m.filter[d>>6]>>(d&63)
		if bits&1 != 0 {
			break
		}
	}
	for ; i+1 < len(data); i += 2 {
		if m.marked(binary.LittleEndian.Uint16(data[i:])) {
			break
		}
	}
	return i
}

// try returns the hit that starts at start.
func (m *matcher) try(data []byte, start int, final bool) (hit, bool) {
	open := false
	for _, i := range m.heads[data[start]] {
		p := &m.patterns[i]
		n, s, f := p.at(data[start:], final)
		switch {
		case f == fitsSoFar, f == fits && open: // a longer one may still come to fit
			open = true
		case f == fits:
			return hit{start: start, end: start + n, subject: p.subject, spelling: s}, true
		}
	}
	return hit{start: start, open: true}, open
}

// bytesOf returns the bytes of a string, which must not be written to, without a
// copy.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
