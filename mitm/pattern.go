package mitm

import (
	"fmt"
	"strings"

	"github.com/sluicenet/sluice/policy"
)

// A Pattern matches one name, or the names below one. The zero Pattern matches
// nothing; make one with ParsePattern.
type Pattern struct {
	name  string
	below bool
}

// ParsePattern reads "example.com", or "*.example.com" for the subdomains of
// example.com at any depth, but not itself. Any other wildcard is an error.
func ParsePattern(s string) (Pattern, error) {
	rest, below := strings.CutPrefix(s, "*.")
	if strings.Contains(rest, "*") {
		return Pattern{}, fmt.Errorf("read pattern %q: a wildcard stands only for the whole front, as in *.example.com", s)
	}
	name, err := policy.ParseName(rest)
	if err != nil {
		return Pattern{}, fmt.Errorf("read pattern %q: %w", s, err)
	}
	return Pattern{name: name, below: below}, nil
}

// Match reports whether a canonical name matches.
func (p Pattern) Match(name string) bool {
	if p.name == "" {
		return false
	}
	if !p.below {
		return name == p.name
	}
	front, ok := strings.CutSuffix(name, p.name)
	return ok && len(front) > 1 && front[len(front)-1] == '.'
}

// Covers reports whether every name that matches q matches p too.
func (p Pattern) Covers(q Pattern) bool {
	if q.below {
		return p.below && (p.name == q.name || p.Match(q.name))
	}
	return p.Match(q.name)
}

// String returns the text that ParsePattern reads.
func (p Pattern) String() string {
	if p.below {
		return "*." + p.name
	}
	return p.name
}

func matchAny(patterns []Pattern, name string) bool {
	for _, p := range patterns {
		if p.Match(name) {
			return true
		}
	}
	return false
}
