package vnet

import (
	"slices"
	"time"

	"github.com/sluicenet/sluice/internal/sniff"
	"github.com/sluicenet/sluice/policy"
)

// holdTimeout bounds how long a flow may keep its first flight unfinished: what
// is not classified by then is malformed.
const holdTimeout = 10 * time.Second

// A gate looks at what the guest sends on a TCP flow before any of it is
// forwarded. Where the policy needs a name it holds the bytes until they are
// classified and the name has decided; elsewhere it only notes the name, and
// holds nothing.
//
//	first bytes ─┬─ no name needed ─► forwarded; the name is noted ──────► open
//	             └─ name needed ────► held ─► classified ─► decided again ─┬─ denied ─► cut
//	                                                                       ├─ TLS, opaque ─► open
//	                                                                       └─ HTTP ─► each request decided
//
// A gate belongs to the goroutine of the flow's outward direction.
type gate struct {
	n    *Network
	flow *tcpFlow

	state    gateState
	flight   sniff.Flight
	noted    []byte          // forwarded bytes of a flight that took more than one look
	requests *sniff.Requests // valid iff state is gateRequests
	owed     int             // bytes of a decided head that are still to be forwarded
	withheld bool            // no request was decided yet, and without one nothing may pass
	looked   int             // withheld bytes that requests has seen
	deadline time.Time       // when a held flight is given up; zero before its first byte
}

// gateState is what a gate does with bytes. Their order is the order in which
// a flow passes through them.
type gateState uint8

const (
	gateFirst    gateState = iota // nothing was seen yet
	gateNote                      // forward everything, look for the name
	gateHold                      // forward nothing until classified
	gateRequests                  // forward requests as each is decided
	gateOpen                      // forward everything
)

func newGate(n *Network, f *tcpFlow) *gate {
	return &gate{n: n, flow: f, flight: sniff.Flight{Dst: f.key.remote.Addr()}}
}

// open reports whether the gate has no more say.
func (g *gate) open() bool { return g.state == gateOpen }

// expired returns a channel that fires when a held flight is to be given up;
// nil if none is held.
func (g *gate) expired(now time.Time) <-chan time.Time {
	if g.state != gateHold && !g.withheld {
		return nil
	}
	return time.After(g.deadline.Sub(now))
}

// expire records that nothing at all came from a guest whose flow waits for its
// name.
func (g *gate) expire(now time.Time) {
	g.decide(sniff.Result{Kind: sniff.Malformed}, now)
}

// pass looks at b, all bytes that the guest has sent and nobody forwarded, and
// returns how many of them may be forwarded now. With denied the flow is to be
// cut; the denial is recorded. closed says that nothing follows b.
func (g *gate) pass(b []byte, closed bool, now time.Time) (n int, denied bool) {
	if len(b) == 0 {
		return 0, false
	}
	if g.state == gateFirst {
		g.state = gateNote
		if g.n.needsName(g.flow, now) {
			g.state = gateHold
			g.deadline = now.Add(holdTimeout)
		}
	}
	switch g.state {
	case gateNote:
		g.note(b, closed, now)
		return len(b), false
	case gateHold:
		return g.hold(b, closed, now)
	case gateRequests:
		return g.follow(b, closed, now)
	}
	return len(b), false
}

// note looks for the name in bytes that are forwarded anyway.
func (g *gate) note(b []byte, closed bool, now time.Time) {
	seen := b
	if g.noted != nil {
		g.noted = append(g.noted, b...)
		seen = g.noted
	}
	r := g.flight.Next(seen, closed)
	if r.Kind == sniff.More {
		if g.noted == nil {
			g.noted = slices.Clone(b)
		}
		return
	}
	g.noted = nil
	g.state = gateOpen
	g.flow.classify(evidenceOf(r), nameSource(r.Kind))
}

// hold looks for the name in bytes that wait for it.
func (g *gate) hold(b []byte, closed bool, now time.Time) (int, bool) {
	r := g.flight.Next(b, closed)
	if r.Kind == sniff.More {
		if now.Before(g.deadline) {
			return 0, false
		}
		r = sniff.Result{Kind: sniff.Malformed, Reason: "first flight not finished in time"}
	}
	switch r.Kind {
	case sniff.HTTP2:
		// The preface names nothing: what passes before the first request is for
		// the verdict without a name to say.
		g.withheld = !g.n.allowedUnnamed(g.flow, now)
	default:
		v, ok := g.decide(r, now)
		if !ok {
			return 0, true
		}
		if r.Kind != sniff.HTTP1 && r.Kind != sniff.Connect || !v.PerRequest {
			g.state = gateOpen
			return len(b), false
		}
	}
	g.state = gateRequests
	g.requests = sniff.Follow(g.flow.key.remote.Addr(), r)
	g.owed = r.Len
	return g.follow(b, closed, now)
}

// follow forwards requests whose heads were decided, and decides the next.
func (g *gate) follow(b []byte, closed bool, now time.Time) (n int, denied bool) {
	for n = g.looked; n < len(b); {
		if g.owed > 0 {
			k := min(g.owed, len(b)-n)
			g.owed -= k
			n += k
			continue
		}
		k, head := g.requests.Next(b[n:], closed)
		if k > 0 {
			n += k
			continue
		}
		if head.Kind == sniff.More {
			break
		}
		if _, ok := g.decide(head, now); !ok {
			return 0, true
		}
		g.withheld = false
		g.owed = head.Len
	}
	if g.withheld {
		if !now.Before(g.deadline) {
			g.decide(sniff.Result{Kind: sniff.Malformed}, now)
			return 0, true
		}
		g.looked = n
		return 0, false
	}
	g.looked = 0
	return n, false
}

// decide asks the policy again, now that a name is known or known to be
// missing, and reports whether the flow may go on.
func (g *gate) decide(r sniff.Result, now time.Time) (v policy.Verdict, ok bool) {
	if r.Kind == sniff.Connect && !g.n.decideConnect(g.flow, r, now) {
		return policy.Verdict{}, false
	}
	v = g.n.decideNamed(g.flow, evidenceOf(r), nameSource(r.Kind), now)
	return v, v.Action == policy.Allow
}

// evidenceOf translates what the first bytes were into the policy's terms.
func evidenceOf(r sniff.Result) policy.Evidence {
	switch r.Kind {
	case sniff.TLS, sniff.HTTP1, sniff.HTTP2:
		if r.Name != "" {
			return policy.Evidence{Stage: policy.StageName, Name: r.Name}
		}
		return policy.Evidence{Stage: policy.StageNoName}
	case sniff.Connect, sniff.Opaque:
		return policy.Evidence{Stage: policy.StageNoName}
	}
	return policy.Evidence{Stage: policy.StageMalformed}
}

// nameSource says where a name came from, as events spell it.
func nameSource(k sniff.Kind) string {
	switch k {
	case sniff.TLS:
		return "sni"
	case sniff.HTTP1, sniff.HTTP2:
		return "http"
	}
	return ""
}
