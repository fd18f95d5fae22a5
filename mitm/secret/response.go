package secret

import (
	"compress/gzip"
	"io"
	"strings"
)

// askReadable reduces what a request asks for to what can be searched: no encoding
// but gzip, and no part of a response, of which two may hold a value together.
func askReadable(header map[string][]string) {
	delete(header, "Range")
	delete(header, "If-Range")
	delete(header, "Grpc-Accept-Encoding") // compresses messages, not the body
	if acceptsGzip(header["Accept-Encoding"]) {
		header["Accept-Encoding"] = []string{"gzip"}
	} else {
		header["Accept-Encoding"] = []string{"identity"}
	}
}

// acceptsGzip reports whether the values of an Accept-Encoding name gzip with a
// weight above 0, RFC 9110 section 12.5.3.
func acceptsGzip(values []string) bool {
	for _, value := range values {
		for item := range strings.SplitSeq(value, ",") {
			coding, weight, _ := strings.Cut(item, ";")
			coding = strings.TrimSpace(coding)
			if !strings.EqualFold(coding, "gzip") && !strings.EqualFold(coding, "x-gzip") {
				continue
			}
			weight = strings.ToLower(strings.ReplaceAll(weight, " ", ""))
			return !strings.HasPrefix(weight, "q=0") || strings.Trim(weight[len("q=0"):], ".0") != ""
		}
	}
	return false
}

// Redact replaces the values in the header of an interim response (1xx) or in the
// trailers of one, in place. A header whose name holds a value is removed.
func (r *Request) Redact(header map[string][]string) { r.redact(PlaceHeader, header) }

// RedactTrailer is Redact for trailers.
func (r *Request) RedactTrailer(trailer map[string][]string) { r.redact(PlaceTrailer, trailer) }

func (r *Request) redact(place Place, header map[string][]string) {
	if r == nil {
		return
	}
	e := responseEditor{request: r, place: place, kind: bodyText}
	m := e.matcher()
	if m == nil {
		return
	}
	for name, values := range header {
		if owner, ok := e.inName(name); ok {
			delete(header, name)
			r.note(Finding{Kind: Redact, Secret: owner.EnvVar, Place: PlaceHeaderName})
			continue
		}
		e.header = name
		for i, value := range values {
			values[i] = e.text(m, value)
		}
	}
}

// A Response is the response of a Request.
type Response struct {
	// Reframe says that the body's length may differ from its Content-Length, which
	// has been removed from the header.
	Reframe bool

	request *Request // nil if nothing is looked for
	kind    bodyKind
	gzip    bool
}

// Response replaces the values in a final response's header, in place, and prepares
// for its body: where it may be edited, Content-Length and an encoding of gzip are
// removed. Call it after Head.
func (r *Request) Response(status int, header map[string][]string) *Response {
	if r == nil || r.scope.first == "" {
		return &Response{}
	}
	r.Redact(header)
	p := &Response{request: r, kind: bodyOther}
	encoding := header["Content-Encoding"]
	p.gzip = len(encoding) == 1 && (strings.EqualFold(encoding[0], "gzip") || strings.EqualFold(encoding[0], "x-gzip"))
	unscanned := func(reason Reason) {
		r.note(Finding{Kind: Unscanned, Secret: r.scope.first, Place: PlaceBody, Reason: reason})
	}
	switch {
	case status == 101:
		unscanned(Upgraded)
		return &Response{}
	case r.method == "HEAD" || status < 200 || status == 204 || status == 304:
		return &Response{} // no body; the header describes another response's
	case !p.gzip && !identity(encoding):
		unscanned(Encoded)
		p.kind = bodyEncoded
		return p
	case status == 206:
		// Edited, the bytes wouldn't be those of the range any more; and half of
		// a compressed body can't be decompressed.
		unscanned(Partial)
		p.gzip = false
		return p
	}
	if types := header["Content-Type"]; len(types) == 1 {
		if p.kind = kindOfType(types[0]); p.kind == bodyForm {
			p.kind = bodyText // a placeholder need not be encoded
		}
	}
	if p.gzip {
		delete(header, "Content-Encoding")
		delete(header, "Content-Digest") // of the compressed bytes, RFC 9530
		delete(header, "Content-Md5")
	}
	if p.Reframe = p.gzip || p.kind != bodyOther; p.Reframe {
		delete(header, "Content-Length")
	}
	return p
}

// Body returns a reader over the response's body in which the values are replaced.
// Its Read returns a *Leak where that can't be done. It reads src no further than
// it must, and hands out at once what can't become a value. The caller closes src.
func (p *Response) Body(src io.Reader) io.Reader {
	if p.request == nil {
		return src
	}
	if p.gzip {
		src = &gunzip{src: src}
	}
	return &stream{src: src, editor: &responseEditor{request: p.request, place: PlaceBody, kind: p.kind}}
}

// A gunzip decompresses; it reads nothing before the first Read.
type gunzip struct {
	src io.Reader
	z   *gzip.Reader
}

// Read implements [io.Reader].
func (g *gunzip) Read(p []byte) (int, error) {
	if g.z == nil {
		z, err := gzip.NewReader(g.src)
		if err != nil {
			return 0, err
		}
		g.z = z
	}
	return g.z.Read(p)
}

// valuesNow returns what to look for at this moment: the values that the host may
// have got since the request began belong to it, and those with which it began, even
// if the set has forgotten them since.
func (r *Request) valuesNow() *values {
	now := r.set.current.Load()
	r.mu.Lock()
	defer r.mu.Unlock()
	if now != r.latest {
		r.latest, r.values = now, now.scope(r.to.Host).values.include(r.values)
	}
	return r.values
}

// A responseEditor edits a part of a response.
type responseEditor struct {
	request *Request
	place   Place
	header  string
	kind    bodyKind

	values *values // what was last looked for
}

// matcher looks for the values of now.
func (e *responseEditor) matcher() *matcher {
	e.values = e.request.valuesNow()
	return e.values.matcher
}

// edit replaces a value.
func (e *responseEditor) edit(dst, _ []byte, h hit) ([]byte, error) {
	r, owner := e.request, e.values.owners[h.subject]
	f := Finding{Kind: Redact, Secret: owner.EnvVar, Place: e.place, Header: e.header, Spelling: h.spelling}
	as, ok := e.kind.spell(h.spelling)
	if !ok {
		f.Kind = Reset
		r.note(f)
		f.Count = 1
		return dst, &Leak{Host: r.to.Host, Finding: f}
	}
	r.note(f)
	return appendSpelled(dst, owner.placeholder(), as), nil
}

// text returns a text with its values replaced.
func (e *responseEditor) text(m *matcher, text string) string {
	var dst []byte
	done := 0
	for h, ok := m.find(bytesOf(text), 0, true); ok; h, ok = m.find(bytesOf(text), h.end, true) {
		dst = append(dst, text[done:h.start]...)
		dst, _ = e.edit(dst, nil, h) // the kind of a header is text, which can be edited
		done = h.end
	}
	if done == 0 {
		return text
	}
	return string(append(dst, text[done:]...))
}

// inName returns the secret whose value a header's name holds. Names have no case.
func (e *responseEditor) inName(name string) (entry, bool) {
	for _, owner := range e.values.owners {
		if _, ok := nameHolds(name, owner.Value.Reveal()); ok {
			return owner, true
		}
	}
	return entry{}, false
}
