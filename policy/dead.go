package policy

import (
	"fmt"
	"strings"
)

// A cover is what the rules before one leave of it.
type cover struct {
	denied string // why it is always denied, of a flow that the rule matches; "" if it matches none such
	flows  bool   // the rule matches flows that are not always denied
	live   bool   // no earlier rule decides one of them
	by     int    // an earlier rule that decides one, an allow if there is any; valid iff flows
}

// lintCovered finds the rules that never decide anything.
//
// For this check a flow is an address, a protocol and a port, and for a domain
// rule also a name of that domain, which the configured resolver gave for the
// address. A domain thus stands for all public addresses. An earlier domain rule
// decides all flows of a domain that it contains, and some of one that contains it.
func (u *universe) lintCovered() Problems {
	covers := make([]cover, len(u.p.rules))
	alive := make(map[string]bool) // sources of which one rule decides something
	for i := range u.p.rules {
		covers[i] = u.cover(i)
		if c := covers[i]; c.live {
			alive[u.p.rules[i].Source] = true
		}
	}
	var problems Problems
	reported := make(map[string]bool)
	for i, c := range covers {
		r := &u.p.rules[i]
		source := ruleField(r, i)
		switch {
		case c.live || alive[r.Source] && r.Source != "" || reported[source]:
			// An entry of DenyDomainSuffixes is two rules, of which one is enough.
			continue
		case strings.HasPrefix(r.Source, sourcePreset) || r.check().Err() != nil:
			continue // not the user's to mend, or wrong in a way that was said
		}
		if problem, found := u.uncovered(i, c); found {
			reported[source] = true
			problems = append(problems, problem)
		}
	}
	return problems
}

// cover returns what the rules before rule i leave of it. It looks at one flow
// of every kind and cell that the rule matches, and stops at the first that is
// left, so that only a dead rule costs all of them.
func (u *universe) cover(i int) cover {
	d := u.p.rules[i].Destination
	c := u.coverName(i, d.anyName())
	// Which rule comes before a dead one matters only where it is an allow: a deny
	// that denies nothing is an error, and whoever else is dead a warning.
	if c.live || !c.flows || d.kind != destSuffix || u.p.rules[c.by].Action == Allow {
		return c
	}
	// All of the domain is denied before; perhaps a part of it is allowed earlier yet.
	for _, j := range u.allows {
		name := u.p.rules[j].Destination.anyName()
		if j >= i || !d.matchesName(name) {
			continue
		}
		if part := u.coverName(i, name); part.flows && !part.live && u.p.rules[part.by].Action == Allow {
			c.by = part.by
			return c
		}
	}
	return c
}

// coverName is cover for flows that show a name, "" for rules by address.
func (u *universe) coverName(i int, name string) cover {
	r := &u.p.rules[i]
	c := cover{by: -1}
	for _, k := range u.kinds(r) {
		domain := u.namedBy(name, k)
		for n := range u.cells {
			cell := &u.cells[n]
			if !k.has(cell) || !u.matches(r, k, cell) {
				continue
			}
			if why := k.denied(cell); why != "" {
				c.denied = why
				continue
			}
			c.flows = true
			// The first of both kinds decides, as in a walk.
			by := min(domain, u.decides(k, cell))
			if by >= i {
				c.live = true
				return c
			}
			if c.by < 0 || u.p.rules[by].Action == Allow && u.p.rules[c.by].Action == Deny {
				c.by = by
			}
		}
	}
	return c
}

// unnamed begins a name that stands for every subdomain that no rule names,
// since no rule can name it: a question mark is in no name that ParseName takes.
const unnamed = "?."

// anyName returns a name that d matches and that as few other domains as possible
// do; "" if d is no domain.
func (d Destination) anyName() string {
	if d.kind == destSuffix {
		return unnamed + d.name
	}
	return d.name
}

// namedBy returns the index of the first domain rule that fits the kind and matches
// the name; the index behind the last if there is none.
func (u *universe) namedBy(name string, k flowKind) int {
	if name == "" {
		return len(u.p.rules)
	}
	return u.p.index.nextDomain(0, len(u.p.rules), name, func(j int32) bool {
		o := &u.p.rules[j]
		return o.fitsProtocol(k.direction, k.protocol) && o.fitsPort(k.protocol, k.port)
	})
}

// uncovered returns the problem with rule i, which decides nothing. There is
// none with a deny of what is always denied: it may stand for its reader.
func (u *universe) uncovered(i int, c cover) (Problem, bool) {
	r := &u.p.rules[i]
	problem := Problem{Field: ruleField(r, i), Value: u.p.texts[i], Warning: true}
	// From what the user most likely meant to what is left: each case has to be
	// one that none of the former explains.
	switch {
	case c.flows:
		u.describeDead(&problem, i, c.by)
	case c.denied != "" && r.Action == Deny:
		return Problem{}, false // it says what holds anyway
	case c.denied != "":
		problem.Message, problem.Fix = "allows only what is always denied", c.denied
	case r.Destination.kind == destPrefix && wellKnownNAT64.Overlaps(r.Destination.prefix):
		problem.Message, problem.Fix = "never matches: NAT64 addresses are judged by the IPv4 address inside", "write that"
	case r.Destination == GroupDestination(GroupLoopback):
		problem.Message, problem.Fix = "never matches: the host's loopback is group host for ingress", "write host"
	default:
		problem.Message, problem.Fix = "never matches: the protocol is not the addresses'", "icmpv4 is for IPv4, icmpv6 for IPv6"
	}
	return problem, true
}

// describeDead fills in the problem with rule i, whose flows are all decided by
// earlier rules, by among them. A deny that lets pass what it names is an error,
// as somebody relies on it; anything else that is dead is only untidy.
func (u *universe) describeDead(problem *Problem, i, by int) {
	r, earlier := &u.p.rules[i], &u.p.rules[by]
	what := "is never reached"
	if r.Action == Deny && earlier.Action == Allow {
		what, problem.Warning = "denies nothing", false
	}
	problem.Message = fmt.Sprintf("%s: %s (%s) decides before it", what, ruleField(earlier, by), u.p.texts[by])
	// A fix has to be possible: nothing of the user's can stand before a preset's
	// rules or a deny list.
	switch {
	case r.Action == earlier.Action:
		problem.Fix = "drop it"
	case strings.HasPrefix(earlier.Source, sourcePreset):
		problem.Fix = fmt.Sprintf("drop Policy and write Rules: [%s]", u.presetBehind(i))
	case strings.HasPrefix(earlier.Source, "DenyDomain"):
		problem.Fix = "drop it, or take " + earlier.Source + " out"
	default:
		problem.Fix = "put it before " + ruleField(earlier, by)
	}
}

// presetBehind writes rule i and behind it the preset's rules, as Rules would
// hold them without Policy.
func (u *universe) presetBehind(i int) string {
	texts := []string{u.p.texts[i]}
	for k := range u.p.rules {
		if strings.HasPrefix(u.p.rules[k].Source, sourcePreset) {
			texts = append(texts, u.p.texts[k])
		}
	}
	return strings.Join(texts, ", ")
}
