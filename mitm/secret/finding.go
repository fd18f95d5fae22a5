package secret

import (
	"fmt"
	"strings"
)

// A Kind says what was done about a placeholder or a value. It is the last part
// of an event's type, but for Reset.
type Kind string

const (
	Inject    Kind = "inject"    // the placeholder was replaced by the value
	Skip      Kind = "skip"      // it stood at an allowed host in a place where nothing is replaced, and was sent as it is
	Block     Kind = "block"     // it must not go there: a violation, the request was refused
	Redact    Kind = "redact"    // a response's value was replaced by the placeholder
	Reset     Kind = "reset"     // a response that can't be edited held a value, and was cut
	Unscanned Kind = "unscanned" // a response may hold a value, but can't be read
)

// A Place is the part of a request or response in which something was found.
type Place string

const (
	PlaceMethod     Place = "method"
	PlaceScheme     Place = "scheme"
	PlaceAuthority  Place = "authority" // Host or :authority
	PlacePath       Place = "path"
	PlaceQuery      Place = "query"
	PlaceHeaderName Place = "header-name"
	PlaceHeader     Place = "header"
	PlaceBasic      Place = "basic" // the decoded credentials of a Basic header
	PlaceBody       Place = "body"
	PlaceTrailer    Place = "trailer"
)

// A Reason says why a placeholder was refused, or a response not searched.
type Reason string

const (
	Unlisted   Reason = "unlisted"   // the host isn't the secret's
	Unverified Reason = "unverified" // it is, by name, but the connection doesn't prove enough; see [Proof]
	Encoded    Reason = "encoded"    // the body is compressed or otherwise encoded
	Framing    Reason = "framing"    // the place has a format in which nothing can be replaced
	Partial    Reason = "partial"    // the response is a part of one (206)
	Upgraded   Reason = "upgraded"   // the connection changed its protocol (101)
)

// A Finding is what happened to a secret in a request or its response. It never
// holds a value, and may be logged.
type Finding struct {
	Kind     Kind
	Secret   string   // EnvVar; of Unscanned the first that the host may have
	Place    Place    //
	Header   string   // the header's name as the guest or server wrote it, if Place is one of headers or trailers
	Spelling Spelling // how the placeholder or value was written
	Reason   Reason   // of Block and Unscanned
	Action   Action   // of Block; never ActionDefault
	Count    int      // how often, from 1
}

// String describes the finding in words.
func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %s", f.Kind, f.Secret, f.Place)
	if f.Header != "" {
		fmt.Fprintf(&b, " %q", f.Header)
	}
	if f.Spelling != Raw {
		fmt.Fprintf(&b, ", %s", f.Spelling)
	}
	if f.Reason != "" {
		fmt.Fprintf(&b, ", %s", f.Reason)
	}
	return b.String()
}

// same reports whether f and g differ in nothing but Count.
func (f Finding) same(g Finding) bool {
	f.Count, g.Count = 0, 0
	return f == g
}

// A Violation is the error of a request that holds a placeholder which must not
// go where the request goes. Nothing more of the request may be sent.
type Violation struct {
	Host    string  // the destination
	Finding Finding // the first of those with the strongest action
}

// Error implements error.
func (v *Violation) Error() string {
	return fmt.Sprintf("send request to %q: %s", v.Host, v.Finding)
}

// A Leak is the error of reading a response that holds a value and can't be
// edited. What was read before it holds no value; the stream must be reset.
type Leak struct {
	Host    string
	Finding Finding
}

// Error implements error.
func (l *Leak) Error() string {
	return fmt.Sprintf("read response of %q: %s", l.Host, l.Finding)
}
