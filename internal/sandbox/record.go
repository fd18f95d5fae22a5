package sandbox

import (
	"net/netip"
	"time"

	"github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet"
)

// recordVersion is the v of every event. What is there keeps its name and
// meaning; what is new is added.
const recordVersion = 1

// The types of events that are made, or counted, here; packages vnet and dns
// name the others.
const (
	typeOpen    = "flow.open"
	typeDeny    = "flow.deny"
	typeQuery   = dns.EventQuery
	typeDropped = "events.dropped"
	typeWarning = "warning"
	typeLog     = "sandbox.log"
	typeStarted = "sandbox.started"
	typeStopped = "sandbox.stopped"
)

// A record is one event: a JSON object on a line. Fields that don't apply are
// absent.
type record struct {
	Version int       `json:"v"`
	Time    time.Time `json:"ts"`
	// Seq numbers what was written to the file, from 0; -1 for a line that is
	// not in it.
	Seq     int64         `json:"seq"`
	Type    string        `json:"type"`
	Sandbox string        `json:"sandbox"`
	Policy  *recordPolicy `json:"policy,omitempty"`

	Flow    *recordFlow    `json:"flow,omitempty"`    // flow.*
	DNS     *recordDNS     `json:"dns,omitempty"`     // dns.query
	Verdict *recordVerdict `json:"verdict,omitempty"` // flow.*, dns.query
	Port    *control.Port  `json:"port,omitempty"`    // port.*
	TLS     *recordTLS     `json:"tls,omitempty"`     // tls.*
	HTTP    *recordHTTP    `json:"http,omitempty"`    // http.request
	Secret  *recordSecret  `json:"secret,omitempty"`  // secret.*

	Limit   string         `json:"limit,omitempty"`   // limit.hit: the bound
	Count   uint64         `json:"count,omitempty"`   // events.dropped, limit.hit: how many
	Message string         `json:"message,omitempty"` // warning, sandbox.log, port.publish; sandbox.started: the backend
	Level   string         `json:"level,omitempty"`   // sandbox.log: as slog names it
	Attrs   map[string]any `json:"attrs,omitempty"`   // sandbox.log
	Source  string         `json:"source,omitempty"`  // sandbox.stopped: what ended it
	Denied  uint64         `json:"denied,omitempty"`  // sandbox.stopped: flows and queries denied in all
	Allowed uint64         `json:"allowed,omitempty"` // sandbox.stopped: flows allowed in all

	// network is an event of the network's that only the recorder's goroutine
	// turns into the fields above; of those it has just Type and Time.
	network *vnet.Event
}

type recordPolicy struct {
	Generation uint64 `json:"gen"`
}

type recordFlow struct {
	ID        uint64     `json:"id"`
	Direction string     `json:"direction"`
	Protocol  string     `json:"protocol"`
	Src       recordEnd  `json:"src"`
	Dst       recordEnd  `json:"dst"`
	Dialed    *recordEnd `json:"dialed,omitempty"` // where the host's socket went, if not to dst
	// The rest is of flow.close.
	BytesOut uint64  `json:"bytes_out,omitempty"` // from the guest
	BytesIn  uint64  `json:"bytes_in,omitempty"`  // to the guest
	Duration float64 `json:"duration_s,omitempty"`
	End      string  `json:"end,omitempty"` // how: fin, rst, timeout, refused, unreachable, denied, closed
}

type recordEnd struct {
	Addr     netip.Addr `json:"addr"`
	Port     uint16     `json:"port,omitempty"`
	Name     string     `json:"name,omitempty"`      // what the guest called it
	NameFrom string     `json:"name_from,omitempty"` // dns, sni, http
	Group    string     `json:"group,omitempty"`
}

type recordDNS struct {
	Name     string       `json:"name"`
	Type     string       `json:"qtype"`
	Protocol string       `json:"protocol"`
	RCode    string       `json:"rcode,omitempty"`
	Reason   string       `json:"reason,omitempty"` // why the answer isn't the upstream's
	Addrs    []netip.Addr `json:"addrs,omitempty"`  // given to the guest
	Upstream string       `json:"upstream,omitempty"`
	Cached   bool         `json:"cached,omitempty"`
	Duration float64      `json:"duration_s,omitempty"`
}

type recordVerdict struct {
	Action   string `json:"action"`
	Rule     int    `json:"rule"`   // index into the flattened list; -1 without a rule
	Source   string `json:"source"` // in the user's words
	Text     string `json:"text,omitempty"`
	Stage    string `json:"stage,omitempty"` // what had been seen: policy.Stage, or dns
	Reason   string `json:"reason,omitempty"`
	Response string `json:"response,omitempty"` // what the guest got on deny: drop, rst, icmp, or the RCode
}

// denies reports whether the event tells of something denied, once: the close of
// a denied flow doesn't.
func (r record) denies() bool {
	switch r.Type {
	case typeDeny:
		return true
	case typeQuery:
		return r.Verdict != nil && r.Verdict.Action == policy.Deny.String()
	}
	return false
}

// networkRecord returns the record of an event of the network. It is called where
// packets wait, so the rest is for later.
func networkRecord(e vnet.Event) record {
	return record{Type: e.Type, Time: e.Time, network: &e}
}

// resolverRecord returns the record of an event of the resolver.
func resolverRecord(e dns.Event) record {
	r := record{Type: e.Type, Time: e.Time, Policy: generation(e.Generation), Limit: e.Limit, Count: e.Count, Message: e.Message}
	if e.Type != typeQuery {
		return r
	}
	r.DNS = &recordDNS{
		Name:     e.Name,
		Type:     e.QType,
		Protocol: e.Protocol.String(),
		RCode:    e.RCode,
		Reason:   e.Reason,
		Addrs:    e.Addrs,
		Cached:   e.Cached,
		Duration: e.Duration.Seconds(),
	}
	if e.Upstream.IsValid() {
		r.DNS.Upstream = e.Upstream.String()
	}
	response := ""
	if e.Verdict.Action == policy.Deny {
		response = e.RCode
	}
	r.Verdict = verdict(e.Verdict, "dns", response)
	return r
}

func verdict(v policy.Verdict, stage, response string) *recordVerdict {
	return &recordVerdict{
		Action:   v.Action.String(),
		Rule:     v.Rule,
		Source:   v.Source,
		Text:     v.Text,
		Stage:    stage,
		Reason:   v.Reason,
		Response: response,
	}
}

func generation(n uint64) *recordPolicy {
	if n == 0 {
		return nil
	}
	return &recordPolicy{n}
}

func end(a netip.AddrPort) recordEnd { return recordEnd{Addr: a.Addr(), Port: a.Port()} }

// groupName returns a group's name, "" for none.
func groupName(g policy.Group) string {
	if g == policy.GroupNone {
		return ""
	}
	return g.String()
}
