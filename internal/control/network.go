package control

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
)

// A Flow is one that is open.
type Flow struct {
	ID        uint64         `json:"id"`
	Direction string         `json:"direction"` // egress or ingress
	Protocol  string         `json:"protocol"`  // tcp, udp, icmpv4, icmpv6
	Src       netip.AddrPort `json:"src"`
	Dst       netip.AddrPort `json:"dst"`
	Dialed    netip.AddrPort `json:"dialed,omitzero"`     // where the host's socket went, if not to Dst
	Name      string         `json:"name,omitempty"`      // what the guest called it
	NameFrom  string         `json:"name_from,omitempty"` // dns, sni or http
	Stage     string         `json:"stage,omitempty"`     // what had been seen when it was decided
	BytesOut  uint64         `json:"bytes_out"`           // from the guest so far
	BytesIn   uint64         `json:"bytes_in"`            // to the guest so far
	Seconds   float64        `json:"duration_s"`          // since it was opened
}

// Stats is what a sandbox's network has counted since it began.
type Stats struct {
	FramesFromGuest uint64            `json:"frames_from_guest"`
	BytesFromGuest  uint64            `json:"bytes_from_guest"` // of Ethernet frames
	FramesToGuest   uint64            `json:"frames_to_guest"`
	BytesToGuest    uint64            `json:"bytes_to_guest"`
	Drops           map[string]uint64 `json:"drops"` // frames that went no further, by reason
	TCPFlows        int               `json:"tcp_flows"`
	HeldFlows       int               `json:"held_flows"` // of the TCP flows: the host hasn't answered yet
	DNS             map[string]uint64 `json:"dns"`        // the resolver's counters, by name
	Allowed         uint64            `json:"allowed"`    // flows
	Denied          uint64            `json:"denied"`     // flows and queries
}

// An Updated says how a new network configuration was taken.
type Updated struct {
	Generation uint64   `json:"generation"` // of the policy, as events name it
	Warnings   []string `json:"warnings,omitempty"`
}

// An Explanation says what would become of a flow to a target, stage by stage.
type Explanation struct {
	Target string             `json:"target"` // as it was asked
	Stages []ExplanationStage `json:"stages"` // in the order in which a flow meets them
}

// An ExplanationStage is one decision with the way to it.
type ExplanationStage struct {
	Stage    string            `json:"stage"`               // dns, address, opaque or name
	Flow     string            `json:"flow,omitempty"`      // what was decided about
	Names    []string          `json:"names,omitempty"`     // that the resolver gave for the address, now
	Action   string            `json:"action"`              // allow or deny
	Rule     int               `json:"rule"`                // index into the flattened list; -1 without a rule
	Source   string            `json:"source"`              // in the user's words
	Text     string            `json:"text,omitempty"`      // the rule's
	Reason   string            `json:"reason,omitempty"`    // where the rule doesn't say it all
	Group    string            `json:"group,omitempty"`     // of the address
	Steps    []ExplanationStep `json:"steps,omitempty"`     // every rule in order, then the default
	Change   string            `json:"change,omitempty"`    // the smallest rule that would turn the verdict round
	ChangeAt string            `json:"change_at,omitempty"` // where it is to stand
}

// An ExplanationStep is one rule and how it compared.
type ExplanationStep struct {
	Rule    int    `json:"rule"`
	Source  string `json:"source"`
	Text    string `json:"text,omitempty"`
	Action  string `json:"action"`
	Matched bool   `json:"matched"`
	Reached bool   `json:"reached"` // no rule before it decided
	Why     string `json:"why"`
	Missing string `json:"missing,omitempty"` // the evidence that would make it match
}

type (
	dialRequest struct {
		Network string `json:"network"`
		Address string `json:"address"`
	}
	explainRequest struct {
		Target string `json:"target"`
	}
	secretRequest struct {
		Value string `json:"value"`
	}
)

// Ports returns what is published.
func (c *Client) Ports(ctx context.Context) ([]Port, error) {
	return ask[[]Port](ctx, c, http.MethodGet, "/v1/ports", nil)
}

// Publish publishes a port and returns it with the address that was bound.
func (c *Client) Publish(ctx context.Context, p Port) (Port, error) {
	return ask[Port](ctx, c, http.MethodPost, "/v1/ports", p)
}

// Unpublish ends the publication of a port, and the flows that came through it.
func (c *Client) Unpublish(ctx context.Context, p Port) error {
	return c.call(ctx, http.MethodPost, "/v1/ports/remove", p, nil)
}

// SFTP opens a session with the guest's files: SFTP version 3, at the guest's
// root, as its root. The caller closes it.
func (c *Client) SFTP(ctx context.Context) (io.ReadWriteCloser, error) {
	s, err := c.upgrade(ctx, http.MethodGet, "/v1/sftp", sftpProtocol, nil)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Dial connects to an address as the guest sees it: ":80" and "80" are its
// ports, reached over its network card, other addresses are dialled in the guest
// itself, which networks "tcp" and "unix" know. ctx governs the dialling only.
// The connection has CloseWrite.
func (c *Client) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	s, err := c.upgrade(ctx, http.MethodPost, "/v1/dial", dialProtocol, dialRequest{network, address})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// The tokens of the upgrades to streams of bytes.
const (
	sftpProtocol = "sftp"
	dialProtocol = "tcp"
)

// Flows returns the flows that are open.
func (c *Client) Flows(ctx context.Context) ([]Flow, error) {
	return ask[[]Flow](ctx, c, http.MethodGet, "/v1/flows", nil)
}

// Stats returns what the network has counted.
func (c *Client) Stats(ctx context.Context) (Stats, error) {
	return ask[Stats](ctx, c, http.MethodGet, "/v1/stats", nil)
}

// Update replaces the network's policy by that of a configuration, of which
// nothing else may differ.
func (c *Client) Update(ctx context.Context, config json.RawMessage) (Updated, error) {
	return ask[Updated](ctx, c, http.MethodPost, "/v1/network", config)
}

// Explain says what would become of a flow to a target, such as
// https://example.com, udp://1.1.1.1:53, icmp://10.0.0.1 or in://:8080, with what
// the sandbox's resolver knows now.
func (c *Client) Explain(ctx context.Context, target string) (Explanation, error) {
	return ask[Explanation](ctx, c, http.MethodPost, "/v1/explain", explainRequest{target})
}

// Secrets returns the names of the secrets.
func (c *Client) Secrets(ctx context.Context) ([]string, error) {
	return ask[[]string](ctx, c, http.MethodGet, "/v1/secrets", nil)
}

// SetSecret gives a secret another value.
func (c *Client) SetSecret(ctx context.Context, name, value string) error {
	return c.call(ctx, http.MethodPut, "/v1/secrets/"+url.PathEscape(name), secretRequest{value}, nil)
}

// RemoveSecret takes a secret away: its placeholder is sent to nobody any more.
func (c *Client) RemoveSecret(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/secrets/"+url.PathEscape(name), nil, nil)
}
