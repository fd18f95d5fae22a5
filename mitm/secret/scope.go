package secret

import "slices"

// A scope is what the secrets of a view mean at one host. Hosts at which the same
// ones are allowed share it; so there are at most as many scopes as the
// configuration names hosts and patterns, and one, whatever the guest asks for.
type scope struct {
	listed []bool // by index into the view's secrets
	// first is the name of the first secret that is or was the host's, "" without
	// one.
	first string
	// body reports whether a listed secret may be injected into bodies.
	body bool
	// values are those that the host may have got.
	values *values
}

// scope returns the scope of a host, a canonical name.
func (v *view) scope(host string) *scope {
	var buf [64]byte
	key := buf[:0] // a byte for each secret, the retired ones included
	for _, list := range [...][]entry{v.secrets, v.retired} {
		for i := range list {
			listed := byte(0)
			if list[i].lists(host) {
				listed = 1
			}
			key = append(key, listed)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	s, ok := v.scopes[string(key)]
	if !ok {
		s = v.newScope(key)
		v.scopes[string(key)] = s
	}
	return s
}

// newScope makes the scope in which those secrets are listed whose byte in key is
// 1.
func (v *view) newScope(key []byte) *scope {
	s := &scope{listed: make([]bool, len(v.secrets))}
	var owners []entry
	for i, e := range v.secrets {
		if key[i] == 1 {
			s.listed[i] = true
			s.body = s.body || e.InjectBody
			owners = append(owners, e)
		}
	}
	for i, e := range v.retired {
		if key[len(v.secrets)+i] == 1 {
			owners = append(owners, e)
		}
	}
	if len(owners) > 0 {
		s.first = owners[0].EnvVar
	}
	s.values = newValues(owners)
	return s
}

// A values is what to look for in responses, in every form in which they can have
// been sent. It is immutable.
type values struct {
	// matcher finds them; a hit's subject is an index into owners. Nil if none is
	// long enough.
	matcher *matcher
	owners  []entry
}

// newValues returns the values of secrets, each once, without those too short to be
// looked for.
func newValues(secrets []entry) *values {
	v := new(values)
	var patterns []pattern
	known := make(map[string]bool)
	for _, e := range secrets {
		text := e.Value.Reveal()
		if known[text] || len(text) < minSearched {
			continue
		}
		known[text] = true
		owner := len(v.owners)
		v.owners = append(v.owners, e)
		for _, p := range e.forms() {
			p.subject = owner
			patterns = append(patterns, p)
		}
	}
	v.matcher = newMatcher(patterns)
	return v
}

// include returns the values of both, v itself if it has all of older.
func (v *values) include(older *values) *values {
	for _, e := range older.owners {
		if !slices.ContainsFunc(v.owners, func(o entry) bool { return o.Value.Reveal() == e.Value.Reveal() }) {
			return newValues(slices.Concat(v.owners, older.owners))
		}
	}
	return v
}
