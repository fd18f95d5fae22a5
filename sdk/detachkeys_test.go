package sdk

import (
	"errors"
	"testing"
)

// TestParseDetachKeys checks keys as docker writes them.
func TestParseDetachKeys(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text, want string
		ok         bool
	}{
		{"", "", true},
		{"ctrl-p,ctrl-q", "\x10\x11", true},
		{"ctrl-@", "\x00", true},
		{`ctrl-\`, "\x1c", true},
		{"ctrl-_", "\x1f", true},
		{"a,b", "ab", true},
		{"ctrl-1", "", false},
		{"ctrl-", "", false},
		{"ctrl-pq", "", false},
		{"a,,b", "", false},
		{",", "", false},
		{"é", "", false},
	} {
		got, err := parseDetachKeys(tt.text)
		if string(got) != tt.want || (err == nil) != tt.ok {
			t.Errorf("%q: %q, %v, want %q, %v", tt.text, got, err, tt.want, tt.ok)
		}
	}
}

// TestDetachFilter checks that the keys are found however they are typed, and
// that nothing else is lost.
func TestDetachFilter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		keys     string
		typed    []string
		want     string
		detached bool
	}{
		{"", []string{"abc"}, "abc", false},
		{"PQ", []string{"abc"}, "abc", false},
		{"PQ", []string{"aPQb"}, "a", true},
		{"PQ", []string{"aP", "Qb"}, "a", true},
		{"PQ", []string{"aP", "b"}, "aPb", false},
		{"PQ", []string{"P", "P", "P", "Q"}, "PP", true},
		{"PQ", []string{"P"}, "", false},
		{"P", []string{"xP"}, "x", true},
		{"AAB", []string{"A", "A", "A", "B"}, "A", true},
		{"ABAC", []string{"ABA", "BAC"}, "AB", true},
		{"ABAC", []string{"AB", "", "D"}, "ABD", false},
	} {
		f := detachFilter{keys: []byte(tt.keys)}
		got, detached := "", false
		for _, p := range tt.typed {
			out, err := f.pass([]byte(p))
			got += string(out)
			if errors.Is(err, errDetached) {
				detached = true
				break
			}
		}
		if got != tt.want || detached != tt.detached {
			t.Errorf("keys %q, typed %q: %q and %v, want %q and %v", tt.keys, tt.typed, got, detached, tt.want, tt.detached)
		}
	}
}

// FuzzDetachFilter checks against the whole of what was typed, however it was
// cut into pieces.
func FuzzDetachFilter(f *testing.F) {
	f.Add("PQ", "aPPQb", uint8(1))
	f.Add("AAB", "AAAAB", uint8(2))
	f.Fuzz(func(t *testing.T, keys, typed string, cut uint8) {
		whole := detachFilter{keys: []byte(keys)}
		want, wantErr := whole.pass([]byte(typed))
		pieces := detachFilter{keys: []byte(keys)}
		var got []byte
		var err error
		for rest := []byte(typed); len(rest) > 0 && err == nil; {
			n := min(int(cut%7)+1, len(rest))
			var out []byte
			out, err = pieces.pass(rest[:n])
			got = append(got, out...)
			rest = rest[n:]
		}
		if string(got) != string(want) || !errors.Is(err, wantErr) {
			t.Errorf("in pieces %q, %v; whole %q, %v", got, err, want, wantErr)
		}
	})
}
