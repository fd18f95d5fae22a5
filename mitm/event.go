package mitm

import (
	"net/netip"
	"time"

	"github.com/sluicenet/sluice/mitm/secret"
)

// The types of events.
const (
	EventIntercept = "tls.intercept"
	EventBypass    = "tls.bypass"
	EventFail      = "tls.fail"
	EventRequest   = "http.request"
	EventLimit     = "limit.hit"

	EventInject    = "secret.inject"
	EventSkip      = "secret.skip"
	EventBlock     = "secret.block"
	EventRedact    = "secret.redact" // a response that was cut instead included
	EventUnscanned = "secret.unscanned"
)

// An Event is something that happened, for the record. It never holds a secret's
// value.
type Event struct {
	Type        string
	Time        time.Time
	Source      netip.AddrPort // the guest's end
	Destination netip.AddrPort // what the guest asked for
	// Name is the SNI, or the authority of a request without TLS; "" if the guest
	// named nobody.
	Name string

	// Valid iff Type is EventIntercept:
	Version  string // of TLS on the guest's leg
	ALPN     string // of both legs; "" if none was chosen
	Verified bool   // the upstream's certificate was checked, and is for Name

	// Valid iff Type is EventFail: which leg failed, "guest" or "upstream", why,
	// and what would help, "" if nothing would.
	Leg, Reason, Fix string

	// Valid iff Type is EventRequest. Path is without the query, and cut to 1 KiB;
	// bodies are counted in bytes.
	Method, Path string
	Proto        string // HTTP/1.1, HTTP/2.0
	Status       int    // 0 if the guest got none
	Sent         int64  // of the request's body
	Received     int64  // of the response's body
	Duration     time.Duration

	// Valid iff Type is EventLimit: which bound was hit.
	Limit string

	// Valid iff Type is one of a secret: what was found in a request or response.
	Secret secret.Finding
}

// maxEventPath bounds the path in an event, in bytes: what a guest writes there
// is not ours to keep.
const maxEventPath = 1 << 10

// tell reports an event of a flow.
func (p *Proxy) tell(f Flow, e Event) {
	if p.cfg.Events == nil {
		return
	}
	e.Time, e.Source, e.Destination = p.now(), f.Source(), f.Asked()
	p.cfg.Events(e)
}

// fail reports that a leg of an intercepted flow couldn't be made.
func (p *Proxy) fail(f Flow, name, leg string, c complaint) {
	p.tell(f, Event{Type: EventFail, Name: name, Leg: leg, Reason: c.reason, Fix: c.fix})
}
