package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// texts returns the matcher of texts, each a subject of its own.
func texts(list ...string) *matcher {
	var patterns []pattern
	for i, text := range list {
		patterns = append(patterns, textPattern(text))
		patterns[i].subject = i
	}
	return newMatcher(patterns)
}

func TestFind(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		patterns, data string // patterns separated by spaces
		want           string // "start end subject spelling", "open start" or ""
	}{
		{"$MSB_KEY", "", ""},
		{"$MSB_KEY", "nothing", ""},
		{"$MSB_KEY", "$MSB_KEY", "0 8 0 raw"},
		{"$MSB_KEY", "x$MSB_KEY", "1 9 0 raw"},
		{"$MSB_KEY", "xx$MSB_KEYxx", "2 10 0 raw"},
		{"$MSB_KEY", "$$MSB_KEY", "1 9 0 raw"},
		{"$MSB_KEY", "$MSB_$MSB_KEY", "5 13 0 raw"},
		{"$MSB_KEY", "$MSB_KEX", ""},
		{"$MSB_KEY", "$msb_key", ""},
		{"$MSB_KEY", "..$MSB_KE", "open 2"},
		{"$MSB_KEY", ".$", "open 1"},
		{"$MSB_KEY", "%24MSB_KEY", "0 10 0 percent-encoded"},
		{"$MSB_KEY", "%24%4d%53%42%5F%4B%45%59.", "0 24 0 percent-encoded"},
		{"$MSB_KEY", "$MSB%5fKEY", "0 10 0 percent-encoded"},
		{"$MSB_KEY", "%2524MSB_KEY", ""},
		{"$MSB_KEY", "%2", "open 0"},
		{"$MSB_KEY", "$MSB%", "open 0"},
		{"$MSB_KEY", `\u0024MSB_KEY`, "0 13 0 JSON-escaped"},
		{"$MSB_KEY", `.\u0024\u004d\u0053\u0042\u005f\u004B\u0045\u0059`, "1 49 0 JSON-escaped"},
		{"$MSB_KEY", `$MSB\u005FKEY`, "0 13 0 JSON-escaped"},
		{"$MSB_KEY", `$MSB\u005`, "open 0"},
		{"$MSB_KEY", `\`, "open 0"},
		{"$MSB_KEY", `\u0025MSB_KEY`, ""},
		{"a/b\"c", `a\/b\"c`, "0 7 0 JSON-escaped"},
		{"a+b", "a+b", "0 3 0 raw"},
		{"a+b", "a%2Bb", "0 5 0 percent-encoded"},
		{"a+b", "a+b%20", "0 3 0 raw"},
		{"%41", "%41", "0 3 0 raw"},
		{"%41", "%2541", "0 5 0 percent-encoded"},
		{"%41", "A", ""},
		{`\n`, `\n`, "0 2 0 raw"},
		{`\n`, `\\n`, "0 3 0 JSON-escaped"}, // leftmost: the raw one starts at 1
		{"é", `\u00e9`, "0 6 0 JSON-escaped"},
		{"é", `%C3%a9`, "0 6 0 percent-encoded"},
		{"😀", `\ud83d\uDE00`, "0 12 0 JSON-escaped"},
		{"😀", `\ud83d`, "open 0"},
		{"x", "yx", "1 2 0 raw"},
		{"x", "y%78", "1 4 0 percent-encoded"},
		{"xy", "xxy", "1 3 0 raw"},
		{"$MSB_A $MSB_AB", "$MSB_AB", "0 7 1 raw"}, // the longest
		{"$MSB_A $MSB_AB", "$MSB_AC", "0 6 0 raw"},
		{"$MSB_A $MSB_AB", "$MSB_A", "open 0"}, // may become the longer one
		{"$MSB_AB $MSB_A", "$MSB_A%4", "open 0"},
		{"abcd bc", "abcx", "1 3 1 raw"},
		{"abcd bc", "abc", "open 0"},
		{"ab bcd", "abcd", "0 2 0 raw"}, // the first
	} {
		m := texts(strings.Fields(row.patterns)...)
		if got := describe(m.find([]byte(row.data), 0, false)); got != row.want {
			t.Errorf("%q in %q: %q, want %q", row.patterns, row.data, got, row.want)
		}
		got := describe(m.find([]byte(row.data), 0, true))
		if got != describe(oracle(m, row.data)) || strings.HasPrefix(got, "open") {
			t.Errorf("%q in all of %q: %q, the oracle says %q", row.patterns, row.data, got, describe(oracle(m, row.data)))
		}
	}
}

func TestFindSpace(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]string{"my key": "0 6 0 raw", "my+key": "0 6 0 percent-encoded", "my%20key": "0 8 0 percent-encoded", `my\u0020key`: "0 11 0 JSON-escaped"} {
		if got := describe(texts("my key").find([]byte(data), 0, false)); got != want {
			t.Errorf("%q: %q, want %q", data, got, want)
		}
	}
}

func TestFindWithoutPatterns(t *testing.T) {
	t.Parallel()
	if h, ok := newMatcher(nil).find([]byte("abc"), 0, true); ok {
		t.Errorf("found %+v", h)
	}
}

func describe(h hit, ok bool) string {
	switch {
	case !ok:
		return ""
	case h.open:
		return fmt.Sprintf("open %d", h.start)
	}
	return fmt.Sprintf("%d %d %d %s", h.start, h.end, h.subject, h.spelling)
}

// tokens cut a text into what its decoders read one after another.
var tokens = map[Spelling]*regexp.Regexp{
	Raw:     regexp.MustCompile(`(?s)^.`),
	Percent: regexp.MustCompile(`(?s)^(?:%[0-9A-Fa-f]{2}|.)`),
	JSON:    regexp.MustCompile(`(?s)^(?:\\u[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\["\\/bfnrt]|.)`),
}

// oracle is find in a whole text, by trying every text at every position, with
// regular expressions and the standard library's decoders.
func oracle(m *matcher, data string) (hit, bool) {
	for start := range len(data) {
		for _, p := range m.patterns {
			for _, s := range []Spelling{Raw, Percent, JSON} {
				if n, ok := oracleAt(string(p.text), data[start:], s); ok {
					return hit{start: start, end: start + n, subject: p.subject, spelling: s}, true
				}
			}
		}
	}
	return hit{}, false
}

func oracleAt(text, data string, s Spelling) (int, bool) {
	n := 0
	for text != "" {
		size := 1 // a byte that is no UTF-8
		if data == "" {
			return 0, false
		} else if data[0] == '%' || data[0] == '\\' {
			size = len(tokens[s].FindString(data))
		}
		token := data[:size]
		data = data[size:]
		n += size
		switch {
		case size == 1 && token == "+" && s == Percent && text[0] != '+':
			token = " "
		case size > 1 && s == Percent:
			fmt.Sscanf(token, "%%%x", &size)
			token = string([]byte{byte(size)})
		case size > 1 && s == JSON:
			if err := json.Unmarshal([]byte(`"`+token+`"`), &token); err != nil {
				panic(err)
			}
		}
		rest, ok := strings.CutPrefix(text, token)
		if !ok {
			return 0, false
		}
		text = rest
	}
	return n, true
}

// confusing are the pieces of which random texts are made: those that forms are made
// of, so that forms, halves of forms and what looks like them are frequent.
var confusing = []string{"a", "b", "$", "%", `\`, "u", "0", "2", "4", "6", "1", "5", "c", "C", "\"", "/", "+", " ", "%61", "%2", "%62", "%25", `\u0061`, `\u00`, `\"`, `\\`, `\/`, "é", `\u00e9`, `\u00E9`, "%c3%A9", "😀", `\ud83d\ude00`, `\ud83d`, "\xff", "%24"}

func confuse(rnd *rand.Rand, pieces int) string {
	var b strings.Builder
	for range rnd.IntN(pieces + 1) {
		b.WriteString(confusing[rnd.IntN(len(confusing))])
	}
	return b.String()
}

func TestFindAgainstOracle(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	found := 0
	for range 30_000 {
		var patterns []string
		for range 1 + rnd.IntN(3) {
			if p := confuse(rnd, 4); p != "" {
				patterns = append(patterns, p)
			}
		}
		if patterns == nil {
			continue
		}
		m, data := texts(patterns...), confuse(rnd, 40)
		if rnd.IntN(2) == 0 {
			data += respell(rnd, patterns[0]) + confuse(rnd, 10)
		}
		got, want := describe(m.find([]byte(data), 0, true)), describe(oracle(m, data))
		if got != want {
			t.Fatalf("%q in %q: %q, the oracle says %q", patterns, data, got, want)
		}
		if got != "" {
			found++
		}
	}
	if found < 10_000 {
		t.Errorf("only %d cases had a hit", found)
	}
}

// respell writes a text in one of the spellings, each character escaped or not.
func respell(rnd *rand.Rand, text string) string {
	var b strings.Builder
	spelling := rnd.IntN(3)
	for _, r := range text {
		if r == '\ufffd' {
			return text // no character: can't be escaped
		}
		switch {
		case spelling == 1 && rnd.IntN(2) == 0:
			for _, c := range []byte(string(r)) {
				b.WriteString(anyCase(rnd, fmt.Sprintf("%%%02x", c)))
			}
		case spelling == 2 && rnd.IntN(2) == 0 && r < 0x10000:
			b.WriteString(`\u` + anyCase(rnd, fmt.Sprintf("%04x", r)))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func anyCase(rnd *rand.Rand, text string) string {
	out := []byte(text)
	for i, c := range out {
		if 'a' <= c && c <= 'f' && rnd.IntN(2) == 0 {
			out[i] = c - 'a' + 'A'
		}
	}
	return string(out)
}

// FuzzFind compares with the oracle, and shows that what find says of a part of a
// text holds for all of it.
func FuzzFind(f *testing.F) {
	f.Add("$MSB_KEY", "$MSB_KE", []byte(`a$MSB_%4bEY\u0024MSB_KE`))
	f.Add("a", "%", []byte("%%61%"))
	f.Add(`\\\\\\\\`, `\\`, []byte(`\\\\\\\\\\\\\\\\x`))
	f.Add("😀é", "\xff", []byte(`\ud83d\ude00\u00e9`))
	f.Fuzz(func(t *testing.T, first, second string, data []byte) {
		if first == "" || second == "" || len(first)+len(second) > 100 || len(data) > 400 {
			return
		}
		m := texts(first, second)
		whole := describe(m.find(data, 0, true))
		if want := describe(oracle(m, string(data))); whole != want {
			t.Fatalf("%q, %q in %q: %q, the oracle says %q", first, second, data, whole, want)
		}
		for n := range data {
			h, ok := m.find(data[:n], 0, false)
			switch got := describe(h, ok); {
			case ok && !h.open && got != whole:
				t.Errorf("%q in the first %d bytes of %q, %q in all of it", got, n, data, whole)
			case !ok && whole != "" && startOf(whole) < n, h.open && whole != "" && startOf(whole) < h.start:
				t.Errorf("nothing before %d in the first %d bytes of %q, %q in all of it", h.start, n, data, whole)
			}
		}
	})
}

func startOf(described string) (start int) {
	fmt.Sscan(described, &start)
	return start
}

// TestBase64 shows that a value is found in every Base64 text that holds it, and that
// the hit is exactly what depends on it.
func TestBase64(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(3, 4))
	encodings := []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding}
	for range 1000 {
		value, before, after := randomBytes(rnd, 8+rnd.IntN(20)), randomBytes(rnd, rnd.IntN(10)), randomBytes(rnd, rnd.IntN(10))
		m := newMatcher(base64Patterns(string(value)))
		text := encodings[rnd.IntN(4)].EncodeToString(slices.Concat(before, value, after))
		first, end := (8*len(before)+5)/6, (8*(len(before)+len(value))+5)/6
		if got, want := describe(m.find([]byte(text), 0, true)), fmt.Sprintf("%d %d 0 Base64", first, end); got != want {
			t.Fatalf("%x behind %x in %s: %q, want %q", value, before, text, got, want)
		}
		changed := bytes.Clone(value)
		changed[1+rnd.IntN(len(changed)-1)] ^= 1 << rnd.IntN(8)
		text = encodings[rnd.IntN(4)].EncodeToString(slices.Concat(before, changed, after))
		if h, ok := m.find([]byte(text), 0, true); ok {
			t.Fatalf("%x found in %s, which holds %x: %+v", value, text, changed, h)
		}
	}
}

func randomBytes(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// TestBase64Escaped: what holds the value in Base64 may itself be escaped.
func TestBase64Escaped(t *testing.T) {
	t.Parallel()
	m := newMatcher(base64Patterns("\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8")) // //79/Pv6+fg=
	for data, want := range map[string]string{
		"//79/Pv6+fg=":            "0 11 0 Base64",
		"__79_Pv6-fg":             "0 11 0 Base64",
		`\/\/79\/Pv6+fg=`:         "0 14 0 Base64",
		"%2F%2f79%2FPv6%2Bfg%3D":  "0 19 0 Base64",
		`\u002f/79/Pv6\u002bfg==`: "0 21 0 Base64",
		"//79/Pv6+f":              "open 0",
		"//79/Pv6 fg":             "",
	} {
		if got := describe(m.find([]byte(data), 0, false)); got != want {
			t.Errorf("%s: %q, want %q", data, got, want)
		}
	}
}
