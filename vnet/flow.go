package vnet

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
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
	generation uint64
	proxied    bool // there is a DNS proxy
}

// SetPolicy replaces the policy. Flows that the new one denies are cut.
func (n *Network) SetPolicy(p *policy.Policy) {
	n.setRules(func(r *rules) { r.policy = p })
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

// generation returns the number of the rules of this moment.
func (n *Network) generation() uint64 { return n.rules.Load().generation }

// decideAddress decides a TCP flow by what its SYN shows: V0 of the contract.
func (n *Network) decideAddress(f *tcpFlow, now time.Time) {
	r := n.rules.Load()
	if n.isDNS(f) {
		// The proxy answers whatever address was asked; which names may be asked
		// for is its own question to the policy.
		f.decided, f.generation = policy.Verdict{Action: policy.Allow, Rule: -1, Source: "dns proxy"}, r.generation
		return
	}
	f.evidence = policy.Evidence{Names: n.namesOf(f.key.remote.Addr(), now)}
	f.decided = r.decide(f.asked(), f.evidence)
	f.generation = r.generation
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
	f.noteStreamLocked(seen)
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
	ev := policy.Evidence{Stage: policy.StageNoName}
	if c.Addr.IsValid() {
		ev.Names = n.namesOf(c.Addr, now)
	}
	f.mu.Lock()
	r := n.rules.Load()
	v := policy.Verdict{Rule: -1, Source: "connect", Reason: "the target of CONNECT is a name"}
	if c.Addr.IsValid() {
		f.target = netip.AddrPortFrom(c.Addr, c.Port)
		v = r.decide(f.askedLocked(), ev)
		follow = r.decide(f.askedLocked(), policy.Evidence{Names: ev.Names}).NeedsName
	} else {
		ev.Name, f.nameFrom = c.Name, "http" // for the record
	}
	f.evidence, f.decided, f.generation, f.spliced, f.stage = ev, v, r.generation, first && !follow, ev.Stage
	f.mu.Unlock()
	return follow, n.allowedOrRecorded(f, v, r.generation, now)
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

// reviewTCP decides f again if its verdict is not of this moment's rules, by the
// evidence that it has, and reports whether it may go on. If not, that is
// recorded, and the flow is cut.
//
// Evidence changes, and is read here, under the flow's lock, and the rules are
// loaded under it. So either this finds the evidence of who came before, or that
// one finds the new rules.
func (n *Network) reviewTCP(f *tcpFlow, now time.Time) bool {
	if f.port == nil && n.isDNS(f) {
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
	if unclassified {
		select {
		case f.reviewed <- struct{}{}:
		default: // its gate has not looked since the last time
		}
	}
	return true
}

// allowedOrRecorded reports whether v allows f to go on after its handshake. If
// not, that is recorded: the guest will see a reset.
func (n *Network) allowedOrRecorded(f *tcpFlow, v policy.Verdict, generation uint64, now time.Time) bool {
	if v.Action == policy.Allow {
		return true
	}
	n.counters.drop(dropDenied)
	info := f.info()
	info.Response = "rst"
	n.event(Event{Type: "flow.deny", Time: now, Generation: generation, Flow: info, Verdict: v})
	return false
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
	for {
		n.decideAddress(f, now)
		if !f.goesOnLocked() {
			return nil, n.denyTCP(f, now)
		}
		f.nameFirst = f.decided.Action != policy.Allow
		f.ctx, f.cancel = context.WithCancelCause(n.ctx)
		// From the table on, a new policy may change the record.
		opened := Event{Type: "flow.open", Time: now, Generation: f.generation, Flow: f.info(), Verdict: f.decided}
		result := n.tcp.add(f, n.cfg.Limits.tcpFlows(), n.cfg.Limits.heldFlows(), n.generation)
		if result == tableAdded {
			n.event(opened)
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
		f.ctx, f.cancel = context.WithCancelCause(n.ctx)
		opened := Event{Type: "flow.open", Time: now, Generation: f.generation, Flow: f.info(), Verdict: f.decided}
		if n.tcp.addInbound(f, n.generation) {
			n.event(opened)
			return f, true
		}
		f.cancel(nil)
		<-p.slots
	}
}

// admitDatagram decides about a UDP or ICMP flow with its first packet, and
// again under every new policy.
func (n *Network) admitDatagram(f natFlow, now time.Time) admission {
	r := n.rules.Load()
	info := FlowInfo{Direction: policy.Egress, Protocol: f.proto, Src: f.guest, Dst: f.remote, Dialed: n.target(f.remote)}
	names := n.namesOf(f.remote.Addr(), now)
	if len(names) > 0 {
		info.Name, info.NameFrom = names[0], "dns"
	}
	asked := policy.Flow{Direction: policy.Egress, Protocol: f.proto, Peer: f.remote}
	v := r.decide(asked, policy.Evidence{Stage: policy.StageNoName, Names: names})
	a := admission{allow: v.Action == policy.Allow, generation: r.generation, refuse: v.Refuse}
	switch {
	case a.allow && v.Refuse == policy.RefuseAll:
		a.allow, a.answer, info.Response = false, icmpPortUnreach, "port-unreachable"
		v.Reason = reasonQUIC
	case a.allow:
		if f.before != pastAdmitted {
			info.ID = n.nextID.Add(1)
			n.event(Event{Type: "flow.open", Time: now, Generation: r.generation, Flow: info, Verdict: v})
			release := n.hold(f.remote.Addr(), names, now)
			a.end = func(out, in uint64, how string, end time.Time) {
				release(end)
				info.BytesOut, info.BytesIn, info.Duration, info.End = out, in, end.Sub(now), how
				n.event(Event{Type: "flow.close", Time: end, Generation: r.generation, Flow: info, Verdict: v})
			}
		}
		return a
	case n.cfg.Reject:
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

// reasonQUIC is why a datagram is refused whose flow is allowed.
const reasonQUIC = "QUIC hides the name that the rules are about: use TCP"

// refusedQUIC records that an admitted flow turned out to be QUIC.
func (n *Network) refusedQUIC(f natFlow, now time.Time) {
	r := n.rules.Load()
	asked := policy.Flow{Direction: policy.Egress, Protocol: f.proto, Peer: f.remote}
	v := r.decide(asked, policy.Evidence{Stage: policy.StageNoName, Names: n.namesOf(f.remote.Addr(), now)})
	v.Action, v.Reason = policy.Deny, reasonQUIC
	info := FlowInfo{ID: n.nextID.Add(1), Direction: policy.Egress, Protocol: f.proto, Src: f.guest, Dst: f.remote, Response: "port-unreachable"}
	n.event(Event{Type: "flow.deny", Time: now, Generation: r.generation, Flow: info, Verdict: v})
}

// natLimitHit records that a UDP or ICMP flow found a bound.
func (n *Network) natLimitHit(limit string, f natFlow, now time.Time) {
	info := FlowInfo{Direction: policy.Egress, Protocol: f.proto, Src: f.guest, Dst: f.remote}
	n.event(Event{Type: "limit.hit", Time: now, Generation: n.rules.Load().generation, Flow: info, Limit: limit})
}

// warn records what the user should know of this host.
func (n *Network) warn(text string) {
	n.event(Event{Type: "warning", Time: time.Now(), Generation: n.rules.Load().generation, Text: text})
}

// denyTCP records a denial and says what the guest gets for it.
func (n *Network) denyTCP(f *tcpFlow, now time.Time) answer {
	n.counters.drop(dropDenied)
	reject := n.cfg.Reject || f.decided.Reason == reasonDoT
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

// endTCP takes a flow out of the table and records its end.
func (n *Network) endTCP(f *tcpFlow, how string, now time.Time) {
	n.tcp.remove(f)
	f.cancel(nil)
	f.keepNames(n, netip.Addr{}, nil, now)
	info := f.info()
	info.BytesOut, info.BytesIn = f.bytesOut.Load(), f.bytesIn.Load()
	info.Duration, info.End = now.Sub(f.opened), how
	v, gen := f.verdict()
	n.event(Event{Type: "flow.close", Time: now, Generation: gen, Flow: info, Verdict: v})
}

// limitHit records that f found a bound.
func (n *Network) limitHit(limit string, f *tcpFlow, now time.Time) {
	n.event(Event{Type: "limit.hit", Time: now, Generation: f.generation, Flow: f.info(), Limit: limit})
}

func (n *Network) event(e Event) {
	if n.cfg.Events != nil {
		n.cfg.Events(e)
	}
}

// flowKey identifies a TCP flow: who in the guest, and where to.
type flowKey struct{ guest, remote netip.AddrPort }

// A tcpFlow is one TCP flow, from its SYN, or from the accept on a published
// port, until both sides are closed.
type tcpFlow struct {
	key       flowKey
	port      *published // where it came in; nil for a flow of the guest's
	id        uint64
	opened    time.Time
	dialed    netip.AddrPort // where the host's socket goes
	nameFirst bool           // the name must allow the dial
	syn       []byte         // the SYN's IP packet, to quote in an ICMP error; nil once dialled

	mu         sync.Mutex // guards the following fields once the flow is in the table
	decided    policy.Verdict
	generation uint64       // that decided
	stage      policy.Stage // of the decision; evidence may have come since
	evidence   policy.Evidence
	nameFrom   string         // sni, http; "" without a name
	target     netip.AddrPort // what the flow is about since a CONNECT; zero without one
	streams    []string       // names of HTTP/2 requests before the last: each may still be open
	spliced    bool           // HTTP whose next request nobody looks at

	reviewed chan struct{} // holds one element when its gate must look at new rules; nil for inbound flows

	bytesOut, bytesIn atomic.Uint64 // from and to the guest

	release func(time.Time) // lets go of the names that decided; owned by who serves the flow

	ctx    context.Context // done when the flow is cut, or has ended
	cancel context.CancelCauseFunc
}

// How a flow ended, for its record.
const (
	endFIN         = "fin"
	endReset       = "rst"
	endTimeout     = "timeout"
	endRefused     = "refused"
	endUnreachable = "unreachable"
	endDenied      = "denied"
	endClosed      = "closed" // the network was
	endFailed      = "failed" // the host had no socket for it
)

// cutError is the cause of a flow's context when somebody cut it: its end.
type cutError string

func (e cutError) Error() string { return "flow cut: " + string(e) }

// cut ends the flow from outside, with a reset to both sides. The first reason
// stays.
func (f *tcpFlow) cut(why string) { f.cancel(cutError(why)) }

// cutReason returns why the flow was cut, or "" if it was not.
func (f *tcpFlow) cutReason() string {
	var e cutError
	if errors.As(context.Cause(f.ctx), &e) {
		return string(e)
	}
	return ""
}

// maxStreams bounds the names that one HTTP/2 connection is remembered with; a
// client that asks for more hosts over one connection than this is not one.
const maxStreams = 64

// noteStreamLocked is called before what was seen becomes the flow's evidence.
func (f *tcpFlow) noteStreamLocked(seen sniff.Result) {
	name := f.evidence.Name
	if seen.Kind != sniff.HTTP2 || f.nameFrom != "http" || name == "" || name == seen.Name || slices.Contains(f.streams, name) {
		return
	}
	if f.streams = append(f.streams, name); len(f.streams) > maxStreams {
		f.streams, f.spliced = f.streams[:maxStreams], true // as if nobody had looked
	}
}

// keepNames holds the names that have decided the flow, in place of earlier
// ones, until it ends.
func (f *tcpFlow) keepNames(n *Network, addr netip.Addr, names []string, now time.Time) {
	before := f.release
	f.release = n.hold(addr, names, now)
	if before != nil {
		before(now)
	}
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

// verdict returns the flow's verdict at this moment, and the generation that
// gave it.
func (f *tcpFlow) verdict() (policy.Verdict, uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.decided, f.generation
}

// peer returns the address that the flow is about.
func (f *tcpFlow) peer() netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.askedLocked().Peer
}

// asked is the flow in the policy's terms.
func (f *tcpFlow) asked() policy.Flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.askedLocked()
}

func (f *tcpFlow) askedLocked() policy.Flow {
	switch {
	case f.port != nil:
		return policy.Flow{Direction: policy.Ingress, Protocol: policy.TCP, Peer: f.key.remote, GuestPort: f.key.guest.Port()}
	case f.target.IsValid():
		return policy.Flow{Direction: policy.Egress, Protocol: policy.TCP, Peer: f.target}
	}
	return policy.Flow{Direction: policy.Egress, Protocol: policy.TCP, Peer: f.key.remote}
}

// info describes the flow for an event.
func (f *tcpFlow) info() FlowInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := FlowInfo{
		ID: f.id, Direction: policy.Egress, Protocol: policy.TCP,
		Src: f.key.guest, Dst: f.key.remote, Dialed: f.dialed,
		Name: f.evidence.Name, NameFrom: f.nameFrom, Stage: f.stage,
	}
	switch {
	case f.port != nil:
		i.Direction, i.Src, i.Dst = policy.Ingress, f.key.remote, f.key.guest
	case f.target.IsValid():
		i.Dst = f.target
	}
	if i.Name == "" && len(f.evidence.Names) > 0 {
		i.Name, i.NameFrom = f.evidence.Names[0], "dns"
	}
	return i
}
