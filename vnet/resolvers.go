package vnet

import (
	"net/netip"
	"slices"
	"time"

	"github.com/sluicenet/sluice/policy"
)

// Ports on which names are looked up other than through the DNS proxy. What is
// learnt there enters no table of names, so rules for names would not hold.
const (
	dnsPort = 53  // DNS on TCP and UDP (RFC 1035, section 4.2): the proxy's
	dotPort = 853 // DNS over TLS (RFC 7858) on TCP, over QUIC (RFC 9250) on UDP
)

// localResolvers are the UDP ports of protocols that ask a guest's neighbours:
// NetBIOS (RFC 1002), mDNS (RFC 6762) and LLMNR (RFC 4795). It has none.
var localResolvers = []uint16{137, 138, 5353, 5355}

// Why lookups past the proxy are denied.
const (
	reasonDoT   = "DNS over TLS would hide the names that the rules are about: use port 53"
	reasonOther = "names are looked up on port 53, nowhere else"
)

// decide asks the policy about a flow, and denies what would look up names past
// the DNS proxy, where there is one.
func (r *rules) decide(f policy.Flow, ev policy.Evidence) policy.Verdict {
	if why := r.deniesLookup(f); why != "" {
		return policy.Verdict{Rule: -1, Source: "dns proxy", Reason: why, Group: r.host.Classify(f.Peer.Addr())}
	}
	return r.policy.Decide(r.host, f, ev)
}

// deniesLookup returns why a flow is denied that looks up names, or "".
func (r *rules) deniesLookup(f policy.Flow) string {
	port := f.Peer.Port()
	switch {
	case !r.proxied || f.Direction != policy.Egress:
		return ""
	case f.Protocol == policy.TCP && port == dotPort && r.policy.HasDomainRules():
		return reasonDoT // refused, so that stubs fall back to port 53
	case f.Protocol == policy.UDP && (port == dotPort || slices.Contains(localResolvers, port)):
		return reasonOther
	}
	return ""
}

// hold keeps the names that a flow to addr was decided by, as long as it is
// open, and returns what lets them go.
func (n *Network) hold(addr netip.Addr, names []string, now time.Time) (release func(time.Time)) {
	if n.cfg.Names == nil || len(names) == 0 {
		return func(time.Time) {}
	}
	return n.cfg.Names.Hold(addr, names, now)
}
