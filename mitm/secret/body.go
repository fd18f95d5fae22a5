package secret

import (
	"io"
	"strings"
)

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

// A bodyKind is what a body's header says about how to read it.
type bodyKind uint8

const (
	bodyOther   bodyKind = iota // a format in which nothing can be replaced: multipart, gRPC, bytes
	bodyEncoded                 // compressed, or otherwise not readable
	bodyForm                    // application/x-www-form-urlencoded
	bodyJSON                    // JSON, in any of its types
	bodyText                    // another text
)

// kindOf returns the kind of the body that follows a header.
func kindOf(header map[string][]string) bodyKind {
	if !identity(header["Content-Encoding"]) {
		return bodyEncoded
	}
	types := header["Content-Type"]
	if len(types) != 1 {
		return bodyOther
	}
	return kindOfType(types[0])
}

// identity reports whether encodings, the values of a Content-Encoding, say that
// there is none.
func identity(encodings []string) bool {
	for _, value := range encodings {
		for encoding := range strings.SplitSeq(value, ",") {
			if e := strings.TrimSpace(encoding); e != "" && !strings.EqualFold(e, "identity") {
				return false
			}
		}
	}
	return true
}

// kindOfType returns the kind of a Content-Type.
func kindOfType(contentType string) bodyKind {
	media, _, _ := strings.Cut(contentType, ";")
	switch media = strings.ToLower(strings.TrimSpace(media)); {
	case media == "application/x-www-form-urlencoded":
		return bodyForm
	case strings.HasSuffix(media, "/json"), strings.HasSuffix(media, "+json"), media == "application/x-ndjson":
		return bodyJSON
	case strings.HasPrefix(media, "text/"), strings.HasSuffix(media, "+xml"):
		return bodyText
	case media == "application/xml", media == "application/javascript", media == "application/yaml", media == "application/graphql":
		return bodyText
	}
	return bodyOther
}

// spell returns how a text must be spelled that takes the place of one spelled as
// found. It reports false if none can.
func (k bodyKind) spell(found Spelling) (Spelling, bool) {
	switch k {
	case bodyForm:
		return Percent, found != JSON
	case bodyJSON:
		if found == Percent {
			return Percent, true // an address in a string; percent-encoded, it needs no escapes
		}
		return JSON, true
	case bodyText:
		return found, true
	}
	return Raw, false
}
