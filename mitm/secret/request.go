package secret

import (
	"encoding/base64"
	"io"
	"slices"
	"strings"
	"sync"
)

// A Proof says what the caller knows about who is at the other end.
type Proof uint8

const (
	// ProofNone: nothing, or not enough. No secret goes out.
	ProofNone Proof = iota
	// ProofPlain: without TLS, but the host's name was resolved to this address by
	// the configured resolvers for this sandbox, and the address is public or
	// admitted. Enough for secrets with AllowPlain.
	ProofPlain
	// ProofTLS: inside a TLS session whose certificate was verified for the host, and
	// the host's name was resolved as for ProofPlain.
	ProofTLS
)

// A Destination is where a request goes.
type Destination struct {
	// Host is the canonical name of the request's authority, without port; see
	// [policy.CanonicalName]. Empty, or an address, is never a secret's host.
	Host  string
	Proof Proof
}

// A Head is what a request begins with, as it is about to be sent.
type Head struct {
	Method    string
	Scheme    string // of HTTP/2's :scheme; may be empty
	Authority string // Host or :authority
	Path      string // escaped, without the query
	Query     string // as sent, without the question mark; Request.Head edits it
	// Header is edited in place: values are replaced, and a host that may have
	// secrets isn't asked for encodings or ranges that couldn't be searched.
	Header map[string][]string
	// HasBody says that a body follows, of whatever length.
	HasBody bool
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

	mu       sync.Mutex // guards the following field
	findings []Finding
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
	return &Request{set: s, view: v, scope: v.scope(to.Host), to: to}
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

// Head replaces the placeholders in a head where that is permitted. If one must not
// go out it returns a *Violation, that of the strongest action in the whole head;
// the head is then not fit to be sent.
func (r *Request) Head(h *Head) error {
	if r == nil {
		return nil
	}
	r.method, r.kind = h.Method, kindOf(h.Header)
	c := check{request: r}
	c.look(PlaceMethod, h.Method)
	c.look(PlaceScheme, h.Scheme)
	c.look(PlaceAuthority, h.Authority)
	c.look(PlacePath, h.Path)
	h.Query = c.edit(PlaceQuery, h.Query)
	for name, values := range h.Header {
		c.header = name
		c.name(name)
		for i, value := range values {
			if edited, ok := c.value(name, value); ok {
				values[i] = edited
			}
		}
	}
	c.header = ""
	if h.HasBody && r.kind == bodyEncoded && r.scope.body {
		c.encoded()
	}
	if c.violation == nil && r.scope.any != "" {
		askReadable(h.Header)
	}
	return c.err()
}

// Trailer checks the trailers of a request, in which nothing is replaced. It
// returns a *Violation as Head does.
func (r *Request) Trailer(trailer map[string][]string) error {
	if r == nil {
		return nil
	}
	c := check{request: r}
	for name, values := range trailer {
		c.header = name
		c.name(name)
		for _, value := range values {
			c.look(PlaceTrailer, value)
			if decoded, _, ok := decodeBasic(value); ok {
				c.look(PlaceTrailer, decoded)
			}
		}
	}
	return c.err()
}

// A check goes through the parts of a head.
type check struct {
	request   *Request
	header    string // the one at hand
	violation *Finding
}

// err returns the check's outcome.
func (c *check) err() error {
	if c.violation == nil {
		return nil
	}
	return &Violation{Host: c.request.to.Host, Finding: *c.violation}
}

// block notes a violation.
func (c *check) block(f Finding) {
	c.request.note(f)
	if c.violation == nil || f.Action > c.violation.Action {
		f.Count = 1
		c.violation = &f
	}
}

// name checks the header's name. Names have no case, and HTTP/2 and the proxy
// write them in theirs.
func (c *check) name(name string) {
	v := c.request.view
	for g := range v.groups {
		p := v.secrets[v.groups[g][0]].placeholder()
		if len(p) <= len(name) && strings.Contains(strings.ToLower(name), strings.ToLower(p)) {
			c.judge(PlaceHeaderName, hit{subject: g})
		}
	}
	c.look(PlaceHeaderName, name)
}

// look checks a text in which nothing is replaced.
func (c *check) look(p Place, text string) {
	m := c.request.view.placeholders
	for h, ok := m.findString(text, 0); ok; h, ok = m.findString(text, h.end) {
		c.judge(p, h)
	}
}

// edit checks a text and returns it with its placeholders replaced.
func (c *check) edit(p Place, text string) string {
	var (
		m    = c.request.view.placeholders
		dst  []byte
		done int
	)
	for h, ok := m.findString(text, 0); ok; h, ok = m.findString(text, h.end) {
		if value, as, inject := c.judge(p, h); inject {
			dst = append(dst, text[done:h.start]...)
			dst = appendSpelled(dst, value.Reveal(), as)
			done = h.end
		}
	}
	if done == 0 {
		return text
	}
	return string(append(dst, text[done:]...))
}

// value returns what becomes of a header's value, and whether that is another.
func (c *check) value(name, value string) (string, bool) {
	place := PlaceHeader
	if c.request.method == "TRACE" || reflected(name) {
		c.look(place, value)
		return value, false
	}
	edited := c.edit(place, value)
	if decoded, prefix, ok := decodeBasic(value); ok {
		if credentials := c.edit(PlaceBasic, decoded); credentials != decoded {
			edited = prefix + base64.StdEncoding.EncodeToString([]byte(credentials))
		}
	}
	return edited, edited != value
}

// encoded refuses a body in which the placeholders that may be injected couldn't be
// found.
func (c *check) encoded() {
	r := c.request
	for i, s := range r.view.secrets {
		if r.scope.listed[i] && s.InjectBody {
			c.block(Finding{Kind: Block, Secret: s.EnvVar, Place: PlaceBody, Reason: Encoded, Action: s.OnViolation})
		}
	}
}

// judge decides about a placeholder: it returns the value that takes its place and
// how to spell it, or notes why none does.
func (c *check) judge(p Place, h hit) (Value, Spelling, bool) {
	return c.request.judge(p, c.header, h, c.block)
}

// judge is the one place where a value is let go. In order: the host must be the
// secret's; the connection must prove enough; the place must be permitted; and it
// must be one in which the placeholder's spelling can be replaced.
func (r *Request) judge(p Place, header string, h hit, block func(Finding)) (Value, Spelling, bool) {
	var (
		group  = r.view.groups[h.subject]
		best   *Secret // one that lists the host
		reason = Unlisted
	)
	for _, i := range group {
		s := &r.view.secrets[i]
		if !r.scope.listed[i] {
			continue
		}
		if r.to.Proof != ProofTLS && !(r.to.Proof == ProofPlain && s.AllowPlain) {
			reason = Unverified
			continue
		}
		if best == nil || s.permits(p) {
			best = s
		}
	}
	f := Finding{Secret: r.view.secrets[group[0]].EnvVar, Place: p, Header: header, Spelling: h.spelling}
	if best == nil {
		f.Kind, f.Reason = Block, reason
		for _, i := range group {
			f.Action = max(f.Action, r.view.secrets[i].OnViolation)
		}
		block(f)
		return Value{}, Raw, false
	}
	f.Secret = best.EnvVar
	if !best.permits(p) || reflected(header) || r.method == "TRACE" {
		f.Kind = Skip
		r.note(f)
		return Value{}, Raw, false
	}
	as, ok := h.spelling, true
	switch p {
	case PlaceQuery:
		as, ok = Percent, h.spelling != JSON
	case PlaceBody:
		as, ok = r.kind.spell(h.spelling)
	}
	if !ok {
		f.Kind, f.Reason, f.Action = Block, Framing, best.OnViolation
		block(f)
		return Value{}, Raw, false
	}
	f.Kind = Inject
	r.note(f)
	return best.Value, as, true
}

// permits reports whether the value may stand in a place.
func (s *Secret) permits(p Place) bool {
	switch p {
	case PlaceHeader, PlaceBasic:
		return true
	case PlaceQuery:
		return s.InjectQuery
	case PlaceBody:
		return s.InjectBody
	}
	return false
}

// reflected reports whether servers like to show a header to others: in pages,
// logs, or as the address to come back to.
func reflected(name string) bool {
	switch {
	case strings.EqualFold(name, "Host"), strings.EqualFold(name, "User-Agent"), strings.EqualFold(name, "Referer"),
		strings.EqualFold(name, "Origin"), strings.EqualFold(name, "Forwarded"):
		return true
	}
	const forwarded = "X-Forwarded-"
	return len(name) >= len(forwarded) && strings.EqualFold(name[:len(forwarded)], forwarded)
}

// decodeBasic returns the credentials of a header value with the scheme Basic
// (RFC 7617), and what stands before them. It is more lenient than any server:
// characters that aren't Base64 are skipped.
func decodeBasic(value string) (credentials, prefix string, ok bool) {
	const scheme = "basic"
	i := len(value) - len(strings.TrimLeft(value, " \t"))
	if len(value)-i <= len(scheme) || !strings.EqualFold(value[i:i+len(scheme)], scheme) {
		return "", "", false
	}
	if i += len(scheme); value[i] != ' ' && value[i] != '\t' {
		return "", "", false
	}
	i = len(value) - len(strings.TrimLeft(value[i:], " \t"))
	decoded := make([]byte, 0, base64.StdEncoding.DecodedLen(len(value)-i))
	var bits uint32
	n := 0
	for _, c := range []byte(value[i:]) {
		s := sextets[c]
		if s == noSextet {
			continue
		}
		if bits, n = bits<<6|uint32(s), n+6; n >= 8 {
			n -= 8
			decoded = append(decoded, byte(bits>>n))
		}
	}
	return string(decoded), value[:i], true
}

// Body returns a reader over the request's body in which the placeholders are
// replaced where that is permitted. Its Read returns a *Violation if one must not
// go out; what was read before holds none. Call it after Head. The caller closes
// src.
//
// With reframe the body's length may change: its Content-Length must not be sent.
func (r *Request) Body(src io.Reader) (body io.Reader, reframe bool) {
	if r == nil || r.view.placeholders == nil {
		return src, false
	}
	_, substitutable := r.kind.spell(Raw)
	return &stream{src: src, editor: requestEditor{r}}, r.scope.body && substitutable && r.to.Proof != ProofNone
}

// A requestEditor edits a request's body.
type requestEditor struct{ request *Request }

func (e requestEditor) matcher() *matcher { return e.request.view.placeholders }

func (e requestEditor) edit(dst, data []byte, h hit) ([]byte, error) {
	r := e.request
	var err error
	value, as, inject := r.judge(PlaceBody, "", h, func(f Finding) {
		r.note(f)
		f.Count = 1
		err = &Violation{Host: r.to.Host, Finding: f}
	})
	if !inject {
		return append(dst, data[h.start:h.end]...), err
	}
	return appendSpelled(dst, value.Reveal(), as), nil
}
