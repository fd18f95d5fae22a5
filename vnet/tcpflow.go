package vnet

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicenet/sluice/policy"
)

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
	inspected bool           // Config.Inspector serves it from its SYN on
	held      bool           // guarded by tcpTable.mu: its handshake or its name is waited for
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
	told       bool           // flow.open was recorded
	over       bool           // the end is recorded: nothing changes any more

	release func(time.Time) // lets go of the names that decided; nil if there were none

	direct   atomic.Pointer[directFlow] // that carries it; nil for a flow through the stack
	reviewed chan struct{}              // holds one element when its gate must look at new rules; nil for inbound flows

	buffers           buffers
	bytesOut, bytesIn atomic.Uint64 // from and to the guest
	ended             atomic.Bool   // the guest was sent the end of the stream

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

// noteStreamLocked is called before next becomes the name of a flow on which
// requests for several may be open at once.
func (f *tcpFlow) noteStreamLocked(next string) {
	name := f.evidence.Name
	if f.nameFrom != "http" || name == "" || name == next || slices.Contains(f.streams, name) {
		return
	}
	if f.streams = append(f.streams, name); len(f.streams) > maxStreams {
		f.streams, f.spliced = f.streams[:maxStreams], true // as if nobody had looked
	}
}

// keepNames holds the names that have decided the flow, in place of earlier
// ones, until it ends.
func (f *tcpFlow) keepNames(n *Network, addr netip.Addr, names []string, now time.Time) {
	release := n.hold(addr, names, now)
	f.mu.Lock()
	if !f.over {
		release, f.release = f.release, release
	}
	f.mu.Unlock()
	if release != nil {
		release(now)
	}
}

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
		BytesOut: f.bytesOut.Load(), BytesIn: f.bytesIn.Load(),
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
