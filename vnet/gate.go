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
// holds nothing but what may be HTTP that the inspector wants. Until then a policy
// that is replaced changes which of these it does.
//
//	first bytes ─┬─ no name needed ─► forwarded; the name is noted ──────► open
//	             ├─ all HTTP is read ► may be HTTP? held ─► classified ─┬─ HTTP ─► the inspector's
//	             │                                                      └─ as if no name were needed
//	             └─ name needed ────► held ─► classified ─► decided again ─┬─ denied ─► cut
//	                                                                       ├─ TLS, opaque ─► open
//	                                                                       └─ HTTP ─► each request decided
//
// A gate belongs to the goroutine of the flow's outward direction.
type gate struct {
	n    *Network
	flow *tcpFlow

	state      gateState
	generation uint64 // of the rules that state follows
	dial       bool   // the host may be dialled, and what names nothing may pass
	flight     sniff.Flight
	noted      []byte          // forwarded bytes of a flight that took more than one look
	requests   *sniff.Requests // valid iff state is gateRequests
	owed       int             // bytes of a decided head that are still to be forwarded
	looked     int             // withheld bytes that requests has seen
	deadline   time.Time       // when a held flight is given up; zero before its first byte
	handOver   bool            // plain HTTP: the inspector is to have the flow, of which nothing was forwarded
	declined   bool            // it can't
	late       bool            // bytes went on that took too long to be HTTP or not
}

// gateState is what a gate does with bytes. Their order is the order in which
// a flow passes through them.
type gateState uint8

const (
	gateFirst    gateState = iota // nothing was seen yet
	gateNote                      // forward everything, look for the name
	gateRead                      // forward nothing that may be HTTP, which the inspector wants
	gateHold                      // forward nothing until classified
	gateRequests                  // forward requests as each is decided
	gateOpen                      // forward everything
)

func newGate(n *Network, f *tcpFlow) *gate {
	return &gate{n: n, flow: f, flight: sniff.Flight{Dst: f.key.remote.Addr()}}
}

// open reports whether the gate has no more say.
func (g *gate) open() bool { return g.state == gateOpen }

// withheld reports whether no request was decided yet, and without one nothing
// may pass.
func (g *gate) withheld() bool { return g.state == gateRequests && !g.dial }

// until returns when a held flight is to be given up; the zero time if none is
// held.
func (g *gate) until() time.Time {
	if g.state != gateRead && g.state != gateHold && !g.withheld() {
		return time.Time{}
	}
	return g.deadline
}

// expired returns a channel that fires when a held flight is to be given up;
// nil if none is held.
func (g *gate) expired(now time.Time) <-chan time.Time {
	by := g.until()
	if by.IsZero() {
		return nil
	}
	return time.After(by.Sub(now))
}

// pass looks at b, all bytes that the guest has sent and nobody forwarded, and
// returns how many of them may be forwarded now. With denied the flow is to be
// cut; the denial is recorded. closed says that nothing follows b.
func (g *gate) pass(b []byte, closed bool, now time.Time) (n int, denied bool) {
	if g.state < gateRequests && !g.review(len(b) > 0, now) {
		return 0, true
	}
	switch g.state {
	case gateNote:
		return g.note(b, closed, now)
	case gateRead:
		return g.read(b, closed, now)
	case gateHold:
		return g.hold(b, closed, now)
	case gateRequests:
		return g.follow(b, closed, now)
	}
	return len(b), false
}

// review brings a gate whose flight isn't classified in line with the rules of
// this moment: the contract's cases a to d. begun says that there is a flight.
// It reports false if they deny the flow.
func (g *gate) review(begun bool, now time.Time) bool {
	if !g.n.reviewTCP(g.flow, now) {
		return false
	}
	v, generation := g.flow.verdict()
	begun = begun || g.noted != nil
	if generation == g.generation && (g.state != gateFirst || !begun) {
		return true
	}
	g.generation, g.dial = generation, v.Action == policy.Allow
	switch {
	case g.dial && !begun:
		g.state, g.deadline = gateFirst, time.Time{} // a banner may come first
	case !v.NeedsName && !g.reads():
		g.state = gateNote
	default:
		if g.state != gateRead && g.state != gateHold {
			g.deadline = now.Add(g.n.cfg.holdTimeout)
		}
		if g.state = gateHold; !v.NeedsName {
			g.state = gateRead
		}
	}
	return true
}

// reads reports whether the inspector is to have the flow if it is HTTP, though
// no rule wants its requests read. Of HTTP no server speaks first.
func (g *gate) reads() bool {
	return g.n.inspectsAllHTTP() && g.noted == nil && !g.declined && g.flow.bytesIn.Load() == 0
}

// read looks for HTTP in bytes that wait while they may be that, and nothing
// else.
func (g *gate) read(b []byte, closed bool, now time.Time) (int, bool) {
	if g.reads() {
		r := g.flight.Next(b, closed)
		if likeHTTP(r.Kind, b) {
			g.handOver = true
			return 0, false
		}
		if r.Kind == sniff.More && beginsText(b) {
			if now.Before(g.deadline) {
				return 0, false
			}
			g.late = true
		}
	}
	g.state = gateNote
	return g.note(b, closed, now)
}

// likeHTTP reports whether a flight of a kind is HTTP to the strict reader, or to
// a forgiving server: the inspector answers the latter itself.
func likeHTTP(k sniff.Kind, b []byte) bool {
	return isHTTP(k) || k == sniff.Malformed && beginsText(b)
}

// beginsText reports whether a flight that is neither opaque nor TLS is like HTTP,
// or may become so: all others are like TLS.
func beginsText(b []byte) bool {
	return len(b) == 0 || b[0] >= '\t' && b[0] <= '\r' || b[0] >= ' ' && b[0] <= '~'
}

// note looks for the name in bytes that are forwarded anyway.
func (g *gate) note(b []byte, closed bool, now time.Time) (int, bool) {
	seen := g.seen(b)
	r := g.flight.Next(seen, closed)
	late := g.late && likeHTTP(r.Kind, seen)
	if r.Kind == sniff.More {
		if g.noted == nil {
			seen = slices.Clone(b)
		}
		g.noted = seen
		return len(b), false
	}
	g.noted = nil
	g.state = gateOpen
	if !g.n.noteTCP(g.flow, r, now) {
		return 0, true
	}
	if late {
		g.n.denyUnread(g.flow, now)
		return 0, true
	}
	return len(b), false
}

// seen returns the flight so far, which ends with b.
func (g *gate) seen(b []byte) []byte {
	if g.noted == nil {
		return b
	}
	return append(g.noted, b...)
}

// hold looks for the name in bytes that wait for it.
func (g *gate) hold(b []byte, closed bool, now time.Time) (int, bool) {
	r := g.flight.Next(g.seen(b), closed)
	if r.Kind == sniff.More {
		if now.Before(g.deadline) {
			return 0, false
		}
		r = sniff.Result{Kind: sniff.Malformed, Reason: "first flight not finished in time"}
	}
	if isHTTP(r.Kind) && g.noted == nil && !g.declined && g.n.inspectsHTTP() {
		g.handOver = true
		return 0, false
	}
	// The preface of HTTP/2 names nothing: what passes before the first request is
	// for the verdict without a name to say.
	if r.Kind != sniff.HTTP2 {
		follow, ok := g.n.decideFlight(g.flow, r, true, now)
		if !ok {
			return 0, true
		}
		g.dial = true
		if !follow {
			g.state, g.noted = gateOpen, nil
			return len(b), false
		}
	}
	g.state = gateRequests
	g.requests = sniff.Follow(g.flow.key.remote.Addr(), r)
	g.owed = r.Len - len(g.noted)
	g.noted = nil
	return g.follow(b, closed, now)
}

// decline goes on without the inspector.
func (g *gate) decline() {
	g.handOver, g.declined = false, true
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
		if _, ok := g.n.decideFlight(g.flow, head, false, now); !ok {
			return 0, true
		}
		g.dial = true
		g.owed = head.Len
	}
	if g.withheld() {
		if !closed && now.Before(g.deadline) {
			g.looked = n
			return 0, false
		}
		if _, ok := g.n.decideFlight(g.flow, sniff.Result{Kind: sniff.Malformed}, false, now); !ok {
			return 0, true
		}
		g.dial = true
	}
	g.looked = 0
	return n, false
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

// isHTTP reports whether requests may follow what was seen.
func isHTTP(k sniff.Kind) bool {
	return k == sniff.HTTP1 || k == sniff.HTTP2 || k == sniff.Connect
}

// nameSource says where the name of a flight came from, as events spell it; ""
// if it names nobody.
func nameSource(seen sniff.Result) string {
	if seen.Name == "" {
		return ""
	}
	switch seen.Kind {
	case sniff.TLS:
		return "sni"
	case sniff.HTTP1, sniff.HTTP2:
		return "http"
	}
	return ""
}
