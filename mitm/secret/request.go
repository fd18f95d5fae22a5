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

// suffices reports whether p lets a secret go out to its hosts.
func (p Proof) suffices(s *Secret) bool {
	return p == ProofTLS || p == ProofPlain && s.AllowPlain
}

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
	if edited := c.edit(PlaceQuery, bytesOf(h.Query)); edited != nil {
		h.Query = string(edited)
	}
	for name, values := range h.Header {
		c.header = name
		c.name(name)
		for i, value := range values {
			values[i] = c.value(value)
		}
	}
	c.header = ""
	if h.HasBody && r.kind == bodyEncoded && r.scope.body {
		c.encoded()
	}
	if c.violation == nil && r.scope.first != "" {
		if h.Header == nil {
			h.Header = make(map[string][]string)
		}
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
			if credentials, at := decodeBasic(nil, value); at > 0 {
				c.look(PlaceTrailer, string(credentials))
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

// take notes a finding, and keeps the strongest violation.
func (c *check) take(f Finding) {
	c.request.note(f)
	if f.Kind == Block && (c.violation == nil || f.Action > c.violation.Action) {
		f.Count = 1
		c.violation = &f
	}
}

// judge decides about a placeholder.
func (c *check) judge(p Place, h hit) verdict {
	v := c.request.judge(p, c.header, h)
	c.take(v.finding)
	return v
}

// name checks a header's name. Names have no case, and HTTP/2 and the proxy write
// them in theirs.
func (c *check) name(name string) {
	v := c.request.view
	for g, group := range v.groups {
		if containsFold(name, v.secrets[group[0]].placeholder()) {
			c.judge(PlaceHeaderName, hit{subject: g})
			return
		}
	}
	c.look(PlaceHeaderName, name)
}

// containsFold reports whether text has sub in it, in any case.
func containsFold(text, sub string) bool {
	for i := 0; i+len(sub) <= len(text); i++ {
		if strings.EqualFold(text[i:i+len(sub)], sub) {
			return true
		}
	}
	return false
}

// look checks a text in which nothing is replaced.
func (c *check) look(p Place, text string) {
	m := c.request.view.placeholders
	for h, ok := m.find(bytesOf(text), 0, true); ok; h, ok = m.find(bytesOf(text), h.end, true) {
		c.judge(p, h)
	}
}

// edit checks a text and returns it with its placeholders replaced, nil if there is
// none to replace.
func (c *check) edit(p Place, text []byte) []byte {
	var (
		m    = c.request.view.placeholders
		dst  []byte
		done int
	)
	for h, ok := m.find(text, 0, true); ok; h, ok = m.find(text, h.end, true) {
		if v := c.judge(p, h); v.finding.Kind == Inject {
			dst = append(dst, text[done:h.start]...)
			dst = appendSpelled(dst, v.value.Reveal(), v.as)
			done = h.end
		}
	}
	if done == 0 {
		return nil
	}
	return append(dst, text[done:]...)
}

// value returns what becomes of a header's value. Credentials in it are checked even
// if something beside them was replaced, but then they are sent as they are.
func (c *check) value(value string) string {
	var buf [256]byte // enough for most credentials
	edited := c.edit(PlaceHeader, bytesOf(value))
	credentials, at := decodeBasic(buf[:0], value)
	if edited != nil {
		c.refuse(PlaceBasic, credentials)
		return string(edited)
	}
	if edited = c.edit(PlaceBasic, credentials); edited != nil {
		return value[:at] + base64.StdEncoding.EncodeToString(edited)
	}
	return value
}

// refuse checks a text for violations only.
func (c *check) refuse(p Place, text []byte) {
	m := c.request.view.placeholders
	for h, ok := m.find(text, 0, true); ok; h, ok = m.find(text, h.end, true) {
		if v := c.request.judge(p, c.header, h); v.finding.Kind == Block {
			c.take(v.finding)
		}
	}
}

// encoded refuses a body in which the placeholders that may be injected couldn't be
// found.
func (c *check) encoded() {
	r := c.request
	for i := range r.view.secrets {
		if s := &r.view.secrets[i]; r.scope.listed[i] && s.InjectBody && r.to.Proof.suffices(s) {
			c.take(Finding{Kind: Block, Secret: s.EnvVar, Place: PlaceBody, Reason: Encoded, Action: s.OnViolation})
		}
	}
}

// A verdict is what was decided about a placeholder. With Inject, value takes its
// place, spelled as as.
type verdict struct {
	finding Finding
	value   Value
	as      Spelling
}

// judge is the one place where a value is let go. In order: the host must be the
// secret's; the connection must prove enough; the place must be permitted; and it
// must be one in which the placeholder's spelling can be replaced.
func (r *Request) judge(p Place, header string, h hit) verdict {
	var (
		group  = r.view.groups[h.subject]
		best   *Secret // one that lists the host
		action Action
		reason = Unlisted
	)
	for _, i := range group {
		s := &r.view.secrets[i]
		action = max(action, s.OnViolation)
		switch {
		case !r.scope.listed[i]:
		case !r.to.Proof.suffices(s):
			reason = Unverified
		case best == nil || s.permits(p):
			best = s
		}
	}
	f := Finding{Secret: r.view.secrets[group[0]].EnvVar, Place: p, Header: header, Spelling: h.spelling}
	if best == nil {
		f.Kind, f.Reason, f.Action = Block, reason, action
		return verdict{finding: f}
	}
	f.Secret = best.EnvVar
	if !best.permits(p) || reflected(header) || r.method == "TRACE" {
		f.Kind = Skip
		return verdict{finding: f}
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
		return verdict{finding: f}
	}
	f.Kind = Inject
	return verdict{f, best.Value, as}
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

// decodeBasic appends to dst the credentials of a header value with the scheme Basic
// (RFC 7617), and returns where in the value they are, 0 if it has another scheme.
// It is more lenient than any server: characters that aren't Base64 are skipped.
func decodeBasic(dst []byte, value string) (credentials []byte, at int) {
	const scheme = "basic"
	rest := strings.TrimLeft(value, " \t")
	if len(rest) <= len(scheme) || !strings.EqualFold(rest[:len(scheme)], scheme) {
		return nil, 0
	}
	rest = rest[len(scheme):]
	if rest[0] != ' ' && rest[0] != '\t' {
		return nil, 0
	}
	rest = strings.TrimLeft(rest, " \t")
	var bits uint32
	n := 0
	for _, c := range []byte(rest) {
		s := sextets[c]
		if s == noSextet {
			continue
		}
		if bits, n = bits<<6|uint32(s), n+6; n >= 8 {
			n -= 8
			dst = append(dst, byte(bits>>n))
		}
	}
	return dst, len(value) - len(rest)
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
	v := r.judge(PlaceBody, "", h)
	r.note(v.finding)
	switch v.finding.Kind {
	case Inject:
		return appendSpelled(dst, v.value.Reveal(), v.as), nil
	case Block:
		v.finding.Count = 1
		return dst, &Violation{Host: r.to.Host, Finding: v.finding}
	}
	return append(dst, data[h.start:h.end]...), nil
}
