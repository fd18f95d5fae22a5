package secret

import (
	"slices"
	"sync"
)

// A Destination is where a request goes.
type Destination struct {
	// Host is the canonical name of the request's authority, without port; see
	// [policy.CanonicalName]. Empty, or an address, is never a secret's host.
	Host  string
	Proof Proof
}

// A Request carries the secrets through one request and its response. Its methods
// may be called by several goroutines, each of its parts by one at a time. A nil
// *Request changes and finds nothing.
type Request struct {
	set    *Set
	view   *view
	scope  *scope
	to     Destination
	method string
	kind   bodyKind // of the request's body, from its header

	mu       sync.Mutex // guards the following fields
	findings []Finding
	latest   *view   // the set's view at the last look, and
	values   *values // what it adds up to with those of the request's own
}

// Request begins a request to a destination. It returns nil if there is nothing to
// look for.
func (s *Set) Request(to Destination) *Request {
	if s == nil {
		return nil
	}
	v := s.current.Load()
	if len(v.secrets)+len(v.retired) == 0 {
		return nil
	}
	at := v.scope(to.Host)
	return &Request{set: s, view: v, scope: at, to: to, latest: v, values: at.values}
}

// Findings returns what was found since the last call. The caller owns the slice.
func (r *Request) Findings() []Finding {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	found := r.findings
	r.findings = nil
	return found
}

// maxFindings bounds the findings of a request that nobody has asked for: a body
// may hold any number, but they hardly differ. Over it those that differ from all
// before aren't noted; an error tells of its own.
const maxFindings = 64

// note adds a finding, or counts it where there is the same.
func (r *Request) note(f Finding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.IndexFunc(r.findings, f.same); i >= 0 {
		r.findings[i].Count++
	} else if len(r.findings) < maxFindings {
		f.Count = 1
		r.findings = append(r.findings, f)
	}
}
