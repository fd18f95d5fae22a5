// Package policy decides whether a flow may pass: rules, first match wins.
//
// Call [New] with a [Config] (from [Spec.Flatten], or [Preset]), then
// [Policy.Decide] for every flow, [Policy.PermitDNS] for every query and
// [Policy.AdmitAnswer] for every address in an answer. [Policy.Explain] and
// [Policy.ExplainDNS] give the same verdicts with the way to them.
//
// What it will not do: look at the network, a clock or a file, remember
// anything, or start a goroutine. A [Policy] is a value that never changes; who
// replaces one decides the open flows again with the evidence they had. A deny
// list binds names, not machines: an address that is known by heart, with a
// foreign name in the first bytes, is not that name.
//
// # Theory of operation
//
// A flow is decided by its peer's address, protocol and port, and by evidence:
// N, the name that the guest's first bytes show (SNI, else the HTTP authority),
// and P(A), the names that the configured resolver answered with the address.
//
//		flow ─► Host.place ─► always denied? ─► walk over the rules ─► Verdict
//		        the class      no rule helps     Yes or No for each     Dial, NeedsName,
//		        of the peer                      in order, or default   Refuse, PerRequest
//
//	 1. The address is judged as it is or, in NAT64 form, by the IPv4 address
//	    inside. Some addresses are denied whatever the rules say ([Host.AlwaysDenied]).
//	 2. The rules are asked in order: deny lists, the preset's, the user's. The
//	    first Yes decides, else the default of the direction.
//	 3. A rule whose direction, protocol or port does not fit is No.
//	 4. A group, prefix, address or * is Yes or No by the address alone.
//	 5. With a name N, allow D is Yes if N matches D and is in P(A); deny D is Yes
//	    if N matches D, or if N is not in P(A) and a name in P(A) matches D.
//	 6. Without a name, allow D is Yes if a name in P(A) matches D and every name
//	    in P(A) would be allowed if it were shown; deny D is Yes if a name in P(A)
//	    matches D.
//	 7. After malformed bytes every D is Yes, and denies.
//	 8. Allow D is Yes only for an address that is public, or that the address
//	    rules and the default alone allow (admitted), or that is private or
//	    link-local while rebind protection is off.
//	 9. At the first packet of a TCP flow sentence 6 gives V0. If no D that fits
//	    stands before the first address Yes, V0 is final (case a). Else, if V0
//	    allows, dial and decide again by the first bytes (b); if it denies, but a
//	    name in P(A) would be allowed, wait for them (c); else it is final (d).
//
// Decide and Explain are one walk (walk.go). Each rule is compared in one place,
// walk.match; the index (index.go) only says which rules can't be Yes, so that
// a decision among a thousand costs less than a microsecond and no memory. With
// a recorder the walk visits every rule instead, and tells it each comparison.
//
// Rules that never decide anything are found by asking the same walk about a
// finite set of flows in which everything that the rules tell apart has one
// representative (universe.go, dead.go).
//
// Limits: 4096 rules by address; any number by domain. QUIC hides its name from
// us, so it is refused where names matter ([Refusal]) and clients use TCP.
package policy
