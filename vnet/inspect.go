package vnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/sluicenet/sluice/policy"
)

// An Inspector reads flows of the guest's, TLS that it terminates say, and talks
// to the host's side itself. The limits on flows, and the replacement of rules,
// hold for its flows as for others. Its methods may be called concurrently.
//
//	SYN ─► admitted ─┬─ V0 allows ─► dial ─► handshake ─┬─► Serve ─► Decide ─► Dial
//	                 └─ a name may ──────────► handshake ┘
type Inspector interface {
	// Inspects reports whether TCP flows to a port are served, instead of
	// relayed. It is asked at each SYN, and when rules are replaced: flows that
	// began before the answer changed are cut then. On port 853, DNS over TLS, it
	// is the server itself: no rule is asked, and Dial fails. It must not block.
	Inspects(port uint16) bool
	// Serve answers a flow until it ends, and closes guest. Of what it forwards,
	// it asks f.Decide first. When ctx is done the flow is over: guest is reset
	// and so is what f.Dial gave, so nothing need wait for ctx.
	//
	// guest has a CloseWrite method; a reset by the guest is an error that
	// matches syscall.ECONNRESET, io.EOF is the end of its stream.
	Serve(ctx context.Context, guest net.Conn, f *InspectedFlow)
}

// An HTTPInspector is an Inspector that plain HTTP may be handed to.
type HTTPInspector interface {
	Inspector
	// InspectsHTTP reports whether plain HTTP on other ports is served too,
	// where the rules want its requests read. Then nothing is decided yet by a
	// name, and guest yields the flow from its first byte. It must not block.
	InspectsHTTP() bool
}

// An AllHTTPInspector is an HTTPInspector that plain HTTP may be handed to
// whatever the rules.
type AllHTTPInspector interface {
	HTTPInspector
	// InspectsAllHTTP reports whether InspectsHTTP holds where no rule wants the
	// requests read, too. Then the guest's first bytes wait while they may become
	// HTTP, for 10 s at most: what turns out to be HTTP only then is cut. A server
	// that speaks first is heard at once, and has its flow relayed. It must not
	// block.
	InspectsAllHTTP() bool
}

// An InspectedFlow is a flow that an Inspector serves. Its methods may be called
// concurrently.
type InspectedFlow struct {
	n    *Network
	flow *tcpFlow
	conn *guestConn

	mu    sync.Mutex // guards the following fields
	first net.Conn   // dialled before the guest's handshake; nil when taken, or if there was none
	last  told       // the last denial that was told
}

// told is what a denial's event was about.
type told struct {
	name       string
	generation uint64
}

// inspects reports whether the inspector serves f from its SYN on.
func (n *Network) inspects(f *tcpFlow) bool {
	return n.cfg.Inspector != nil && !n.isDNS(f) && n.cfg.Inspector.Inspects(f.key.remote.Port())
}

// inspectsHTTP reports whether the inspector wants plain HTTP.
func (n *Network) inspectsHTTP() bool {
	h, ok := n.cfg.Inspector.(HTTPInspector)
	return ok && h.InspectsHTTP()
}

// inspectsAllHTTP reports whether it wants that whatever the rules.
func (n *Network) inspectsAllHTTP() bool {
	h, ok := n.cfg.Inspector.(AllHTTPInspector)
	return ok && h.InspectsHTTP() && h.InspectsAllHTTP()
}

// serveInspected serves a flow to a port of the inspector's. Where V0 allows, the
// host is dialled first, as for other flows: a refused connect is refused. Of DNS
// over TLS no host is asked.
func (n *Network) serveInspected(f *tcpFlow, r *tcp.ForwarderRequest) string {
	dot := n.isDoT(f)
	if f.nameFirst || dot {
		ep, wq, ok := n.accept(f, r)
		if dot {
			n.tcp.established(f)
		}
		if !ok {
			return cmp.Or(f.cutReason(), endReset)
		}
		return n.inspect(f, ep, wq, nil)
	}
	host, ep, wq, how := n.connect(f, r)
	if how != "" {
		return how
	}
	return n.inspect(f, ep, wq, host)
}

// inspect has the inspector serve a flow whose handshake is complete, and returns
// how it ended. host is the connection that there is already, or nil.
func (n *Network) inspect(f *tcpFlow, ep tcpip.Endpoint, wq *waiter.Queue, host net.Conn) string {
	in := &InspectedFlow{n: n, flow: f, conn: newGuestConn(f, ep, wq), first: host}
	how := in.conn.serve(func(c net.Conn) { n.cfg.Inspector.Serve(f.ctx, c, in) })
	if c := in.takeFirst(); c != nil {
		reset(c)
		c.Close()
	}
	if v, _ := f.verdict(); how == endFIN && v.Action != policy.Allow {
		return endDenied
	}
	return how
}

// Asked returns the destination as the guest wrote it, or the target of its CONNECT.
func (f *InspectedFlow) Asked() netip.AddrPort { return f.flow.peer() }

// Source returns the guest's address and port.
func (f *InspectedFlow) Source() netip.AddrPort { return f.flow.key.guest }

// Decide returns the verdict of the rules of this moment for a name that the
// guest has shown: from is "sni" or "http". The empty name stands for a flow that
// shows none; one that isn't canonical counts as malformed bytes. The decision
// is in the flow's record, and Dial follows it; a denial is an event, once.
//
// On a connection of several requests each is decided. One that is denied then
// leaves the record to those that were allowed.
func (f *InspectedFlow) Decide(name, from string) policy.Verdict {
	ev := policy.Evidence{Stage: policy.StageNoName}
	if name != "" {
		ev = policy.Evidence{Stage: policy.StageMalformed}
		if canonical, ok := policy.CanonicalName(name); ok {
			ev = policy.Evidence{Stage: policy.StageName, Name: canonical}
		}
	}
	now := time.Now()
	v, generation := f.n.decideShown(f.flow, ev, from, now)
	f.n.tcp.established(f.flow) // whose name is known is held no longer
	if v.Action == policy.Allow {
		f.n.openTCP(f.flow, now)
	} else if f.tells(told{name, generation}) {
		info := f.flow.info()
		info.Name, info.NameFrom, info.Stage = ev.Name, from, ev.Stage
		f.n.denied(info, v, generation, now)
	}
	return v
}

// Connect is Decide for the target of a CONNECT request, which the inspector is the
// proxy of: the flow is about it from here on, for Asked, Decide and Dial. name is
// how the guest wrote it, canonical, "" if that was the address. Then the verdict
// may say that a name must be shown inside.
func (f *InspectedFlow) Connect(target netip.AddrPort, name string) policy.Verdict {
	if c := f.takeFirst(); c != nil { // of the proxy that the guest wrote to
		reset(c)
		c.Close()
	}
	ev := policy.Evidence{Stage: policy.StageAddress}
	from := ""
	if name != "" {
		ev, from = policy.Evidence{Stage: policy.StageName, Name: name}, "http"
	}
	now := time.Now()
	f.flow.mu.Lock()
	f.flow.dialed, f.flow.nameFrom = f.n.target(target), from
	f.flow.mu.Unlock()
	v, generation := f.n.decideConnect(f.flow, target, ev, now)
	f.n.tcp.established(f.flow)
	if v.Action == policy.Allow {
		f.n.openTCP(f.flow, now)
	} else if !v.NeedsName && f.tells(told{target.String(), generation}) {
		f.n.denied(f.flow.info(), v, generation, now)
	}
	return v
}

// tells reports whether a denial is news.
func (f *InspectedFlow) tells(t told) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last == t {
		return false
	}
	f.last = t
	return true
}

// Dial opens a connection to the flow's destination, the gateway being this host.
// The error keeps the system's errno. It matches fs.ErrPermission while the
// record denies the flow, and net.ErrClosed when the flow is over. The connection
// is reset when the flow ends; until then the caller closes it.
func (f *InspectedFlow) Dial(ctx context.Context) (net.Conn, error) {
	if v, _ := f.flow.verdict(); v.Action != policy.Allow || f.n.isDoT(f.flow) {
		return nil, fmt.Errorf("dial %v: denied by the policy: %w", f.Asked(), fs.ErrPermission)
	}
	if c := f.takeFirst(); c != nil {
		return f.follow(c), nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(f.flow.ctx, cancel)()
	c, err := f.n.dial(ctx, f.flow)
	switch {
	case f.flow.ctx.Err() != nil:
		if err == nil {
			c.Close()
		}
		return nil, fmt.Errorf("dial %v: %w", f.Asked(), errors.Join(net.ErrClosed, context.Cause(f.flow.ctx)))
	case err != nil:
		f.n.dialFailed(f.flow, err)
		return nil, fmt.Errorf("dial %v: %w", f.Asked(), err)
	}
	return f.follow(c), nil
}

// Reset makes the next close of the guest's connection a reset.
func (f *InspectedFlow) Reset() { f.conn.resets.Store(true) }

// takeFirst returns the connection that was dialled before the handshake, once.
func (f *InspectedFlow) takeFirst() net.Conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.first
	f.first = nil
	return c
}

// follow has c reset when the flow ends before it is closed.
func (f *InspectedFlow) follow(c net.Conn) net.Conn {
	stop := context.AfterFunc(f.flow.ctx, func() {
		reset(c)
		c.Close()
	})
	return &hostConn{Conn: c, flow: f.flow, stop: stop}
}

// A hostConn is the host's side of an inspected flow. Once that is cut there is
// no end of stream, only a reset: the one who copies may see the guest's end
// before this one's.
type hostConn struct {
	net.Conn
	flow *tcpFlow
	stop func() bool
}

// CloseWrite sends the host the end of the stream.
func (c *hostConn) CloseWrite() error {
	if c.flow.ctx.Err() != nil {
		return net.ErrClosed
	}
	return closeWrite(c.Conn)
}

// Close closes the connection.
func (c *hostConn) Close() error {
	if c.stop(); c.flow.ctx.Err() != nil {
		reset(c.Conn)
	}
	return c.Conn.Close()
}
