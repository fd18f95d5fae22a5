package vnet

import (
	"context"
	"net/netip"
	"time"

	"github.com/sluicenet/sluice/internal/sniff"
	"github.com/sluicenet/sluice/policy"
)

// This file is the one place that admits a flow. TCP comes here with its SYN,
// UDP and ICMP with the first packet to each peer, a published TCP port with the
// peer's connection; publishudp.go does the same for a published UDP port. Nobody
// else asks the policy.

// rules is what a decision needs, swapped as one: no decision ever mixes two
// generations.
type rules struct {
	policy     *policy.Policy
	host       *policy.Host
	reject     bool // a denied flow is answered
	generation uint64
	proxied    bool // there is a DNS proxy
}

// generation returns the number of the rules of this moment.
func (n *Network) generation() uint64 { return n.rules.Load().generation }

// decideAddress decides a TCP flow by what its SYN shows, V0 of the contract, and
// returns the rules that did.
func (n *Network) decideAddress(f *tcpFlow, now time.Time) *rules {
	r := n.rules.Load()
	if n.isDNS(f) || n.isDoT(f) {
		// The proxy answers whatever address was asked; which names may be asked
		// for is its own question to the policy.
		f.decided, f.generation = policy.Verdict{Action: policy.Allow, Rule: -1, Source: "dns proxy"}, r.generation
		return r
	}
	f.evidence = policy.Evidence{Names: n.namesOf(f.key.remote.Addr(), now)}
	f.decided = r.decide(f.asked(), f.evidence)
	f.generation = r.generation
	return r
}

// decideFlight decides a flow whose first bytes, or next request, are
// classified. A denial is recorded. follow says that what comes behind is to be
// decided too; otherwise the caller of a first flight splices the flow.
func (n *Network) decideFlight(f *tcpFlow, seen sniff.Result, first bool, now time.Time) (follow, ok bool) {
	ev := evidenceOf(seen)
	ev.Names = n.namesOf(f.peer().Addr(), now)
	f.mu.Lock()
	r := n.rules.Load()
	v := r.decide(f.askedLocked(), ev)
	if seen.Kind == sniff.HTTP2 {
		f.noteStreamLocked(seen.Name)
	}
	f.evidence, f.nameFrom, f.decided, f.generation, f.stage = ev, nameSource(seen), v, r.generation, ev.Stage
	follow = isHTTP(seen.Kind) && v.PerRequest
	f.spliced = f.spliced || first && isHTTP(seen.Kind) && !follow
	addr := f.askedLocked().Peer.Addr()
	f.mu.Unlock()
	f.keepNames(n, addr, ev.Names, now)
	if !n.allowedOrRecorded(f, v, r.generation, now) {
		return false, false
	}
	if seen.Kind == sniff.Connect {
		return n.decideTarget(f, seen, first, now)
	}
	return follow, true
}

// decideTarget decides the target of a CONNECT request, which the flow is about
// from here on. A name can't be decided: nobody has resolved it yet.
func (n *Network) decideTarget(f *tcpFlow, c sniff.Result, first bool, now time.Time) (follow, ok bool) {
	if c.Addr.IsValid() {
		target := netip.AddrPortFrom(c.Addr, c.Port)
		v, generation := n.decideConnect(f, target, policy.Evidence{Stage: policy.StageNoName}, now)
		f.mu.Lock()
		follow = n.rules.Load().decide(f.askedLocked(), policy.Evidence{Names: f.evidence.Names}).NeedsName
		f.spliced = first && !follow
		f.mu.Unlock()
		return follow, n.allowedOrRecorded(f, v, generation, now)
	}
	f.mu.Lock()
	r := n.rules.Load()
	v := policy.Verdict{Rule: -1, Source: "connect", Reason: "the target of CONNECT is a name"}
	ev := policy.Evidence{Stage: policy.StageNoName, Name: c.Name} // for the record
	f.evidence, f.nameFrom, f.decided, f.generation, f.stage = ev, "http", v, r.generation, ev.Stage
	f.mu.Unlock()
	return false, n.allowedOrRecorded(f, v, r.generation, now)
}

// decideConnect decides the address that a CONNECT request names, by what else is
// known of it, and makes it what the flow is about.
func (n *Network) decideConnect(f *tcpFlow, target netip.AddrPort, ev policy.Evidence, now time.Time) (policy.Verdict, uint64) {
	ev.Names = n.namesOf(target.Addr(), now)
	f.mu.Lock()
	r := n.rules.Load()
	f.target = target
	v := r.decide(f.askedLocked(), ev)
	f.evidence, f.decided, f.generation, f.stage = ev, v, r.generation, ev.Stage
	f.mu.Unlock()
	f.keepNames(n, target.Addr(), ev.Names, now)
	return v, r.generation
}

// decideShown decides an inspected flow by what it has shown, and returns the
// verdict and the generation that gave it. A denial stays out of the record of a
// flow that goes on for the sake of other names.
func (n *Network) decideShown(f *tcpFlow, ev policy.Evidence, from string, now time.Time) (policy.Verdict, uint64) {
	ev.Names = n.namesOf(f.peer().Addr(), now)
	f.mu.Lock()
	r := n.rules.Load()
	v := r.decide(f.askedLocked(), ev)
	if v.Action != policy.Allow && f.evidence.Stage != policy.StageAddress && f.decided.Action == policy.Allow {
		f.mu.Unlock()
		return v, r.generation
	}
	f.noteStreamLocked(ev.Name)
	f.evidence, f.nameFrom, f.decided, f.generation, f.stage = ev, from, v, r.generation, ev.Stage
	addr := f.askedLocked().Peer.Addr()
	f.mu.Unlock()
	f.keepNames(n, addr, ev.Names, now)
	return v, r.generation
}

// noteTCP keeps what the first bytes of a flow were that nobody held, and
// reports whether it may go on: a policy that is newer than the flow decides it
// by the name.
func (n *Network) noteTCP(f *tcpFlow, seen sniff.Result, now time.Time) bool {
	f.mu.Lock()
	names := f.evidence.Names
	f.evidence, f.nameFrom = evidenceOf(seen), nameSource(seen)
	f.evidence.Names, f.spliced = names, isHTTP(seen.Kind)
	f.mu.Unlock()
	return n.reviewTCP(f, now)
}

// denyUnread denies a flow that is HTTP when the inspector can't have it any more:
// its first bytes are gone. The denial is recorded.
func (n *Network) denyUnread(f *tcpFlow, now time.Time) {
	v := policy.Verdict{Rule: -1, Source: "inspector", Reason: reasonUnread}
	f.mu.Lock()
	f.decided, f.stage = v, f.evidence.Stage
	generation := f.generation
	f.mu.Unlock()
	n.allowedOrRecorded(f, v, generation, now)
}

// reasonUnread is why HTTP is denied that began too slowly.
const reasonUnread = "plain HTTP must be read, and the head of its first request took too long"

// allowedOrRecorded reports whether v allows f to go on after its handshake. If
// not, that is recorded: the guest will see a reset.
func (n *Network) allowedOrRecorded(f *tcpFlow, v policy.Verdict, generation uint64, now time.Time) bool {
	if v.Action == policy.Allow {
		return true
	}
	n.denied(f.info(), v, generation, now)
	return false
}

// denied records that a flow was denied after its handshake.
func (n *Network) denied(info FlowInfo, v policy.Verdict, generation uint64, now time.Time) {
	n.counters.drop(dropDenied)
	info.Response = "rst"
	n.event(Event{Type: "flow.deny", Time: now, Generation: generation, Flow: info, Verdict: v})
}

// namesOf returns P(A), the names that the configured resolver gave for addr.
func (n *Network) namesOf(addr netip.Addr, now time.Time) []string {
	if n.cfg.Names == nil {
		return nil
	}
	return n.cfg.Names.AppendNames(nil, addr, now)
}

// target returns where the host's socket goes for a flow to dst: the gateway's
// addresses mean this host, everything else itself.
func (n *Network) target(dst netip.AddrPort) netip.AddrPort {
	switch dst.Addr() {
	case n.cfg.Block.Gateway4:
		return netip.AddrPortFrom(loopback4, dst.Port())
	case n.cfg.Block.Gateway6:
		return netip.AddrPortFrom(loopback6, dst.Port())
	}
	return dst
}

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
)

// answer says what a SYN gets.
type answer uint8

const (
	answerNothing answer = iota // silence
	answerReset
	answerDial // the flow is admitted
)

// admitTCP decides about a SYN. Only the reader calls it. With answerDial the
// flow is in the table and whoever serves it must call n.endTCP.
func (n *Network) admitTCP(guest, dst netip.AddrPort, now time.Time) (*tcpFlow, answer) {
	key := flowKey{guest, dst}
	if n.tcp.has(key) {
		n.counters.drop(dropRepeated)
		return nil, answerNothing
	}
	f := &tcpFlow{key: key, id: n.nextID.Add(1), opened: now, dialed: n.target(dst), reviewed: make(chan struct{}, 1)}
	if !n.newFlows.AllowN(now, 1) {
		n.counters.drop(dropFlowRate)
		n.limitHit("FlowsPerSecond", f, now)
		return nil, answerNothing
	}
	f.inspected = n.inspects(f)
	for {
		r := n.decideAddress(f, now)
		if !f.goesOnLocked() {
			return nil, n.denyTCP(f, r.reject, now)
		}
		f.nameFirst, f.told = f.decided.Action != policy.Allow, f.decided.Action == policy.Allow
		f.ctx, f.cancel = context.WithCancelCause(n.ctx)
		// From the table on, a new policy may change the record.
		opened := Event{Type: "flow.open", Time: now, Generation: f.generation, Flow: f.info(), Verdict: f.decided}
		result := n.tcp.add(f, n.cfg.Limits.tcpFlows(), n.cfg.Limits.heldFlows(), n.generation)
		if result == tableAdded && !f.buffers.reserve(n.budget) {
			n.tcp.remove(f)
			result = tableMemory
		}
		if result == tableAdded {
			if !f.nameFirst { // else its name has yet to open it
				n.event(opened)
			}
			f.keepNames(n, dst.Addr(), f.evidence.Names, now)
			return f, answerDial
		}
		f.cancel(nil)
		switch result {
		case tableFull:
			n.limitHit("MaxConnections", f, now)
			return nil, answerReset
		case tableHeld:
			n.counters.drop(dropHeld)
			n.limitHit("HeldFlows", f, now)
			return nil, answerNothing
		case tableMemory:
			n.counters.drop(dropHeld)
			n.limitHit("BufferBytes", f, now)
			return nil, answerNothing
		}
		// The rules were replaced since the decision.
	}
}

// admitInbound decides about a peer's connection to a published port. With ok
// the flow is in the table and has a slot of the port's.
func (n *Network) admitInbound(p *published, peer netip.AddrPort, now time.Time) (f *tcpFlow, ok bool) {
	f = &tcpFlow{
		key: flowKey{guest: netip.AddrPortFrom(n.cfg.Block.Guest4, p.binding.GuestPort), remote: peer},
		id:  n.nextID.Add(1), opened: now, port: p, evidence: policy.Evidence{Stage: policy.StageNoName},
	}
	for {
		r := n.rules.Load()
		f.decided, f.generation = r.decide(f.asked(), f.evidence), r.generation
		if !n.allowedOrRecorded(f, f.decided, r.generation, now) {
			return nil, false
		}
		select {
		case p.slots <- struct{}{}:
		default:
			n.limitHit("Inbound", f, now)
			return nil, false
		}
		if !f.buffers.reserve(n.budget) {
			<-p.slots
			n.limitHit("BufferBytes", f, now)
			return nil, false
		}
		f.ctx, f.cancel = context.WithCancelCause(n.ctx)
		opened := Event{Type: "flow.open", Time: now, Generation: f.generation, Flow: f.info(), Verdict: f.decided}
		if f.told = true; n.tcp.addInbound(f, n.generation) {
			n.event(opened)
			return f, true
		}
		f.cancel(nil)
		f.buffers.release()
		<-p.slots
	}
}

// newDatagrams reports whether a UDP or ICMP flow may begin now. If not, that is
// recorded.
func (n *Network) newDatagrams(f natFlow, now time.Time) bool {
	ok := n.newFlows.AllowN(now, 1)
	if !ok {
		n.natLimitHit("FlowsPerSecond", f, now)
	}
	return ok
}

// admitDatagram decides about a UDP or ICMP flow with its first packet, and
// again under every new policy.
func (n *Network) admitDatagram(f natFlow, now time.Time) admission {
	r := n.rules.Load()
	names := n.namesOf(f.remote.Addr(), now)
	info := n.datagramInfo(f, names)
	asked := policy.Flow{Direction: policy.Egress, Protocol: f.proto, Peer: f.remote}
	v := r.decide(asked, policy.Evidence{Stage: policy.StageNoName, Names: names})
	a := admission{allow: v.Action == policy.Allow, generation: r.generation, refuse: v.Refuse, verdict: v}
	switch {
	case a.allow && v.Refuse == policy.RefuseAll:
		a.allow, a.answer, info.Response = false, icmpPortUnreach, "port-unreachable"
		v.Reason = reasonQUIC
		a.verdict = v
	case a.allow:
		if f.before != pastAdmitted {
			info.ID = n.nextID.Add(1)
			n.event(Event{Type: "flow.open", Time: now, Generation: r.generation, Flow: info, Verdict: v})
			a.record = &natRecord{info: info, opened: now, release: n.hold(f.remote.Addr(), names, now)}
		}
		return a
	case r.reject:
		a.answer, info.Response = icmpProhibited, "icmp"
	default:
		info.Response = "drop"
	}
	if f.before == pastNone {
		info.ID = n.nextID.Add(1)
		n.event(Event{Type: "flow.deny", Time: now, Generation: r.generation, Flow: info, Verdict: v})
	}
	return a
}

// endDatagrams records the end of an admitted UDP or ICMP flow.
func (n *Network) endDatagrams(e natEnd, now time.Time) {
	e.record.release(now)
	info := e.record.info
	info.BytesOut, info.BytesIn, info.Duration, info.End = e.out, e.in, now.Sub(e.record.opened), e.how
	n.event(Event{Type: "flow.close", Time: now, Generation: e.generation, Flow: info, Verdict: e.verdict})
}

// reasonQUIC is why a datagram is refused whose flow is allowed.
const reasonQUIC = "QUIC hides the name that the rules are about: use TCP"

// refusedQUIC records that an admitted flow turned out to be QUIC.
func (n *Network) refusedQUIC(f natFlow, now time.Time) {
	r := n.rules.Load()
	names := n.namesOf(f.remote.Addr(), now)
	asked := policy.Flow{Direction: policy.Egress, Protocol: f.proto, Peer: f.remote}
	v := r.decide(asked, policy.Evidence{Stage: policy.StageNoName, Names: names})
	v.Action, v.Reason = policy.Deny, reasonQUIC
	info := n.datagramInfo(f, names)
	info.ID, info.Response = n.nextID.Add(1), "port-unreachable"
	n.event(Event{Type: "flow.deny", Time: now, Generation: r.generation, Flow: info, Verdict: v})
}

// datagramInfo returns what is recorded of a UDP or ICMP flow to an address of these
// names, of which the first stands for all: it shows none itself.
func (n *Network) datagramInfo(f natFlow, names []string) FlowInfo {
	info := FlowInfo{Direction: policy.Egress, Protocol: f.proto, Src: f.guest, Dst: f.remote, Dialed: n.target(f.remote)}
	if len(names) > 0 {
		info.Name, info.NameFrom = names[0], "dns"
	}
	return info
}

// natLimitHit records that a UDP or ICMP flow found a bound.
func (n *Network) natLimitHit(limit string, f natFlow, now time.Time) {
	info := FlowInfo{Direction: policy.Egress, Protocol: f.proto, Src: f.guest, Dst: f.remote}
	n.hit(Event{Type: "limit.hit", Time: now, Generation: n.rules.Load().generation, Flow: info, Limit: limit})
}

// warn records what the user should know of this host.
func (n *Network) warn(text string) {
	n.event(Event{Type: "warning", Time: time.Now(), Generation: n.rules.Load().generation, Text: text})
}

// denyTCP records a denial and says what the guest gets for it. reject is what the
// rules that decided say of that.
func (n *Network) denyTCP(f *tcpFlow, reject bool, now time.Time) answer {
	n.counters.drop(dropDenied)
	reject = reject || f.decided.Reason == reasonDoT
	// The guest's kernel repeats an unanswered SYN; that is one attempt, and
	// one event.
	if n.tcp.repeats(f.key, f.generation, now) {
		if reject {
			return answerReset
		}
		return answerNothing
	}
	info, a := f.info(), answerNothing
	info.Response = "drop"
	if reject {
		info.Response, a = "rst", answerReset
	}
	n.event(Event{Type: "flow.deny", Time: now, Generation: f.generation, Flow: info, Verdict: f.decided})
	return a
}

// openTCP records that a flow goes on which had to show its name first. It does
// nothing for others, and once is enough.
func (n *Network) openTCP(f *tcpFlow, now time.Time) {
	f.mu.Lock()
	told, v, generation := f.told || f.over, f.decided, f.generation
	f.told = true
	f.mu.Unlock()
	if !told {
		n.event(Event{Type: "flow.open", Time: now, Generation: generation, Flow: f.info(), Verdict: v})
	}
}

// endTCP takes a flow out of the table and records its end. One that left before
// its name was known has an end without a beginning.
func (n *Network) endTCP(f *tcpFlow, how string, now time.Time) {
	n.tcp.remove(f)
	f.buffers.release()
	f.cancel(nil)
	info := f.info()
	info.Duration, info.End = now.Sub(f.opened), how
	f.mu.Lock()
	v, generation, release := f.decided, f.generation, f.release
	f.over, f.release = true, nil
	f.mu.Unlock()
	if release != nil {
		release(now)
	}
	n.event(Event{Type: "flow.close", Time: now, Generation: generation, Flow: info, Verdict: v})
}

// limitHit records that f found a bound.
func (n *Network) limitHit(limit string, f *tcpFlow, now time.Time) {
	_, generation := f.verdict()
	n.hit(Event{Type: "limit.hit", Time: now, Generation: generation, Flow: f.info(), Limit: limit})
}

// slowed records that a flow moves its bytes more slowly than it could, since the
// budget for buffers is spent.
func (n *Network) slowed() {
	n.hit(Event{Type: "limit.hit", Time: time.Now(), Generation: n.generation(), Limit: "BufferBytes"})
}

// hit records that a bound was hit, with others of a moment.
func (n *Network) hit(e Event) {
	if e, ok := n.hits.add(e); ok {
		n.event(e)
	}
}

// tellHits records the hits that are due.
func (n *Network) tellHits(now time.Time) {
	for _, e := range n.hits.flush(now) {
		n.event(e)
	}
}

func (n *Network) event(e Event) {
	if n.cfg.Events != nil {
		n.cfg.Events(e)
	}
}
