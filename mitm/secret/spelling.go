package secret

import (
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// A Spelling is a way to write a text.
type Spelling uint8

const (
	Raw     Spelling = iota // as it is
	Percent                 // percent-encoded, RFC 3986 section 2.1, or form-urlencoded ("+" for a space)
	JSON                    // with the escapes of a JSON string, RFC 8259 section 7
	Base64                  // in Base64 or Base64url, RFC 4648; only values are looked for in it
)

// String returns the spelling's name.
func (s Spelling) String() string {
	switch s {
	case Raw:
		return "raw"
	case Percent:
		return "percent-encoded"
	case JSON:
		return "JSON-escaped"
	case Base64:
		return "Base64"
	}
	return fmt.Sprintf("Spelling(%d)", uint8(s))
}

// A unit is the smallest part of a text that stands for something: a byte, or an
// escape that stands for up to four.
type unit struct {
	stands [utf8.UTFMax]byte // for these
	n      int               // how many
	width  int               // how many bytes it takes itself
}

// literal returns the unit of a byte that stands for itself.
func literal(c byte) unit { return unit{stands: [utf8.UTFMax]byte{c}, n: 1, width: 1} }

// readPercent returns the first unit of data, which isn't empty. It reports false
// if data ends in the middle of what may be an escape, and more may follow.
func readPercent(data []byte, final bool) (unit, bool) {
	if data[0] != '%' {
		return literal(data[0]), true
	}
	c, n := hex(data[1:], 2)
	switch {
	case n == 2:
		u := literal(byte(c))
		u.width = 3
		return u, true
	case n == len(data)-1 && !final:
		return unit{}, false
	}
	return literal('%'), true
}

// shortEscapes are JSON's two-character escapes: what follows the backslash, and
// what both stand for.
const (
	shortEscapes  = `"\/bfnrt`
	shortMeanings = "\"\\/\b\f\n\r\t"
)

// readJSON returns the first unit of data as readPercent does. What isn't an escape
// stands for itself, half a surrogate pair for U+FFFD.
func readJSON(data []byte, final bool) (unit, bool) {
	if data[0] != '\\' || len(data) == 1 && final {
		return literal(data[0]), true
	}
	if len(data) == 1 {
		return unit{}, false
	}
	for i := range len(shortEscapes) {
		if data[1] == shortEscapes[i] {
			u := literal(shortMeanings[i])
			u.width = 2
			return u, true
		}
	}
	r, whole := readEscape(data)
	switch {
	case !whole && !final:
		return unit{}, false
	case r < 0:
		return literal('\\'), true
	}
	u := unit{width: 6}
	if 0xd800 <= r && r < 0xdc00 { // the high half of a pair
		low, whole := readEscape(data[6:])
		if !whole && !final {
			return unit{}, false
		}
		if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
			r, u.width = pair, 12
		}
	}
	u.n = utf8.EncodeRune(u.stands[:], r) // U+FFFD of a half
	return u, true
}

// readEscape returns the UTF-16 code of the \u escape with which data begins, -1 if
// it begins with none. It reports false if it ends before that can be told.
func readEscape(data []byte) (rune, bool) {
	const prefix = `\u`
	if n := min(len(data), len(prefix)); string(data[:n]) != prefix[:n] {
		return -1, true
	} else if n < len(prefix) {
		return -1, false
	}
	v, n := hex(data[len(prefix):], 4)
	if n < 4 {
		return -1, n < len(data)-len(prefix)
	}
	return rune(v), true
}

// hex reads up to limit hexadecimal digits and returns their value and number.
func hex(data []byte, limit int) (value uint32, n int) {
	for n < limit && n < len(data) {
		c := data[n]
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return value, n
		}
		value, n = value<<4|uint32(c), n+1
	}
	return value, n
}

// appendSpelled appends text in a spelling. For Base64 there is no such thing, since
// what stands around a text belongs to it; the text is appended as it is.
func appendSpelled(dst []byte, text string, s Spelling) []byte {
	switch s {
	case Percent:
		return appendPercent(dst, text)
	case JSON:
		return appendJSON(dst, text)
	}
	return append(dst, text...)
}

// appendPercent encodes all but the unreserved characters of RFC 3986 section
// 2.3, so that the result means text in a query, a path and a form alike.
func appendPercent(dst []byte, text string) []byte {
	const digits = "0123456789ABCDEF"
	for i := range len(text) {
		switch c := text[i]; {
		case 'a' <= c|0x20 && c|0x20 <= 'z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == '~':
			dst = append(dst, c)
		default:
			dst = append(dst, '%', digits[c>>4], digits[c&15])
		}
	}
	return dst
}

// appendJSON escapes what must be escaped inside of a JSON string, RFC 8259
// section 7.
func appendJSON(dst []byte, text string) []byte {
	const digits = "0123456789abcdef"
	for i := range len(text) {
		switch c := text[i]; {
		case c == '"', c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ':
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return dst
}
