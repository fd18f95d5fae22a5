package sdk

import (
	"fmt"

	"github.com/sluicenet/sluice/policy"
)

// A PolicyRule allows or denies flows. The first rule that matches a flow
// decides it; a broad rule before a narrow one swallows it.
//
// A rule matches if the destination does and, where they are given, protocol
// and port. Protocol and Protocols are one set, as are Port and Ports; an empty
// set means any. A rule with ports never matches ICMP.
type PolicyRule struct {
	// Action is needed.
	Action PolicyAction `json:"action"`
	// Direction is seen from the guest; empty means egress.
	Direction PolicyDirection `json:"direction,omitempty"`
	// Destination is the other end: a group (public, private, loopback,
	// link-local, metadata, multicast, host), an IP address, a CIDR, a domain,
	// ".suffix" for its subdomains, or "*". Empty means "*". In ingress it is
	// the peer that connects.
	Destination string `json:"destination,omitempty"`
	// Protocol is one of the set.
	Protocol PolicyProtocol `json:"protocol,omitempty"`
	// Protocols are the rest of the set.
	Protocols []PolicyProtocol `json:"protocols,omitempty"`
	// Port is one of the set: "443" or "8000-9000". In egress it is the remote
	// port, in ingress the guest's.
	Port string `json:"port,omitempty"`
	// Ports are the rest of the set.
	Ports []string `json:"ports,omitempty"`
}

// ParsePolicyRule reads a rule's text:
//
//	ACTION [DIRECTION] DESTINATION [PROTOCOL,…] [PORT,…]
//
// such as "allow egress api.example.com tcp 443". Its error has kind
// ErrInvalidArgument.
func ParsePolicyRule(text string) (PolicyRule, error) {
	r, err := policy.ParseRule(text)
	if err != nil {
		return PolicyRule{}, &Error{Kind: ErrInvalidArgument, Op: fmt.Sprintf("parse rule %q", text), Cause: err}
	}
	return ruleOf(r), nil
}

// ruleOf returns a rule in the words of a configuration.
func ruleOf(r policy.Rule) PolicyRule {
	s := r.Spec()
	rule := PolicyRule{
		Action:      PolicyAction(s.Action),
		Direction:   PolicyDirection(s.Direction),
		Destination: s.Destination,
		Ports:       s.Ports,
	}
	for _, p := range s.Protocols {
		rule.Protocols = append(rule.Protocols, PolicyProtocol(p))
	}
	return rule
}

// String returns the rule as ParsePolicyRule reads it; of one that is not sound,
// what it holds.
func (r PolicyRule) String() string {
	rule, problems := r.spec().Rule()
	if problems.Err() != nil {
		return fmt.Sprintf("%+v", r.spec())
	}
	return rule.String()
}

// spec returns the rule in the words of package policy.
func (r PolicyRule) spec() policy.RuleSpec {
	s := policy.RuleSpec{
		Action:      string(r.Action),
		Direction:   string(r.Direction),
		Destination: r.Destination,
		Protocol:    string(r.Protocol),
		Port:        r.Port,
		Ports:       r.Ports,
	}
	for _, p := range r.Protocols {
		s.Protocols = append(s.Protocols, string(p))
	}
	return s
}

// A PolicyAction is what a rule or default does with a flow.
type PolicyAction string

const (
	PolicyActionAllow PolicyAction = "allow" // permit the flow
	PolicyActionDeny  PolicyAction = "deny"  // refuse it, as NetworkConfig.DenyResponse says
)

// A PolicyDirection is a flow's direction, seen from the guest.
type PolicyDirection string

const (
	PolicyDirectionEgress  PolicyDirection = "egress"  // the guest connects
	PolicyDirectionIngress PolicyDirection = "ingress" // somebody connects to the guest
	PolicyDirectionAny     PolicyDirection = "any"     // either
)

// A PolicyProtocol is what a flow speaks.
type PolicyProtocol string

const (
	PolicyProtocolTCP    PolicyProtocol = "tcp"
	PolicyProtocolUDP    PolicyProtocol = "udp"
	PolicyProtocolICMPv4 PolicyProtocol = "icmpv4" // egress only
	PolicyProtocolICMPv6 PolicyProtocol = "icmpv6" // egress only
)

// Rule makes rules that need more than one field.
var Rule ruleFactory

type ruleFactory struct{}

// AllowDNS returns the rule that lets the guest resolve every name: allow
// egress host udp,tcp 53. Beside rules for domains it is rarely wanted: those
// allow the queries for their names themselves.
func (ruleFactory) AllowDNS() PolicyRule { return dnsRule(PolicyActionAllow) }

// DenyDNS returns the rule that refuses every query that no earlier rule
// permits: deny egress host udp,tcp 53.
func (ruleFactory) DenyDNS() PolicyRule { return dnsRule(PolicyActionDeny) }

func dnsRule(action PolicyAction) PolicyRule {
	return PolicyRule{
		Action:      action,
		Direction:   PolicyDirectionEgress,
		Destination: "host",
		Protocols:   []PolicyProtocol{PolicyProtocolUDP, PolicyProtocolTCP},
		Port:        "53",
	}
}
