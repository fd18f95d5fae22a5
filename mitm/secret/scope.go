package secret

// A scope is what the secrets of a view mean at one host. Hosts at which the same
// ones are allowed share it; so there are at most as many scopes as the
// configuration names hosts and patterns, and one, whatever the guest asks for.
type scope struct {
	listed []bool // by index into the view's secrets
	// values finds the values that the host may have got, in every form in which
	// it can have been sent one. A hit's subject is an index into owners. Nil if
	// there is none.
	values *matcher
	owners []Secret
	// any is the first listed secret's name, "" without one.
	any string
	// body reports whether a listed secret may be injected into bodies.
	body bool
}

// scope returns the scope of a host, a canonical name.
func (v *view) scope(host string) *scope {
	var buf [64]byte
	key := buf[:0] // a byte for each secret, the retired ones included
	for _, list := range [...][]Secret{v.secrets, v.retired} {
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
	var patterns []pattern
	known := make(map[string]bool)
	search := func(e Secret) {
		value := e.Value.Reveal()
		if s.any == "" {
			s.any = e.EnvVar
		}
		if known[value] || len(value) < minSearched {
			return
		}
		known[value] = true
		owner := len(s.owners)
		s.owners = append(s.owners, e)
		patterns = append(patterns, textPattern(owner, value))
		patterns = append(patterns, base64Patterns(owner, value)...)
	}
	for i, e := range v.secrets {
		if s.listed[i] = key[i] == 1; s.listed[i] {
			s.body = s.body || e.InjectBody
			search(e)
		}
	}
	for i, e := range v.retired {
		if key[len(v.secrets)+i] == 1 {
			search(e)
		}
	}
	s.values = newMatcher(patterns)
	return s
}
