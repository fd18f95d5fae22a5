package vnet

import (
	"time"

	"github.com/sluicenet/sluice/policy"
)

// This file decides flows again when the rules are replaced, from the record that
// flow.go made of them.

// SetPolicy replaces the policy alone. Flows that the new one denies are cut.
func (n *Network) SetPolicy(p *policy.Policy) {
	n.setRules(func(r *rules) { r.policy = p })
}

// SetRules replaces the policy and, in the same moment, what it says of denied
// flows: see Config.Reject. Flows that the new one denies are cut.
func (n *Network) SetRules(p *policy.Policy, reject bool) {
	n.setRules(func(r *rules) { r.policy, r.reject = p, reject })
}

// SetHost replaces what is known of the host's addresses. Flows that are now
// denied are cut.
func (n *Network) SetHost(h *policy.Host) {
	n.setRules(func(r *rules) { r.host = h })
}

func (n *Network) setRules(change func(*rules)) {
	n.rulesMu.Lock()
	defer n.rulesMu.Unlock()
	next := *n.rules.Load()
	change(&next)
	next.generation++
	n.rules.Store(&next)
	now := time.Now()
	n.tcp.each(func(f *tcpFlow) { n.reviewTCP(f, now) })
	n.udp.recheck(now)
	n.icmp.recheck(now)
	n.inbound.recheck(&next, now)
}

// reviewTCP decides f again if its verdict is not of this moment's rules, by the
// evidence that it has, and reports whether it may go on. If not, that is
// recorded, and the flow is cut.
//
// Evidence changes, and is read here, under the flow's lock, and the rules are
// loaded under it. So either this finds the evidence of who came before, or that
// one finds the new rules.
func (n *Network) reviewTCP(f *tcpFlow, now time.Time) bool {
	if f.port == nil && f.inspected != n.inspects(f) {
		f.cut(endClosed)
		return false
	}
	if f.port == nil && (n.isDNS(f) || n.isDoT(f)) {
		return true
	}
	f.mu.Lock()
	r := n.rules.Load()
	if goesOn := f.goesOnLocked(); !goesOn || f.generation == r.generation {
		f.mu.Unlock()
		return goesOn
	}
	f.decided, f.generation, f.stage = f.decideAgainLocked(r), r.generation, f.evidence.Stage
	ok, v, unclassified := f.goesOnLocked(), f.decided, f.evidence.Stage == policy.StageAddress
	f.mu.Unlock()
	if !ok {
		n.allowedOrRecorded(f, v, r.generation, now)
		f.cut(endDenied)
		return false
	}
	if d := f.direct.Load(); d != nil && unclassified {
		d.reviewed()
	} else if unclassified {
		select {
		case f.reviewed <- struct{}{}:
		default: // its gate has not looked since the last time
		}
	}
	return true
}

// goesOnLocked reports whether the flow's verdict lets it go on, be it to show
// its name.
func (f *tcpFlow) goesOnLocked() bool {
	return f.decided.Action == policy.Allow || f.decided.NeedsName
}

// decideAgainLocked decides the flow under r, judged by the evidence that it has.
func (f *tcpFlow) decideAgainLocked(r *rules) policy.Verdict {
	v := r.decide(f.askedLocked(), f.evidence)
	if f.evidence.Stage == policy.StageAddress {
		return v // it goes on under the new rules' cases
	}
	for _, name := range f.streams {
		if v.Action != policy.Allow {
			return v
		}
		ev := policy.Evidence{Stage: policy.StageName, Name: name, Names: f.evidence.Names}
		v = r.decide(f.askedLocked(), ev)
	}
	if f.spliced && v.Action == policy.Allow &&
		r.decide(f.askedLocked(), policy.Evidence{Names: f.evidence.Names}).NeedsName {
		v.Action, v.Reason = policy.Deny, reasonSpliced
	}
	return v
}

// reasonSpliced is why a flow is cut that the new rules allow.
const reasonSpliced = "its requests must be read under these rules, and were not before"
