package secret

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestReadPercent(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		data, stands string
		width        int
		whole        bool
	}{
		{"a%24", "a", 1, true},
		{"%24M", "$", 3, true},
		{"%2f", "/", 3, true},
		{"%2F", "/", 3, true},
		{"%ff", "\xff", 3, true},
		{"%2524", "%", 3, true}, // one level
		{"%", "", 0, false},
		{"%2", "", 0, false},
		{"%g", "%", 1, true},
		{"%2g", "%", 1, true},
		{"%%24", "%", 1, true},
		{"+", "+", 1, true}, // a space to who compares
	} {
		u, whole := readPercent([]byte(row.data), false)
		if got := string(u.stands[:u.n]); got != row.stands || u.width != row.width || whole != row.whole {
			t.Errorf("readPercent(%q) = %q, %d, %t, want %q, %d, %t", row.data, got, u.width, whole, row.stands, row.width, row.whole)
		}
	}
}

func TestReadJSON(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		data, stands string
		width        int
		whole        bool
	}{
		{`a\n`, "a", 1, true},
		{`\"`, `"`, 2, true},
		{`\\u0024`, `\`, 2, true}, // one level
		{`\/`, "/", 2, true},
		{`\b`, "\b", 2, true},
		{`\f`, "\f", 2, true},
		{`\n`, "\n", 2, true},
		{`\r`, "\r", 2, true},
		{`\t`, "\t", 2, true},
		{`\u0024`, "$", 6, true},
		{`\u002F`, "/", 6, true},
		{`\u002f`, "/", 6, true},
		{`\u00e9x`, "é", 6, true},
		{`\u20AC`, "€", 6, true},
		{`\ud83d\ude00`, "😀", 12, true},
		{`\uD83D\uDE00`, "😀", 12, true},
		{`\ud83dx`, "\ufffd", 6, true},
		{`\ud83d\n`, "\ufffd", 6, true},
		{`\ud83d\u0024`, "\ufffd", 6, true},
		{`\ude00`, "\ufffd", 6, true},
		{`\ud83d`, "", 0, false},
		{`\ud83d\`, "", 0, false},
		{`\ud83d\u`, "", 0, false},
		{`\ud83d\ude0`, "", 0, false},
		{`\`, "", 0, false},
		{`\u`, "", 0, false},
		{`\u002`, "", 0, false},
		{`\u00g4`, `\`, 1, true},
		{`\ug`, `\`, 1, true},
		{`\U0024`, `\`, 1, true},
		{`\x24`, `\`, 1, true},
	} {
		u, whole := readJSON([]byte(row.data), false)
		if got := string(u.stands[:u.n]); got != row.stands || u.width != row.width || whole != row.whole {
			t.Errorf("readJSON(%q) = %q, %d, %t, want %q, %d, %t", row.data, got, u.width, whole, row.stands, row.width, row.whole)
		}
	}
}

// FuzzAppendSpelled shows that the standard library reads what is written, and so
// do the package's own readers.
func FuzzAppendSpelled(f *testing.F) {
	for _, text := range []string{"", canary, "a b+c&d=e#f", "\t\x01\x7f\"\\/", "é€😀", "\xff\xfe", `%41\u0041`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		percent := string(appendSpelled(nil, text, Percent))
		for name, unescape := range map[string]func(string) (string, error){"query": url.QueryUnescape, "path": url.PathUnescape} {
			if got, err := unescape(percent); err != nil || got != text {
				t.Errorf("%q in a %s is %q and reads %q, %v", text, name, percent, got, err)
			}
		}
		if i := strings.IndexAny(percent, "&=#?/ +\"<>"); i >= 0 {
			t.Errorf("%q has a %q when percent-encoded", text, percent[i])
		}
		escaped := string(appendSpelled(nil, text, JSON))
		if utf8.ValidString(text) {
			var got string
			if err := json.Unmarshal([]byte(`"`+escaped+`"`), &got); err != nil || got != text {
				t.Errorf("%q in JSON is %q and reads %q, %v", text, escaped, got, err)
			}
		}
		if got := readAll(percent, readPercent); got != text {
			t.Errorf("%q percent-encoded reads %q", text, got)
		}
		if got := readAll(escaped, readJSON); got != text {
			t.Errorf("%q JSON-escaped reads %q", text, got)
		}
		for _, s := range []Spelling{Raw, Base64} {
			if got := string(appendSpelled(nil, text, s)); got != text {
				t.Errorf("%q %s is %q", text, s, got)
			}
		}
	})
}

func readAll(text string, read func([]byte, bool) (unit, bool)) string {
	var got []byte
	for text != "" {
		u, whole := read([]byte(text), true)
		if !whole {
			return string(got) + "[cut]" + text
		}
		got = append(got, u.stands[:u.n]...)
		text = text[u.width:]
	}
	return string(got)
}

func TestSpellingString(t *testing.T) {
	t.Parallel()
	for s, want := range []string{"raw", "percent-encoded", "JSON-escaped", "Base64", "Spelling(4)"} {
		if got := Spelling(s).String(); got != want {
			t.Errorf("Spelling(%d) prints %q, want %q", s, got, want)
		}
	}
}
