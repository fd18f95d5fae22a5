package secret

import (
	"encoding/base64"
	"strings"
)

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

// Head replaces the placeholders in a head where that is permitted. If one must not
// go out it returns a *Violation, that of the strongest action in the whole head,
// and empties the head's query and header, in which there may be values already.
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
	if err := c.err(); err != nil {
		h.Query = ""
		clear(h.Header)
		return err
	}
	if r.scope.first != "" {
		if h.Header == nil {
			h.Header = make(map[string][]string)
		}
		askReadable(h.Header)
	}
	return nil
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
		if as, ok := nameHolds(name, v.secrets[group[0]].placeholder()); ok {
			c.judge(PlaceHeaderName, hit{subject: g, spelling: as})
			return
		}
	}
	c.look(PlaceHeaderName, name)
}

// nameHolds reports whether a header's name has text in it, and how: raw or
// percent-encoded. Other escapes can't stand in a name.
func nameHolds(name, text string) (Spelling, bool) {
	if containsFold(name, text) {
		return Raw, true
	}
	if strings.IndexByte(name, '%') < 0 {
		return Raw, false
	}
	var decoded []byte
	for rest := bytesOf(name); len(rest) > 0; {
		u, _ := readPercent(rest, true)
		decoded = append(decoded, u.stands[0])
		rest = rest[u.width:]
	}
	return Percent, containsFold(string(decoded), text)
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
		if s := &r.view.secrets[i].Secret; r.scope.listed[i] && s.InjectBody && r.to.Proof.suffices(s) {
			c.take(Finding{Kind: Block, Secret: s.EnvVar, Place: PlaceBody, Reason: Encoded, Action: s.OnViolation})
		}
	}
}

// decodeBasic appends to dst the credentials of a header value with the scheme Basic
// (RFC 7617), and returns where in the value they are, 0 if it has another scheme.
// It is lenient: padding begins anew, and what isn't Base64 is skipped.
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
		if c == '=' {
			n = 0
		}
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
