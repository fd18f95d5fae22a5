// Package policy decides whether a flow may pass. See the contract below; the
// owner of this package completes this doc.
package policy

import "net/netip"

// A Protocol is what a flow speaks. The zero Protocol is not valid.
type Protocol uint8

const (
	_ Protocol = iota
	TCP
	UDP
	ICMPv4
	ICMPv6
)

// A Direction is a flow's direction, seen from the guest. The zero Direction
// is not valid for a flow.
type Direction uint8

const (
	_ Direction = iota
	Egress
	Ingress
)

// An Action is what a rule or default does. The zero Action denies.
type Action uint8

const (
	Deny Action = iota
	Allow
)

// Host describes the machine that the sandbox runs on and the sandbox's place
// in it, as far as the classification of an address needs it. It is immutable;
// who follows the host's routes makes a new one at every change.
type Host struct {
	Gateways []netip.Addr   // the sandbox's gateway addresses: group host
	Blocks   []netip.Prefix // the sandbox's own blocks
	Others   []netip.Prefix // blocks that other sandboxes hold: always denied
	Addrs    []netip.Addr   // every other address of the host: group host
	NAT64    []netip.Prefix // NAT64 prefixes beside 64:ff9b::/96
}

// A Flow is what a decision is about.
type Flow struct {
	Direction Direction
	Protocol  Protocol
	// Peer is the other end: for egress the destination, for ingress the real
	// peer. Its port is zero for ICMP.
	Peer netip.AddrPort
	// GuestPort is the guest's port of an ingress flow.
	GuestPort uint16
}

// Evidence is what is known of a flow beside its address.
type Evidence struct {
	Stage Stage
	// Name is N: the name seen first in the guest's bytes. Valid iff Stage is
	// StageName; canonical.
	Name string
	// Names is P(A): the names that the configured resolver answered with the
	// flow's address. Canonical.
	Names []string
}

// A Stage says how much of a flow has been seen.
type Stage uint8

const (
	StageAddress   Stage = iota // the first packet only: rows "no name" decide V0, the verdict may say NeedsName
	StageNoName                 // classified: opaque, UDP or ICMP
	StageName                   // classified: Name is known
	StageMalformed              // classified as nothing that may carry a name
)

// A Verdict is a decision and its reason. The zero Verdict denies.
type Verdict struct {
	Action Action
	// NeedsName reports that the first flight must be seen before the flow is
	// finally decided (cases b and c of the contract); only at StageAddress.
	NeedsName bool
	// Dial reports, together with NeedsName, that the host may be dialled at
	// once (case b).
	Dial   bool
	Rule   int    // index into the flattened list; -1 for a default or an address that is always denied
	Source string // where the rule comes from: Rules[2], preset public-only, default egress
	Text   string // the rule's text, as ParseRule reads it; "" without a rule
	Reason string // one clause in words, "" where the rule says it all
	Group  Group  // of the flow's peer
}

// A Group is the class of an address. The zero Group is none: a reserved
// address, which no group rule matches.
type Group uint8

// A Policy is a compiled list of rules. A nil *Policy denies. It is immutable.
type Policy struct{}

// Decide returns the verdict for a flow.
func (p *Policy) Decide(h *Host, f Flow, ev Evidence) Verdict { return Verdict{} }
