package dns

import (
	"net/netip"
	"slices"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/sluicenet/sluice/policy"
)

// rules is one generation of what decides. It is immutable: a query takes the
// pointer once per answer, and so never mixes generations.
type rules struct {
	policy     *policy.Policy
	host       *policy.Host
	generation uint64
}

// A judgement is what the rules make of an answer.
type judgement struct {
	verdict policy.Verdict // what permitted the name, or what denied
	denied  ede            // set if something denied
	reason  string         // why, for the record
	// addrs are those of the answer that the guest may get: the answer's own
	// slice if it may get all.
	addrs []netip.Addr
}

// permit decides whether name may be looked up. A name that the policy doesn't
// permit for its own sake is permitted as a service's target: for the sake of
// one of origins, the questions whose answers led to it, if no deny rule stands
// before the rule that permits that question.
func (r *rules) permit(name string, qtype uint16, proto policy.Protocol, origins []origin) policy.Verdict {
	v := r.policy.PermitDNS(policy.Query{Name: name, Transport: proto, Service: isService(qtype)})
	if v.Action == policy.Allow {
		return v
	}
	for _, o := range origins {
		by := r.policy.PermitDNS(policy.Query{Name: o.name, Transport: proto, Service: isService(o.qtype)})
		if by.Action == policy.Allow && r.policy.PermitHop(by, name).Action == policy.Allow {
			return by
		}
	}
	return v
}

// isService reports whether a type is asked at names like _sip._tcp.example.com,
// which belong to the host behind the underscores.
func isService(qtype uint16) bool {
	switch qtype {
	case mdns.TypeSRV, mdns.TypeTXT, mdns.TypeURI, mdns.TypeSVCB, mdns.TypeHTTPS:
		return true
	}
	return false
}

// judge decides about an answer to the question for name, whose verdict is by:
//
//  1. A hop of the CNAME chain that the policy denies, denies the answer.
//  2. An address that is neither public nor admitted denies the answer: one
//     that is would make the other look like a choice.
//  3. Addresses that this host can't reach are left out.
func (r *rules) judge(a *answer, by policy.Verdict, usable func(netip.Addr) bool) judgement {
	for _, hop := range a.hops {
		if v := r.policy.PermitHop(by, hop); v.Action != policy.Allow {
			return judgement{verdict: v, denied: denied("the name is an alias of a denied one"), reason: "alias of " + hop + ": " + denyReason(v)}
		}
	}
	for _, addr := range a.addrs {
		if v := r.policy.AdmitAnswer(r.host, addr); v.Action != policy.Allow {
			return judgement{verdict: v, denied: denied("rebind protection"), reason: "rebind protection: " + addr.String() + " is " + v.Group.String()}
		}
	}
	addrs := a.addrs
	if usable != nil {
		unusable := func(addr netip.Addr) bool { return !usable(addr) }
		if slices.ContainsFunc(addrs, unusable) {
			addrs = slices.DeleteFunc(slices.Clone(addrs), unusable)
		}
	}
	return judgement{verdict: by, addrs: addrs}
}

// owners returns the names that the addresses of an answer to a question count for:
// the name, its host if it is a service's, and the hosts of the questions that
// led to it.
func owners(dst []string, name string, qtype uint16, origins []origin) []string {
	dst = append(dst, name)
	if host := hostOf(name, qtype); host != name {
		dst = append(dst, host)
	}
	for _, o := range origins {
		if host := hostOf(o.name, o.qtype); !slices.Contains(dst, host) {
			dst = append(dst, host)
		}
	}
	return dst
}

// hostOf returns the host that a question is about. That is another than its name
// only where a service is asked for: the A record of _x.example.com, which is
// perhaps a customer's of example.com, is no address of example.com.
func hostOf(name string, qtype uint16) string {
	if !isService(qtype) {
		return name
	}
	host, _ := serviceHost(name)
	return host
}

// record enters the addresses of an answer to name into the table of names, for
// each of its owners, and its targets into theirs. It returns the addresses that
// are now in the table for all of them.
func (s *Server) record(q *query, a *answer, addrs []netip.Addr, origins []origin, now time.Time) []netip.Addr {
	expires := a.namesExpire(now)
	var evicted, left int
	s.mu.Lock()
	for _, t := range a.targets {
		s.targets.add(t, origin{name: a.name, qtype: q.qtype, depth: 1, expires: expires}, now)
	}
	if len(addrs) > 0 {
		var list [4]string
		for _, owner := range owners(list[:0], a.name, q.qtype, origins) {
			kept, out := s.names.add(owner, addrs, expires, now)
			evicted += out
			left += len(addrs) - kept
			addrs = addrs[:kept]
		}
	}
	s.mu.Unlock()
	if evicted > 0 {
		s.stats.evicted.Add(uint64(evicted))
		s.hit(limitNames, uint64(evicted), now)
	}
	if left > 0 {
		s.hit(limitAddrs, uint64(left), now)
	}
	return addrs
}
