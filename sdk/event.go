package sdk

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

// The types of events that this version writes.
const (
	EventFlowOpen        = "flow.open"        // a flow was allowed
	EventFlowDeny        = "flow.deny"        // a flow was denied
	EventFlowClose       = "flow.close"       // a flow has ended
	EventDNSQuery        = "dns.query"        // a name was asked for
	EventTLSIntercept    = "tls.intercept"    // a TLS connection is read
	EventTLSBypass       = "tls.bypass"       // one is passed on untouched
	EventTLSFail         = "tls.fail"         // one came to nothing
	EventHTTPRequest     = "http.request"     // a request was answered, or refused
	EventSecretInject    = "secret.inject"    // a placeholder was replaced by the value
	EventSecretSkip      = "secret.skip"      // one was sent as it is, at a host that may have the value
	EventSecretBlock     = "secret.block"     // one was on its way to another host
	EventSecretRedact    = "secret.redact"    // the value came back, and was replaced
	EventSecretUnscanned = "secret.unscanned" // a response couldn't be searched for it
	EventPolicyUpdate    = "policy.update"    // another policy rules from now on
	EventLimitHit        = "limit.hit"        // the guest ran into a bound
	EventDropped         = "events.dropped"   // Count events found no room
	EventPortPublish     = "port.publish"     // a port of the guest can be reached on the host
	EventPortUnpublish   = "port.unpublish"   // and no more
	EventWarning         = "warning"          // Message is for the sandbox's user
	EventLog             = "sandbox.log"      // a remark of the sandbox itself
	EventSandboxStarted  = "sandbox.started"  // the guest is ready
	EventSandboxStopped  = "sandbox.stopped"  // the last event
)

// EventDenied stands, where types of events are asked for, for each that tells of a
// denial, as [Event.Denies] says.
const EventDenied = control.EventDenied

// An Event is something that happened in a sandbox: one line of its file of
// events. Fields that a type doesn't have are zero. Later versions may write
// more types and fields.
type Event struct {
	Version int       `json:"v"` // 1
	Time    time.Time `json:"ts"`
	// Seq numbers the events from 0 without gaps; -1 for an events.dropped that
	// concerns this reader alone.
	Seq     int64       `json:"seq"`
	Type    string      `json:"type"`
	Sandbox string      `json:"sandbox"` // its name
	Policy  EventPolicy `json:"policy,omitzero"`

	Flow    *EventFlow    `json:"flow,omitempty"`    // flow.*; limit.hit where one flow hit it
	DNS     *EventDNS     `json:"dns,omitempty"`     // dns.query
	Verdict *EventVerdict `json:"verdict,omitempty"` // flow.*, dns.query
	Port    *EventPort    `json:"port,omitempty"`    // port.*
	TLS     *EventTLS     `json:"tls,omitempty"`     // tls.*
	HTTP    *EventHTTP    `json:"http,omitempty"`    // http.request
	Secret  *EventSecret  `json:"secret,omitempty"`  // secret.*

	Limit   string         `json:"limit,omitempty"`   // limit.hit: the bound's name
	Count   uint64         `json:"count,omitempty"`   // events.dropped, limit.hit: how many
	Message string         `json:"message,omitempty"` // warning, sandbox.log, port.publish; sandbox.started: the backend
	Level   string         `json:"level,omitempty"`   // sandbox.log
	Attrs   map[string]any `json:"attrs,omitempty"`   // sandbox.log
	Source  string         `json:"source,omitempty"`  // sandbox.stopped: what ended it
	Denied  uint64         `json:"denied,omitempty"`  // sandbox.stopped: flows and queries denied in all
	Allowed uint64         `json:"allowed,omitempty"` // sandbox.stopped: flows allowed in all

	line []byte // as it was written
}

// An EventPolicy says under which policy something happened.
type EventPolicy struct {
	Generation uint64 `json:"gen"` // 1 for the first
}

// An EventFlow describes a flow. ID is the same from its opening to its close.
type EventFlow struct {
	ID        uint64          `json:"id"`
	Direction PolicyDirection `json:"direction"`
	Protocol  PolicyProtocol  `json:"protocol"`
	Src       EventEnd        `json:"src"`
	Dst       EventEnd        `json:"dst"`
	Dialed    *EventEnd       `json:"dialed,omitempty"` // where the host's socket went, if not to Dst
	// The rest is of flow.close.
	BytesOut uint64  `json:"bytes_out,omitempty"`  // from the guest
	BytesIn  uint64  `json:"bytes_in,omitempty"`   // to the guest
	Duration float64 `json:"duration_s,omitempty"` // in seconds
	// End is how it ended: fin, rst, timeout, refused, unreachable, denied,
	// closed.
	End string `json:"end,omitempty"`
}

// An EventEnd is one end of a flow.
type EventEnd struct {
	Addr     netip.Addr `json:"addr"`
	Port     uint16     `json:"port,omitempty"`      // 0 for ICMP
	Name     string     `json:"name,omitempty"`      // what the guest called it
	NameFrom string     `json:"name_from,omitempty"` // dns, sni or http
	Group    string     `json:"group,omitempty"`     // of the peer's address
}

// An EventDNS describes a query and its answer.
type EventDNS struct {
	Name     string         `json:"name"`
	Type     string         `json:"qtype"` // A, AAAA, HTTPS, …
	Protocol PolicyProtocol `json:"protocol"`
	RCode    string         `json:"rcode,omitempty"`      // NOERROR, NXDOMAIN, …
	Reason   string         `json:"reason,omitempty"`     // why the answer isn't the upstream's
	Addrs    []netip.Addr   `json:"addrs,omitempty"`      // that the guest was given
	Upstream string         `json:"upstream,omitempty"`   // who answered
	Cached   bool           `json:"cached,omitempty"`     // it was kept from an earlier query
	Duration float64        `json:"duration_s,omitempty"` // in seconds
}

// An EventVerdict is a decision and its reason.
type EventVerdict struct {
	Action PolicyAction `json:"action"`
	Rule   int          `json:"rule"`            // index into the flattened list; -1 without a rule
	Source string       `json:"source"`          // where the rule comes from: Rules[2], preset public-only, default egress
	Text   string       `json:"text,omitempty"`  // of the rule
	Stage  string       `json:"stage,omitempty"` // what was known when it was decided: address, no-name, name or malformed; dns for a query
	Reason string       `json:"reason,omitempty"`
	// Response is what the guest got on a denial: drop, rst, icmp, or the
	// answer's code.
	Response string `json:"response,omitempty"`
}

// An EventPort is a published port.
type EventPort struct {
	Protocol  PortProtocol   `json:"protocol"`
	Host      netip.AddrPort `json:"host"` // as bound
	GuestPort uint16         `json:"guest_port"`
}

// An EventPeers says which flow something was read in.
type EventPeers struct {
	Src  EventEnd `json:"src"`
	Dst  EventEnd `json:"dst"`            // as the guest asked for it
	Name string   `json:"name,omitempty"` // SNI, or the authority without TLS
}

// An EventTLS describes a TLS connection of the guest's.
type EventTLS struct {
	EventPeers
	Version  string `json:"version,omitempty"`  // of the guest's leg
	ALPN     string `json:"alpn,omitempty"`     // h2, http/1.1, …
	Verified bool   `json:"verified,omitempty"` // the server's certificate was, for the name
	// The rest is of tls.fail.
	Leg    string `json:"leg,omitempty"` // guest or upstream
	Reason string `json:"reason,omitempty"`
	Fix    string `json:"fix,omitempty"`
}

// An EventHTTP describes a request.
type EventHTTP struct {
	EventPeers
	Method   string  `json:"method"`
	Path     string  `json:"path"` // without the query
	Proto    string  `json:"proto"`
	Status   int     `json:"status,omitempty"` // 0 if the guest got none
	BytesOut int64   `json:"bytes_out"`        // of the request's body
	BytesIn  int64   `json:"bytes_in"`         // of the response's body
	Duration float64 `json:"duration_s"`       // in seconds
}

// An EventSecret describes what became of a secret's placeholder, or value. It
// never holds a value.
type EventSecret struct {
	EventPeers
	Secret   string          `json:"secret"`             // its environment variable
	Place    string          `json:"place,omitempty"`    // header, query, body, …
	Header   string          `json:"header,omitempty"`   // its name
	Spelling string          `json:"spelling,omitempty"` // raw, percent, JSON, Base64
	Reason   string          `json:"reason,omitempty"`
	Action   ViolationAction `json:"action,omitempty"` // of secret.block
	Count    int             `json:"count,omitempty"`  // how often, if more than once
}

// Line returns the event as it was written to the file, without the line feed.
// The caller must not change it. It is nil for an Event that was not read from a
// sandbox.
func (e Event) Line() []byte { return e.line }

// Denies reports whether the event tells that a flow or a query was denied.
func (e Event) Denies() bool {
	return e.Type == EventFlowDeny || e.Type == EventDNSQuery && e.Verdict != nil && e.Verdict.Action == PolicyActionDeny
}

// parseEvent reads one line. Fields that this version doesn't know are left
// out.
func parseEvent(line []byte) (Event, error) {
	e := Event{line: line}
	err := json.Unmarshal(line, &e)
	return e, err
}

// log writes the sandbox's remarks to l.
func (e Event) log(l *slog.Logger) {
	attrs := []any{"sandbox", e.Sandbox}
	for name, v := range e.Attrs {
		attrs = append(attrs, name, v)
	}
	switch e.Type {
	case EventWarning:
		l.Warn(e.Message, attrs...)
	case EventLog:
		var level slog.Level
		if level.UnmarshalText([]byte(e.Level)) != nil {
			level = slog.LevelInfo
		}
		l.Log(context.Background(), level, e.Message, attrs...)
	}
}
