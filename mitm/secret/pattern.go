package secret

import (
	"encoding/base64"
	"maps"
	"slices"
	"unicode/utf8"
)

// A pattern is a text to look for, in all of its spellings.
//
// Of a placeholder or a value the pattern is the bytes. Of a value in Base64 it is
// sextets, which stand for characters of both alphabets; of the last only those bits
// that are the value's (v), not those of the byte behind it (n):
//
//	bytes    p p p p p p p p  v v v v v v v v  v v v v v v v v  n n n n n n n n
//	sextets  p p p p p p  p p v v v v  v v v v v v  v v v v v v  v v n n n n  …
//	pattern                            1 1 1 1 1 1  1 1 1 1 1 1  1 1 0 0 0 0
//
// The character that the value shares with the byte before it is not part of the
// pattern: every fourth character may be one, so that every fourth piece of a stream
// would be held back. It shows at most four bits of the value's first byte.
type pattern struct {
	subject int    // which placeholder or value this is a form of
	text    []byte // bytes, or sextets where masks isn't nil
	masks   []byte // which bits of each sextet count
	// openings are the first openBytes of every form, or all of a shorter one: at
	// accepts nothing that begins otherwise.
	openings []string
}

// textPattern returns the pattern of a text's bytes.
func textPattern(text string) pattern {
	p := pattern{text: []byte(text)}
	p.open()
	return p
}

// base64Patterns returns the patterns of a text in Base64 behind 0, 1 and 2 bytes
// modulo 3, which is all that the bytes before it change.
func base64Patterns(text string) []pattern {
	patterns := make([]pattern, 3)
	for before := range patterns {
		bits := 8 * before
		end := bits + 8*len(text)
		encoded := base64.RawStdEncoding.EncodeToString(append(make([]byte, before), text...))
		var p pattern
		for first := (bits + 5) / 6 * 6; first < end; first += 6 {
			mask := byte(0x3f)
			if first+6 > end {
				mask &= 0x3f << (first + 6 - end)
			}
			p.text = append(p.text, sextets[encoded[first/6]]&mask)
			p.masks = append(p.masks, mask)
		}
		p.open()
		patterns[before] = p
	}
	return patterns
}

// noSextet is what stands in sextets for a character of neither alphabet.
const noSextet = 0xff

// sextets gives the value of a character of Base64 or Base64url.
var sextets = func() (table [256]byte) {
	for i := range table {
		table[i] = noSextet
	}
	for i, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") {
		table[c] = byte(i)
	}
	table['-'], table['_'] = table['+'], table['/']
	return table
}()

// spelling returns how a text that p matches as s is spelled.
func (p *pattern) spelling(s Spelling) Spelling {
	if p.masks != nil {
		return Base64
	}
	return s
}

// accepts reports whether c may stand at position k.
func (p *pattern) accepts(k int, c byte) bool {
	if p.masks == nil {
		return p.text[k] == c
	}
	s := sextets[c]
	return s != noSextet && s&p.masks[k] == p.text[k]
}

// A fit says how well data begins with a pattern.
type fit uint8

const (
	fitsNot   fit = iota
	fitsSoFar     // all of data is the beginning of it
	fits
)

// at compares the beginning of data with p in each spelling, and returns the
// number of bytes taken. With final nothing follows data, and it fits or not.
func (p *pattern) at(data []byte, final bool) (int, Spelling, fit) {
	n, raw := p.atRaw(data)
	if raw == fits {
		return n, p.spelling(Raw), fits
	}
	n, percent := p.atPercent(data, final)
	if percent == fits {
		return n, p.spelling(Percent), fits
	}
	n, json := p.atJSON(data, final)
	if json == fits {
		return n, p.spelling(JSON), fits
	}
	if !final && max(raw, percent, json) == fitsSoFar {
		return 0, Raw, fitsSoFar
	}
	return 0, Raw, fitsNot
}

// atRaw compares bytes.
func (p *pattern) atRaw(data []byte) (int, fit) {
	for k := range p.text {
		if k == len(data) {
			return 0, fitsSoFar
		}
		if !p.accepts(k, data[k]) {
			return 0, fitsNot
		}
	}
	return len(p.text), fits
}

// atPercent compares data as the decoder of a query would read it.
func (p *pattern) atPercent(data []byte, final bool) (int, fit) {
	i := 0
	for k := range p.text {
		if i == len(data) {
			return 0, fitsSoFar
		}
		u, whole := readPercent(data[i:], final)
		if !whole {
			return 0, fitsSoFar
		}
		if data[i] == '+' && !p.accepts(k, '+') {
			u.stands[0] = ' '
		}
		if !p.accepts(k, u.stands[0]) {
			return 0, fitsNot
		}
		i += u.width
	}
	return i, fits
}

// atJSON compares data as the decoder of a JSON string would read it.
func (p *pattern) atJSON(data []byte, final bool) (int, fit) {
	i := 0
	for k := 0; k < len(p.text); {
		if i == len(data) {
			return 0, fitsSoFar
		}
		u, whole := readJSON(data[i:], final)
		if !whole {
			return 0, fitsSoFar
		}
		for _, c := range u.stands[:u.n] {
			if k == len(p.text) || !p.accepts(k, c) {
				return 0, fitsNot
			}
			k++
		}
		i += u.width
	}
	return i, fits
}

// open sets the openings.
func (p *pattern) open() {
	found := make(map[string]bool)
	for _, s := range [...]Spelling{Raw, Percent, JSON} {
		p.openFrom(make([]byte, 0, openBytes), 0, s, found)
	}
	p.openings = slices.Sorted(maps.Keys(found))
}

// openFrom extends an opening, whose capacity is its full length, by the forms of p's
// text from position k on.
func (p *pattern) openFrom(opening []byte, k int, s Spelling, found map[string]bool) {
	if len(opening) == cap(opening) || k == len(p.text) {
		found[string(opening)] = true
		return
	}
	extend := func(form string, next int) {
		p.openFrom(append(opening, form[:min(len(form), cap(opening)-len(opening))]...), next, s, found)
	}
	for c := range 256 {
		if !p.accepts(k, byte(c)) {
			continue
		}
		for _, form := range byteForms(byte(c), s) {
			extend(form, k+1)
		}
	}
	if p.masks == nil && s == JSON {
		if r, size := utf8.DecodeRune(p.text[k:]); r >= utf8.RuneSelf && size > 1 {
			for _, form := range runeForms(r) {
				extend(form, k+size)
			}
		}
	}
}
