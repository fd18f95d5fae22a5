package sandbox

import (
	"github.com/sluicenet/sluice/mitm"
	"github.com/sluicenet/sluice/mitm/secret"
)

// A recordPeers says which flow an event of the proxy is about.
type recordPeers struct {
	Src  recordEnd `json:"src"`
	Dst  recordEnd `json:"dst"`            // as the guest asked for it
	Name string    `json:"name,omitempty"` // SNI, or the authority without TLS
}

// A recordTLS is about one TLS connection of the guest's.
type recordTLS struct {
	recordPeers
	Version  string `json:"version,omitempty"` // on the guest's leg
	ALPN     string `json:"alpn,omitempty"`
	Verified bool   `json:"verified,omitempty"` // the server's certificate was, for the name
	// The rest is of tls.fail.
	Leg    string `json:"leg,omitempty"` // guest or upstream
	Reason string `json:"reason,omitempty"`
	Fix    string `json:"fix,omitempty"`
}

// A recordHTTP is about one request.
type recordHTTP struct {
	recordPeers
	Method   string  `json:"method"`
	Path     string  `json:"path"` // without the query
	Proto    string  `json:"proto"`
	Status   int     `json:"status,omitempty"` // 0 if the guest got none
	Sent     int64   `json:"bytes_out"`        // of the request's body
	Received int64   `json:"bytes_in"`         // of the response's body
	Duration float64 `json:"duration_s"`
}

// A recordSecret is about a secret in a request or a response. It never holds a
// value.
type recordSecret struct {
	recordPeers
	Secret   string `json:"secret"` // its name
	Place    string `json:"place,omitempty"`
	Header   string `json:"header,omitempty"`
	Spelling string `json:"spelling,omitempty"`
	Reason   string `json:"reason,omitempty"`
	Action   string `json:"action,omitempty"` // of secret.block
	Count    int    `json:"count,omitempty"`
}

// proxyRecord returns the record of an event of the proxy.
func proxyRecord(e mitm.Event) record {
	r := record{Type: e.Type, Time: e.Time, Limit: e.Limit}
	peers := recordPeers{Src: end(e.Source), Dst: end(e.Destination), Name: e.Name}
	switch e.Type {
	case mitm.EventIntercept, mitm.EventBypass, mitm.EventFail:
		r.TLS = &recordTLS{peers, e.Version, e.ALPN, e.Verified, e.Leg, e.Reason, e.Fix}
	case mitm.EventRequest:
		r.HTTP = &recordHTTP{peers, e.Method, e.Path, e.Proto, e.Status, e.Sent, e.Received, e.Duration.Seconds()}
	case mitm.EventInject, mitm.EventSkip, mitm.EventBlock, mitm.EventRedact, mitm.EventUnscanned:
		f := e.Secret
		r.Secret = &recordSecret{
			recordPeers: peers,
			Secret:      f.Secret,
			Place:       string(f.Place),
			Header:      f.Header,
			Spelling:    f.Spelling.String(),
			Reason:      string(f.Reason),
			Count:       f.Count,
		}
		if f.Action != secret.ActionDefault {
			r.Secret.Action = f.Action.String()
		}
	}
	return r
}
