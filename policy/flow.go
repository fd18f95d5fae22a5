package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// A Protocol is what a flow speaks. The zero Protocol is not valid.
type Protocol uint8

const (
	_ Protocol = iota
	TCP
	UDP
	ICMPv4
	ICMPv6
)

// protocolNames holds the names of the reference, by Protocol.
var protocolNames = [...]string{TCP: "tcp", UDP: "udp", ICMPv4: "icmpv4", ICMPv6: "icmpv6"}

// String returns the protocol's name in lower case, as rules spell it.
func (p Protocol) String() string {
	if p.valid() {
		return protocolNames[p]
	}
	return fmt.Sprintf("Protocol(%d)", uint8(p))
}

// HasPorts reports whether the protocol's flows have ports: TCP and UDP do.
func (p Protocol) HasPorts() bool { return p == TCP || p == UDP }

func (p Protocol) valid() bool { return p >= TCP && p <= ICMPv6 }

// A ProtocolSet is a set of protocols. The zero ProtocolSet stands for any
// protocol, as an absent filter does.
type ProtocolSet uint8

// ProtocolsOf returns the set of the given protocols; of none, the set that
// stands for any.
func ProtocolsOf(protocols ...Protocol) ProtocolSet {
	var s ProtocolSet
	for _, p := range protocols {
		s |= 1 << p
	}
	return s
}

// Has reports whether p is in the set, or the set stands for any protocol.
func (s ProtocolSet) Has(p Protocol) bool { return s == 0 || s.Lists(p) }

// Lists reports whether p is in the set by name. A set that stands for any
// protocol lists none.
func (s ProtocolSet) Lists(p Protocol) bool { return s&(1<<p) != 0 }

// String returns the names in the set, separated by commas, and "" for any.
func (s ProtocolSet) String() string {
	var names []string
	for p := TCP; p <= ICMPv6; p++ {
		if s.Lists(p) {
			names = append(names, p.String())
		}
	}
	return strings.Join(names, ",")
}

// A Direction is a flow's direction, seen from the guest. The zero Direction
// is not valid for a flow; in a rule it means Egress.
type Direction uint8

const (
	_ Direction = iota
	Egress
	Ingress
	// Any is for rules only: the rule applies in either direction.
	Any = Egress | Ingress
)

// String returns the direction's name in lower case, as rules spell it.
func (d Direction) String() string {
	switch d {
	case Egress:
		return "egress"
	case Ingress:
		return "ingress"
	case Any:
		return "any"
	}
	return fmt.Sprintf("Direction(%d)", uint8(d))
}

// An Action is what a rule or default does. The zero Action denies.
type Action uint8

const (
	Deny Action = iota
	Allow
)

// String returns "deny" or "allow".
func (a Action) String() string {
	switch a {
	case Deny:
		return "deny"
	case Allow:
		return "allow"
	}
	return fmt.Sprintf("Action(%d)", uint8(a))
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

// port returns the port that rules compare: the remote one out, the guest's in.
func (f Flow) port() uint16 {
	if f.Direction == Ingress {
		return f.GuestPort
	}
	return f.Peer.Port()
}

// A Stage says how much of a flow has been seen.
type Stage uint8

const (
	StageAddress   Stage = iota // the first packet only: rows "no name" decide V0, the verdict may say NeedsName
	StageNoName                 // classified: opaque, UDP or ICMP
	StageName                   // classified: Name is known
	StageMalformed              // classified as nothing that may carry a name
)

// String returns the stage's name, as events spell it.
func (s Stage) String() string {
	switch s {
	case StageAddress:
		return "address"
	case StageNoName:
		return "no-name"
	case StageName:
		return "name"
	case StageMalformed:
		return "malformed"
	}
	return fmt.Sprintf("Stage(%d)", uint8(s))
}

// Evidence is what is known of a flow beside its address.
type Evidence struct {
	Stage Stage
	// Name is N: the name seen first in the guest's bytes. Valid iff Stage is
	// StageName; canonical (see CanonicalName).
	Name string
	// Names is P(A): the names that the configured resolver answered with the
	// flow's address. Canonical. Decide neither changes nor keeps it.
	Names []string
}

// A Verdict is a decision and its reason. The zero Verdict denies.
type Verdict struct {
	Action Action
	// NeedsName reports that the first flight must be seen before the flow is
	// finally decided; only at StageAddress. Action is then V0: Allow with Dial
	// in case b of the contract, Deny without in case c, so that who looks at
	// Action alone fails closed.
	NeedsName bool
	// Dial reports, together with NeedsName, that the host may be dialled at
	// once (case b).
	Dial bool
	// PerRequest reports that a name decided the flow or another name could
	// still deny it: plain HTTP on it must not be spliced.
	PerRequest bool
	// Refuse says which datagrams of a UDP flow get port unreachable although
	// Action is Allow.
	Refuse Refusal
	// ByAddress reports that the address alone decided, by a rule about addresses or
	// the default: no name had a part in it.
	ByAddress bool
	Rule      int    // index into the flattened list; -1 for a default or an address that is always denied
	Source    string // where the rule comes from: Rules[2], preset public-only, default egress
	Text      string // the rule's text, as ParseRule reads it; "" without a rule
	Reason    string // one clause in words, "" where the rule says it all
	Group     Group  // of the flow's peer
}

// A Refusal says which datagrams of an allowed UDP flow are refused, so that
// clients fall back from QUIC to TCP, where the name can be seen. The zero
// Refusal refuses none.
type Refusal uint8

const (
	RefuseNone Refusal = iota
	RefuseQUIC         // those that are a QUIC Initial
	RefuseAll          // every one
)

// Refuses reports whether a datagram is refused; quic says that it is a QUIC
// Initial.
func (r Refusal) Refuses(quic bool) bool { return r == RefuseAll || r == RefuseQUIC && quic }

// String returns "none", "quic" or "all".
func (r Refusal) String() string {
	switch r {
	case RefuseNone:
		return "none"
	case RefuseQUIC:
		return "quic"
	case RefuseAll:
		return "all"
	}
	return fmt.Sprintf("Refusal(%d)", uint8(r))
}
