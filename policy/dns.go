package policy

import "net/netip"

// A Query is a name that a guest asks for.
type Query struct {
	// Name is canonical; "" is the root.
	Name string
	// Transport is how the query came: UDP or TCP.
	Transport Protocol
	// Service reports that the type is SRV, TXT, URI, SVCB or HTTPS, so that
	// two leading labels that begin with an underscore may be left off.
	Service bool
}

// concernsQueries reports whether the rule, which is no domain rule, says
// anything about queries.
func (r *Rule) concernsQueries() bool {
	d := r.Destination
	return r.direction()&Egress != 0 && (d.kind == destAny || d.kind == destGroup && (d.group == GroupHost || d.group == GroupPublic))
}

// PermitDNS returns the verdict for a query: whether it may be answered from
// upstream.
func (p *Policy) PermitDNS(q Query) Verdict { return Verdict{Rule: -1, Reason: reasonNoPolicy} }

// PermitHop returns the verdict for a name that the answer to a permitted query
// leads to.
func (p *Policy) PermitHop(permit Verdict, name string) Verdict {
	return Verdict{Rule: -1, Reason: reasonNoPolicy}
}

// AdmitAnswer returns the verdict on an address in an answer: rebind protection.
func (p *Policy) AdmitAnswer(h *Host, a netip.Addr) Verdict {
	return Verdict{Rule: -1, Reason: reasonNoHost}
}
