package secret

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
)

// maxRetired is how many replaced or removed values a Set goes on searching for in
// responses, the youngest of them: servers echo what they got earlier too. Over
// it the oldest is forgotten, except by requests that began with it. More would
// make the search slower for all.
const maxRetired = 8

// ErrUnknown is the error for a name that isn't in a Set.
var ErrUnknown = errors.New("no such secret")

// Config is what a Set is made from.
type Config struct {
	Secrets []Secret
	// OnViolation is the action of the secrets that name none. ActionDefault means
	// ActionBlockAndLog.
	OnViolation Action
}

// A Set holds a sandbox's secrets. Several goroutines may use it, and change it,
// at the same time: a request keeps the values with which it began. A nil *Set
// holds none.
type Set struct {
	current atomic.Pointer[view] // what requests begin with; replaced whole
	mu      sync.Mutex           // serializes those who replace it
}

// New returns the set of a configuration, with warnings about what will work less
// than hoped. The error joins all that is wrong; like the warnings it names secrets
// and quotes no value.
//
// It checks what the secrets say, not whether TLS and policy let them reach their
// hosts; who makes the configuration does.
func New(cfg Config) (*Set, []string, error) {
	var (
		errs     []error
		warnings []string
		first    = make(map[string]Secret) // by placeholder
	)
	secrets := make([]entry, len(cfg.Secrets))
	for i, s := range cfg.Secrets {
		normal, err := s.normalize()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		secrets[i] = newEntry(normal)
		secrets[i].OnViolation = cmp.Or(s.OnViolation, cfg.OnViolation, ActionBlockAndLog)
		if other, ok := first[s.placeholder()]; !ok {
			first[s.placeholder()] = s
		} else if other.Value.Reveal() != s.Value.Reveal() {
			errs = append(errs, fmt.Errorf("secret %q: placeholder %q also stands for another value, that of %q", s.EnvVar, s.placeholder(), other.EnvVar))
		}
		if w := shortWarning(s.EnvVar, s.Value); w != "" {
			warnings = append(warnings, w)
		}
	}
	if cfg.OnViolation > ActionBlockAndTerminate {
		errs = append(errs, fmt.Errorf("no such action: %d", cfg.OnViolation))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	s := new(Set)
	s.current.Store(newView(secrets, nil))
	return s, warnings, nil
}

// shortWarning returns what is to be said about a value that can't be searched for.
func shortWarning(name string, v Value) string {
	if len(v.Reveal()) >= minSearched {
		return ""
	}
	return fmt.Sprintf("secret %s is shorter than %d bytes: responses aren't searched for it", name, minSearched)
}

// Names returns the names of the secrets, sorted, each once.
func (s *Set) Names() []string {
	if s == nil {
		return nil
	}
	var names []string
	for _, e := range s.current.Load().secrets {
		names = append(names, e.EnvVar)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Put replaces the value of the secret of that name, and of all that share its
// placeholder, from the next request on. Responses are still searched for the
// old one. It returns ErrUnknown if there is no such secret: a new one needs hosts,
// and a guest whose environment holds its placeholder.
func (s *Set) Put(name string, value Value) (warning string, err error) {
	if err := checkValue(value); err != nil {
		return "", fmt.Errorf("set secret %q: %w", name, err)
	}
	err = s.change(name, func(e entry) (entry, bool) {
		e.Secret.Value = value
		return newEntry(e.Secret), true
	})
	if err != nil {
		return "", fmt.Errorf("set secret %q: %w", name, err)
	}
	return shortWarning(name, value), nil
}

// Remove removes the secret of that name, and all that share its placeholder: from
// the next request on it is a text like any other. Responses are still searched
// for its value. It returns ErrUnknown if there is no such secret.
func (s *Set) Remove(name string) error {
	err := s.change(name, func(e entry) (entry, bool) { return e, false })
	if err != nil {
		return fmt.Errorf("remove secret %q: %w", name, err)
	}
	return nil
}

// change replaces the view by one in which to has been applied to every secret
// that has a placeholder of the named one; those for which it reports false are left
// out. Their old values retire.
func (s *Set) change(name string, to func(entry) (entry, bool)) error {
	if s == nil {
		return ErrUnknown
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.current.Load()
	affected := make(map[string]bool) // by placeholder
	for _, e := range old.secrets {
		if e.EnvVar == name {
			affected[e.placeholder()] = true
		}
	}
	if len(affected) == 0 {
		return ErrUnknown
	}
	var secrets []entry
	retired := slices.Clone(old.retired)
	for _, e := range old.secrets {
		if !affected[e.placeholder()] {
			secrets = append(secrets, e)
			continue
		}
		retired = append(retired, e)
		if changed, keep := to(e); keep {
			secrets = append(secrets, changed)
		}
	}
	retired = retired[max(0, len(retired)-maxRetired):]
	s.current.Store(newView(secrets, retired))
	return nil
}

// String returns the number of secrets. With Format it keeps values out of every
// formatting verb.
func (s *Set) String() string { return fmt.Sprintf("%d secrets", len(s.Names())) }

// Format implements [fmt.Formatter] with String.
func (s *Set) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// An entry is a secret of a Set, from New or Put until its value retires.
type entry struct {
	Secret
	// forms returns the patterns of the value. They are made once, when first needed.
	forms func() []pattern
}

func newEntry(s Secret) entry {
	return entry{s, sync.OnceValue(func() []pattern {
		text := s.Value.Reveal()
		return append(base64Patterns(text), textPattern(text))
	})}
}

// A view is a Set at one time. It is immutable but for the scopes, which it
// computes when first needed.
type view struct {
	secrets []entry
	retired []entry // replaced and removed ones, oldest first
	// placeholders finds those of secrets; a hit's subject is an index into groups.
	placeholders *matcher
	groups       [][]int // by placeholder: the indices of the secrets that have it

	mu     sync.Mutex // guards the following field
	scopes map[string]*scope
}

func newView(secrets, retired []entry) *view {
	v := &view{secrets: secrets, retired: retired, scopes: make(map[string]*scope)}
	index := make(map[string]int)
	var patterns []pattern
	for i, s := range secrets {
		p := s.placeholder()
		g, ok := index[p]
		if !ok {
			g = len(v.groups)
			index[p] = g
			v.groups = append(v.groups, nil)
			patterns = append(patterns, textPattern(p))
			patterns[g].subject = g
		}
		v.groups[g] = append(v.groups[g], i)
	}
	v.placeholders = newMatcher(patterns)
	return v
}
