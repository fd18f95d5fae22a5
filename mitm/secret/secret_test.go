package secret

import (
	"strings"
	"testing"
)

// canary is the value of the secret in most tests. No output but an allowed request
// may hold it.
const canary = "sk-live/4f9+\"c0ffee\""

// key returns a secret for api.example.com and the names below dev.example.com.
func key(change ...func(*Secret)) Secret {
	s := Secret{EnvVar: "KEY", Value: NewValue(canary), AllowHosts: []string{"api.example.com"}, AllowHostPatterns: []string{"*.dev.example.com"}}
	for _, c := range change {
		c(&s)
	}
	return s
}

// everywhere permits all places that can be.
func everywhere(s *Secret) { s.InjectQuery, s.InjectBody = true, true }

// newSet returns a set of secrets that are in order.
func newSet(t testing.TB, secrets ...Secret) *Set {
	t.Helper()
	s, _, err := New(Config{Secrets: secrets})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		change func(*Secret)
		want   string // part of the error; none: accepted
	}{
		{"nothing wrong", func(s *Secret) {}, ""},
		{"no name", func(s *Secret) { s.EnvVar = "" }, "no name of an environment variable"},
		{"name with =", func(s *Secret) { s.EnvVar = "A=B" }, "no name of an environment variable"},
		{"name with NUL", func(s *Secret) { s.EnvVar = "A\x00" }, "no name of an environment variable"},
		{"no value", func(s *Secret) { s.Value = Value{} }, "value is empty"},
		{"value with CR", func(s *Secret) { s.Value = NewValue(canary + "\r") }, "value holds a line break or NUL"},
		{"value with LF", func(s *Secret) { s.Value = NewValue(canary + "\n") }, "value holds a line break or NUL"},
		{"value with NUL", func(s *Secret) { s.Value = NewValue(canary + "\x00") }, "value holds a line break or NUL"},
		{"placeholder with LF", func(s *Secret) { s.Placeholder = "a\nb" }, "placeholder holds a line break or NUL"},
		{"longest placeholder", func(s *Secret) { s.Placeholder = strings.Repeat("p", 1024) }, ""},
		{"placeholder too long", func(s *Secret) { s.Placeholder = strings.Repeat("p", 1025) }, "placeholder of 1025 bytes is longer than 1024"},
		{"default placeholder too long", func(s *Secret) { s.EnvVar = strings.Repeat("P", 1020) }, "placeholder of 1025 bytes"},
		{"no hosts", func(s *Secret) { s.AllowHosts, s.AllowHostPatterns = nil, nil }, "no host may get the value"},
		{"hosts only", func(s *Secret) { s.AllowHostPatterns = nil }, ""},
		{"patterns only", func(s *Secret) { s.AllowHosts = nil }, ""},
		{"wildcard among hosts", func(s *Secret) { s.AllowHosts = []string{"*.example.com"} }, `"*.example.com"`},
		{"address among hosts", func(s *Secret) { s.AllowHosts = []string{"192.0.2.1"} }, `"192.0.2.1"`},
		{"pattern that is a host", func(s *Secret) { s.AllowHostPatterns = []string{"example.com"} }, ""},
		{"star alone", func(s *Secret) { s.AllowHostPatterns = []string{"*"} }, "neither a host nor *.suffix"},
		{"star in the middle", func(s *Secret) { s.AllowHostPatterns = []string{"a.*.com"} }, "neither a host nor *.suffix"},
		{"star without dot", func(s *Secret) { s.AllowHostPatterns = []string{"*example.com"} }, "neither a host nor *.suffix"},
		{"two stars", func(s *Secret) { s.AllowHostPatterns = []string{"*.*.com"} }, "neither a host nor *.suffix"},
		{"leading dot", func(s *Secret) { s.AllowHostPatterns = []string{".example.com"} }, "neither a host nor *.suffix"},
		{"unknown action", func(s *Secret) { s.OnViolation = 9 }, "no such action"},
	} {
		set, _, err := New(Config{Secrets: []Secret{key(row.change)}})
		switch {
		case row.want == "" && err != nil:
			t.Errorf("%s: %v", row.name, err)
		case row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)):
			t.Errorf("%s: error %v, want one with %q", row.name, err, row.want)
		case err != nil && set != nil:
			t.Errorf("%s: a set beside the error", row.name)
		}
		if err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("%s: the error quotes the value", row.name)
		}
	}
}

func TestNewReportsAllProblems(t *testing.T) {
	t.Parallel()
	_, _, err := New(Config{Secrets: []Secret{{EnvVar: "A"}, {EnvVar: "="}}, OnViolation: 7})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{`secret "A": value is empty`, `secret "A": no host`, `secret "=": no name`, "no such action: 7"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q:\n%v", want, err)
		}
	}
}

func TestNewSharedPlaceholder(t *testing.T) {
	t.Parallel()
	other := func(value, placeholder string) Secret {
		return key(func(s *Secret) { s.EnvVar, s.Value, s.Placeholder = "OTHER", NewValue(value), placeholder })
	}
	for _, row := range []struct {
		name   string
		second Secret
		ok     bool
	}{
		{"own placeholder", other("another value", ""), true},
		{"shared with the same value", other(canary, "$MSB_KEY"), true},
		{"shared with another value", other("another value", "$MSB_KEY"), false},
	} {
		if _, _, err := New(Config{Secrets: []Secret{key(), row.second}}); (err == nil) != row.ok {
			t.Errorf("%s: error %v", row.name, err)
		}
	}
}

func TestNewWarns(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		change func(*Secret)
		want   string
	}{
		{"long enough", func(s *Secret) { s.Value = NewValue("12345678") }, ""},
		{"short", func(s *Secret) { s.Value = NewValue("1234567") }, "secret KEY is shorter than 8 bytes"},
	} {
		_, warnings, err := New(Config{Secrets: []Secret{key(row.change)}})
		if got := strings.Join(warnings, "; "); err != nil || (row.want == "") != (got == "") || !strings.Contains(got, row.want) {
			t.Errorf("%s: warnings %q, %v, want %q", row.name, got, err, row.want)
		}
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		hosts, patterns, host string
		want                  bool
	}{
		{"api.example.com", "", "api.example.com", true},
		{"API.Example.COM.", "", "api.example.com", true},
		{"bücher.example", "", "xn--bcher-kva.example", true},
		{"api.example.com", "", "example.com", false},
		{"api.example.com", "", "x.api.example.com", false},
		{"api.example.com", "", "api.example.com.evil.io", false},
		{"api.example.com", "", "evilapi.example.com", false},
		{"", "*.example.com", "a.example.com", true},
		{"", "*.example.com", "a.b.example.com", true},
		{"", "*.Example.com", "a.example.com", true},
		{"", "*.example.com", "example.com", false},
		{"", "*.example.com", "evilexample.com", false},
		{"", "*.example.com", ".example.com", false},
		{"", "example.com", "example.com", true},
		{"", "example.com", "a.example.com", false},
		{"api.example.com", "", "", false},
		{"", "*.example.com", "", false},
	} {
		s := Secret{EnvVar: "KEY", Value: NewValue(canary)}
		if row.hosts != "" {
			s.AllowHosts = []string{row.hosts}
		}
		if row.patterns != "" {
			s.AllowHostPatterns = []string{row.patterns}
		}
		set := newSet(t, s)
		if got := set.current.Load().secrets[0].lists(row.host); got != row.want {
			t.Errorf("hosts %q, patterns %q: %q listed %t, want %t", row.hosts, row.patterns, row.host, got, row.want)
		}
	}
}

// TestNewCopies shows that a Set doesn't change with what it was made from.
func TestNewCopies(t *testing.T) {
	t.Parallel()
	s := key()
	set := newSet(t, s)
	s.AllowHosts[0], s.AllowHostPatterns[0] = "evil.example", "*.evil.example"
	if r := set.current.Load().secrets[0]; !r.lists("api.example.com") || r.lists("evil.example") || r.lists("a.evil.example") {
		t.Error("a change of the caller's slices changed the set")
	}
}

func TestActionText(t *testing.T) {
	t.Parallel()
	for a := range ActionBlockAndTerminate + 1 {
		if got, err := ParseAction(a.String()); err != nil || got != a {
			t.Errorf("ParseAction(%q) = %v, %v", a.String(), got, err)
		}
	}
	for _, text := range []string{"allow", "Block", " block", "block-and-log "} {
		if a, err := ParseAction(text); err == nil {
			t.Errorf("ParseAction(%q) = %v", text, a)
		}
	}
	if got := Action(9).String(); got != "Action(9)" {
		t.Errorf("Action(9) prints %q", got)
	}
}

func TestActionDefaults(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ own, set, want Action }{
		{ActionDefault, ActionDefault, ActionBlockAndLog},
		{ActionDefault, ActionBlock, ActionBlock},
		{ActionDefault, ActionBlockAndTerminate, ActionBlockAndTerminate},
		{ActionBlock, ActionBlockAndTerminate, ActionBlock},
		{ActionBlockAndTerminate, ActionBlock, ActionBlockAndTerminate},
		{ActionBlockAndLog, ActionBlock, ActionBlockAndLog},
	} {
		set, _, err := New(Config{Secrets: []Secret{key(func(s *Secret) { s.OnViolation = row.own })}, OnViolation: row.set})
		if err != nil {
			t.Fatal(err)
		}
		if got := set.current.Load().secrets[0].OnViolation; got != row.want {
			t.Errorf("own %q, set's %q: %q, want %q", row.own, row.set, got, row.want)
		}
	}
}
