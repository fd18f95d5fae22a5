package vnet

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicenet/sluice/internal/sniff"
	"github.com/sluicenet/sluice/policy"
)

// This file is the one place that admits a flow. TCP comes here with its SYN,
// UDP and ICMP with the first packet to each peer; published ports will come
// with the peer's connection. Nobody else asks the policy.

// rules is what a decision needs, swapped as one: no decision ever mixes two
// generations.
type rules struct {
	policy     *policy.Policy
	host       *policy.Host
	generation uint64
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
	n.tcp.each(func(f *tcpFlow) {
		if !n.survives(f, &next) {
			f.cut(endDenied)
		}
	})
	now := time.Now()
	n.udp.recheck(now)
	n.icmp.recheck(now)
	n.inbound.recheck(&next, now)
}

// decideAddress decides a TCP flow by what its SYN shows: V0 of the contract.
func (n *Network) decideAddress(f *tcpFlow, now time.Time) {
	r := n.rules.Load()
	f.evidence = policy.Evidence{Names: n.namesOf(f.key.remote.Addr(), now)}
	f.decided = r.policy.Decide(r.host, f.asked(), f.evidence)
	f.generation = r.generation
}

// needsName reports whether a flow's first bytes must wait until they are
// classified, by the rules of this moment.
func (n *Network) needsName(f *tcpFlow, now time.Time) bool {
	if n.isDNS(f) {
		return false
	}
	r := n.rules.Load()
	ev := policy.Evidence{Names: n.namesOf(f.key.remote.Addr(), now)}
	return r.policy.Decide(r.host, f.asked(), ev).NeedsName
}

// allowedUnnamed reports whether the verdict without a name allows f.
func (n *Network) allowedUnnamed(f *tcpFlow, now time.Time) bool {
	r := n.rules.Load()
	ev := policy.Evidence{Stage: policy.StageNoName, Names: n.namesOf(f.key.remote.Addr(), now)}
	return r.policy.Decide(r.host, f.asked(), ev).Action == policy.Allow
}

// decideNamed decides a flow whose first bytes, or next request, are
// classified. A denial is recorded.
func (n *Network) decideNamed(f *tcpFlow, ev policy.Evidence, from string, now time.Time) policy.Verdict {
	ev.Names = n.namesOf(f.key.remote.Addr(), now)
	r := n.rules.Load()
	v := r.policy.Decide(r.host, f.asked(), ev)
	f.mu.Lock()
	f.evidence, f.nameFrom, f.decided, f.generation, f.gated = ev, from, v, r.generation, true
	f.mu.Unlock()
	n.allowedOrRecorded(f, v, r.generation, now)
	return v
}

// decideConnect decides the target of a CONNECT request. A name can't be:
// nobody has resolved it yet.
func (n *Network) decideConnect(f *tcpFlow, c sniff.Result, now time.Time) bool {
	r := n.rules.Load()
	v := policy.Verdict{Rule: -1, Source: "connect", Reason: "the target of CONNECT is a name"}
	if c.Addr.IsValid() {
		target := policy.Flow{Direction: policy.Egress, Protocol: policy.TCP, Peer: netip.AddrPortFrom(c.Addr, c.Port)}
		v = r.policy.Decide(r.host, target, policy.Evidence{Stage: policy.StageNoName, Names: n.namesOf(c.Addr, now)})
	}
	return n.allowedOrRecorded(f, v, r.generation, now)
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

// survives reports whether f may go on under r, judged by the evidence that it
// has.
func (n *Network) survives(f *tcpFlow, r *rules) bool {
	if f.port == nil && n.isDNS(f) {
		return true
	}
	f.mu.Lock()
	ev, gated, http := f.evidence, f.gated, f.nameFrom == "http"
	f.mu.Unlock()
	v := r.policy.Decide(r.host, f.asked(), ev)
	if ev.Stage == policy.StageAddress {
		return v.Action == policy.Allow || v.NeedsName // it goes on under the new rules' cases
	}
	if http && !gated {
		// It is spliced; under rules for names its requests would be looked at.
		first := r.policy.Decide(r.host, f.asked(), policy.Evidence{Names: ev.Names})
		return v.Action == policy.Allow && !first.NeedsName
	}
	return v.Action == policy.Allow
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
	f := &tcpFlow{key: key, id: n.nextID.Add(1), opened: now, dialed: n.target(dst)}
	if n.isDNS(f) {
		// The proxy answers whatever address was asked; which names may be
		// asked for is its own question to the policy.
		f.decided = policy.Verdict{Action: policy.Allow, Rule: -1, Source: "dns proxy"}
		f.generation = n.rules.Load().generation
	} else {
		n.decideAddress(f, now)
	}
	f.nameFirst = f.decided.NeedsName && !f.decided.Dial
	if f.decided.Action != policy.Allow && !f.nameFirst {
		return nil, n.denyTCP(f, now)
	}
	switch n.tcp.add(f, n.cfg.Limits.tcpFlows(), n.cfg.Limits.heldFlows()) {
	case tableFull:
		n.limitHit("MaxConnections", f, now)
		return nil, answerReset
	case tableHeld:
		n.counters.drop(dropHeld)
		n.limitHit("HeldFlows", f, now)
		return nil, answerNothing
	}
	f.ctx, f.cancel = context.WithCancelCause(n.ctx)
	n.event(Event{Type: "flow.open", Time: now, Generation: f.generation, Flow: f.info(), Verdict: f.decided})
	return f, answerDial
}

// admitInbound decides about a peer's connection to a published port. With ok
// the flow is in the table and has a slot of the port's.
func (n *Network) admitInbound(p *published, peer netip.AddrPort, now time.Time) (f *tcpFlow, ok bool) {
	f = &tcpFlow{
		key: flowKey{guest: netip.AddrPortFrom(n.cfg.Block.Guest4, p.binding.GuestPort), remote: peer},
		id:  n.nextID.Add(1), opened: now, port: p,
	}
	r := n.rules.Load()
	f.decided, f.generation = r.policy.Decide(r.host, f.asked(), policy.Evidence{Stage: policy.StageNoName}), r.generation
	f.evidence.Stage = policy.StageNoName
	if f.decided.Action != policy.Allow {
		n.allowedOrRecorded(f, f.decided, r.generation, now)
		return nil, false
	}
	select {
	case p.slots <- struct{}{}:
	default:
		n.limitHit("Inbound", f, now)
		return nil, false
	}
	f.ctx, f.cancel = context.WithCancelCause(n.ctx)
	n.tcp.addInbound(f)
	n.event(Event{Type: "flow.open", Time: now, Generation: f.generation, Flow: f.info(), Verdict: f.decided})
	return f, true
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
	v := r.policy.Decide(r.host, asked, policy.Evidence{Stage: policy.StageNoName, Names: names})
	a := admission{allow: v.Action == policy.Allow, generation: r.generation, refuse: v.Refuse}
	switch {
	case a.allow && v.Refuse == policy.RefuseAll:
		a.allow, a.answer, info.Response = false, icmpPortUnreach, "port-unreachable"
		v.Reason = reasonQUIC
	case a.allow:
		if f.before != pastAdmitted {
			info.ID = n.nextID.Add(1)
			n.event(Event{Type: "flow.open", Time: now, Generation: r.generation, Flow: info, Verdict: v})
			a.end = func(out, in uint64, how string, end time.Time) {
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
	v := r.policy.Decide(r.host, asked, policy.Evidence{Stage: policy.StageNoName, Names: n.namesOf(f.remote.Addr(), now)})
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
	// The guest's kernel repeats an unanswered SYN; that is one attempt, and
	// one event.
	if n.tcp.repeats(f.key, f.generation, now) {
		if n.cfg.Reject {
			return answerReset
		}
		return answerNothing
	}
	info, a := f.info(), answerNothing
	info.Response = "drop"
	if n.cfg.Reject {
		info.Response, a = "rst", answerReset
	}
	n.event(Event{Type: "flow.deny", Time: now, Generation: f.generation, Flow: info, Verdict: f.decided})
	return a
}

// endTCP takes a flow out of the table and records its end.
func (n *Network) endTCP(f *tcpFlow, how string, now time.Time) {
	n.tcp.remove(f)
	f.cancel(nil)
	info := f.info()
	info.BytesOut, info.BytesIn = f.bytesOut.Load(), f.bytesIn.Load()
	info.Duration, info.End = now.Sub(f.opened), how
	f.mu.Lock()
	v, gen := f.decided, f.generation
	f.mu.Unlock()
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
	generation uint64 // that decided
	evidence   policy.Evidence
	nameFrom   string // sni, http; "" without a name
	gated      bool   // decided by what the first bytes showed, not by the address alone

	bytesOut, bytesIn atomic.Uint64 // from and to the guest

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

// classify notes what the first bytes of a flow that isn't held were.
func (f *tcpFlow) classify(ev policy.Evidence, from string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ev.Names = f.evidence.Names
	f.evidence, f.nameFrom = ev, from
}

// asked is the flow in the policy's terms.
func (f *tcpFlow) asked() policy.Flow {
	if f.port != nil {
		return policy.Flow{Direction: policy.Ingress, Protocol: policy.TCP, Peer: f.key.remote, GuestPort: f.key.guest.Port()}
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
		Name: f.evidence.Name, NameFrom: f.nameFrom,
	}
	if f.port != nil {
		i.Direction, i.Src, i.Dst = policy.Ingress, f.key.remote, f.key.guest
	}
	if i.Name == "" && len(f.evidence.Names) > 0 {
		i.Name, i.NameFrom = f.evidence.Names[0], "dns"
	}
	return i
}
