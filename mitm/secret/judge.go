package secret

import "strings"

// A Proof says what the caller knows about who is at the other end.
type Proof uint8

const (
	// ProofNone: nothing, or not enough. No secret goes out.
	ProofNone Proof = iota
	// ProofPlain: without TLS, but the host's name was resolved to this address by
	// the configured resolvers for this sandbox, and the address is public or
	// admitted. Enough for secrets with AllowPlain.
	ProofPlain
	// ProofTLS: inside a TLS session whose certificate was verified for the host, and
	// the host's name was resolved as for ProofPlain.
	ProofTLS
)

// suffices reports whether p lets a secret go out to its hosts.
func (p Proof) suffices(s *Secret) bool {
	return p == ProofTLS || p == ProofPlain && s.AllowPlain
}

// A verdict is what was decided about a placeholder. With Inject, value takes its
// place, spelled as as.
type verdict struct {
	finding Finding
	value   Value
	as      Spelling
}

// judge is the one place where a value is let go. In order: the host must be the
// secret's; the connection must prove enough; the place must be permitted; and it
// must be one in which the placeholder's spelling can be replaced.
func (r *Request) judge(p Place, header string, h hit) verdict {
	var (
		group  = r.view.groups[h.subject]
		best   *Secret // one that lists the host
		action Action
		reason = Unlisted
	)
	for _, i := range group {
		s := &r.view.secrets[i].Secret
		action = max(action, s.OnViolation)
		switch {
		case !r.scope.listed[i]:
		case !r.to.Proof.suffices(s):
			reason = Unverified
		case best == nil || s.permits(p):
			best = s
		}
	}
	f := Finding{Secret: r.view.secrets[group[0]].EnvVar, Place: p, Header: header, Spelling: h.spelling}
	if best == nil {
		f.Kind, f.Reason, f.Action = Block, reason, action
		return verdict{finding: f}
	}
	f.Secret = best.EnvVar
	if !best.permits(p) || reflected(header) || r.method == "TRACE" {
		f.Kind = Skip
		return verdict{finding: f}
	}
	as, ok := h.spelling, true
	switch p {
	case PlaceQuery:
		as, ok = Percent, h.spelling != JSON
	case PlaceBody:
		as, ok = r.kind.spell(h.spelling)
	}
	if !ok {
		f.Kind, f.Reason, f.Action = Block, Framing, best.OnViolation
		return verdict{finding: f}
	}
	f.Kind = Inject
	return verdict{f, best.Value, as}
}

// permits reports whether the value may stand in a place.
func (s *Secret) permits(p Place) bool {
	switch p {
	case PlaceHeader, PlaceBasic:
		return true
	case PlaceQuery:
		return s.InjectQuery
	case PlaceBody:
		return s.InjectBody
	}
	return false
}

// reflected reports whether servers like to show a header to others: in pages,
// logs, or as the address to come back to.
func reflected(name string) bool {
	switch {
	case strings.EqualFold(name, "Host"), strings.EqualFold(name, "User-Agent"), strings.EqualFold(name, "Referer"),
		strings.EqualFold(name, "Origin"), strings.EqualFold(name, "Forwarded"):
		return true
	}
	const forwarded = "X-Forwarded-"
	return len(name) >= len(forwarded) && strings.EqualFold(name[:len(forwarded)], forwarded)
}
