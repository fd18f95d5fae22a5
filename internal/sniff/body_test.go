package sniff

import (
	"strings"
	"testing"
)

func TestBody(t *testing.T) {
	t.Parallel()
	const reason = "chunked body isn't strictly framed"
	for _, row := range []struct {
		name, in string
		taken    int    // bytes of in that belong to the body
		reason   string // why the next one is refused
	}{
		{"one chunk", "5\r\nhello\r\n0\r\n\r\nGET", 15, ""},
		{"two chunks", "5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\nGET", 30, ""},
		{"size in any case, zeros before it", "0b\r\n0123456789X\r\n0B\r\n0123456789X\r\n000\r\n\r\nGET", 41, ""},
		{"every digit", "afAF09\r\n", 8, ""},
		{"no digit", "g\r\n", 0, reason}, {"no digit in upper case", "G\r\n", 0, reason},
		{"no chunk", "0\r\n\r\nGET", 5, ""},
		{"trailers", "0\r\nX-Sum: 1\r\nY:\r\n\r\nGET", 19, ""},
		{"incomplete", "5\r\nhel", 6, ""},
		{"largest chunk", "fffffffffffffff\r\nhello", 22, ""},

		{"extension", "5;x=y\r\nhello\r\n0\r\n\r\n", 1, reason},
		{"no size", "\r\n", 0, reason},
		{"blank before the size", " 5\r\nhello", 0, reason},
		{"blank behind the size", "5 \r\nhello", 1, reason},
		{"size ends in LF", "5\nhello", 1, reason},
		{"size ends in CR", "5\rhello", 2, reason},
		{"size as in C", "0x5\r\nhello", 1, reason},
		{"size of 16 digits", "0000000000000005\r\nhello", 15, reason},
		{"negative size", "-1\r\n", 0, reason},
		{"chunk longer than said", "5\r\nhello!\r\n0\r\n\r\n", 8, reason},
		{"chunk ends in LF", "5\r\nhello\n0\r\n\r\n", 8, reason},
		{"chunk ends in CR", "5\r\nhello\r0\r\n\r\n", 9, reason},
		{"end in LF", "0\r\n\nGET", 3, reason},
		{"end in CR", "0\r\n\rGET", 4, reason},
		{"trailer without name", "0\r\n: y\r\n\r\n", 3, reason},
		{"trailer with a blank behind its name", "0\r\nX : y\r\n\r\n", 4, reason},
		{"trailer folded", "0\r\nX: y\r\n z\r\n\r\n", 9, reason},
		{"trailer with NUL", "0\r\nX: \x00\r\n\r\n", 6, reason},
		{"trailer ends in LF", "0\r\nX: y\n\r\n", 7, reason},
		{"trailer ends in CR", "0\r\nX: y\r\r\n", 8, reason},
	} {
		for n := 1; n <= len(row.in); n++ {
			b := body{part: chunkSize}
			if taken, reason := takeAll(&b, row.in, n); taken != row.taken || reason != row.reason {
				t.Errorf("%s, %d bytes at a time: got %d, %q, want %d, %q", row.name, n, taken, reason, row.taken, row.reason)
			}
			if _, again := b.take([]byte(row.in[row.taken:])); again != row.reason {
				t.Errorf("%s: the second time got %q, want %q", row.name, again, row.reason)
			}
		}
	}
}

// takeAll hands s to b in pieces of n bytes.
func takeAll(b *body, s string, n int) (taken int, reason string) {
	for s != "" {
		piece := s[:min(n, len(s))]
		k, reason := b.take([]byte(piece))
		taken += k
		if k < len(piece) {
			return taken, reason
		}
		s = s[len(piece):]
	}
	return taken, ""
}

func TestBodyOfKnownLength(t *testing.T) {
	t.Parallel()
	b := body{part: plainData, left: 1 << 40}
	piece := []byte(strings.Repeat("x", 1<<16))
	for range 3 {
		if n, reason := b.take(piece); n != len(piece) || reason != "" {
			t.Fatalf("got %d, %q", n, reason)
		}
	}
	b.left = 5
	if n, reason := b.take(piece); n != 5 || reason != "" || b.part != bodyEnd {
		t.Errorf("got %d, %q, %+v", n, reason, b)
	}
	if n, _ := b.take(piece); n != 0 {
		t.Errorf("took %d bytes behind the end", n)
	}
}
