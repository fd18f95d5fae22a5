package vnet

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// begin decides about the SYN that the reader has in hand, and reports whether it
// is dealt with. The stack gets those of flows that are left in Network.admitted,
// and those to an endpoint of its own.
func (r *reader) begin(now time.Time) bool {
	n, p := r.n, &r.packet
	if n.reopen(p) {
		return false
	}
	f, a := n.admitTCP(p.source(), p.dest(), now)
	switch {
	case a == answerNothing:
	case a == answerReset:
		r.out.reset()
		n.builder.appendRST(&r.out, p)
		n.send(&r.out)
	default:
		f.syn = p.frame[etherLen:p.payload]
		n.flows.Add(1)
		if n.direct.takes(f) {
			n.direct.open(f, p, now)
			return true
		}
		f.syn = slices.Clone(f.syn)
		n.admitted = f
		return false
	}
	return true
}

// isSYN reports whether a segment with these flags begins a flow.
func isSYN(flags uint8) bool { return flags&(flagSYN|flagACK|flagRST|flagFIN) == flagSYN }

// unanswered ends the flow whose SYN the stack didn't take.
func (r *reader) unanswered(now time.Time) {
	if f := r.n.admitted; f != nil {
		r.n.admitted = nil
		r.n.endTCP(f, endFailed, now)
		r.n.flows.Done()
	}
}

// onTCP is called by gVisor, on the reader's goroutine, for a segment that
// belongs to no endpoint. It reports whether the segment is dealt with; gVisor
// answers others with a reset.
func (n *Network) onTCP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	f := n.admitted
	if f == nil {
		// A SYN was meant for an endpoint that has gone in this moment: the guest
		// repeats it.
		return isSYN(uint8(header.TCP(pkt.TransportHeader().Slice()).Flags()))
	}
	forwarder := n.forwarder
	if f.buffers.tight() {
		forwarder = n.tight
	}
	taken := forwarder.HandlePacket(id, pkt)
	if taken {
		n.admitted = nil
	}
	return taken
}

// answerSYN is called by gVisor, on a goroutine of its own, for a SYN that onTCP has
// let in.
func (n *Network) answerSYN(r *tcp.ForwarderRequest) {
	n.workers.run(func() { n.serveTCP(r) })
}

// serveTCP serves a flow from its SYN to its end. Where the policy permits, the host is dialled
// first: what the guest's SYN gets is what the host got.
func (n *Network) serveTCP(r *tcp.ForwarderRequest) {
	defer n.flows.Done()
	id := r.ID()
	f := n.tcp.get(flowKey{addrPortOf(id.RemoteAddress, id.RemotePort), addrPortOf(id.LocalAddress, id.LocalPort)})
	var how string
	switch {
	case n.isDNS(f):
		how = n.serveDNS(f, r)
	case f.inspected:
		how = n.serveInspected(f, r)
	case f.nameFirst:
		how = n.serveNamed(f, r)
	default:
		how = n.serveDialed(f, r)
	}
	n.endTCP(f, how, time.Now())
}

// serveDialed dials, then accepts the guest's handshake, then relays: cases a
// and b of the contract.
func (n *Network) serveDialed(f *tcpFlow, r *tcp.ForwarderRequest) string {
	host, ep, wq, how := n.connect(f, r)
	if how != "" {
		return how
	}
	rl := &relay{n: n, flow: f, ep: ep, wq: wq, host: host, gate: newGate(n, f)}
	defer wq.EventUnregister(watch(f, ep, wq))
	return rl.run()
}

// connect dials the host and accepts the guest's handshake, or says how the flow
// has ended.
func (n *Network) connect(f *tcpFlow, r *tcp.ForwarderRequest) (host net.Conn, ep tcpip.Endpoint, wq *waiter.Queue, how string) {
	host, err := n.dial(f.ctx, f)
	if err != nil {
		n.tcp.established(f)
		return nil, nil, nil, n.refuse(f, r, err)
	}
	f.syn = nil
	ep, wq, ok := n.accept(f, r)
	n.tcp.established(f)
	if !ok {
		reset(host)
		host.Close()
		return nil, nil, nil, cmp.Or(f.cutReason(), endReset)
	}
	return host, ep, wq, ""
}

// serveNamed accepts the guest's handshake and dials only when the name has
// allowed it: case c of the contract.
func (n *Network) serveNamed(f *tcpFlow, r *tcp.ForwarderRequest) string {
	ep, wq, ok := n.accept(f, r)
	if !ok {
		return cmp.Or(f.cutReason(), endReset)
	}
	defer wq.EventUnregister(watch(f, ep, wq))
	rl := &relay{n: n, flow: f, ep: ep, wq: wq, gate: newGate(n, f)}
	why := rl.await()
	if why != "" {
		ep.Abort()
		return why
	}
	if rl.gate.handOver {
		return n.inspect(f, ep, wq, nil)
	}
	n.tcp.established(f) // a flow is held until here
	n.openTCP(f, time.Now())
	host, err := n.dial(f.ctx, f)
	if err != nil {
		ep.Abort() // the handshake is over: a reset is all that can be said
		return cmp.Or(f.cutReason(), n.dialFailed(f, err))
	}
	rl.host = host
	return rl.run()
}

// watch cuts the flow when the guest resets it, which both directions may be too
// busy with the host to see. The caller unregisters the entry.
func watch(f *tcpFlow, ep tcpip.Endpoint, wq *waiter.Queue) *waiter.Entry {
	entry := waiter.NewFunctionEntry(waiter.EventHUp|waiter.EventErr, func(waiter.EventMask) {
		switch tcp.EndpointState(ep.State()) {
		case tcp.StateError:
			f.cut(endReset)
		case tcp.StateClose: // a reset behind the guest's end of stream; else we have ended too
			if !f.ended.Load() {
				f.cut(endReset)
			}
		}
	})
	wq.EventRegister(&entry)
	return &entry
}

// isDNS reports whether the DNS proxy serves f.
func (n *Network) isDNS(f *tcpFlow) bool {
	return f.key.remote.Port() == dnsPort && n.cfg.DNS != nil
}

// isDoT reports whether the inspector takes the TLS off f and the DNS proxy serves
// what is inside.
func (n *Network) isDoT(f *tcpFlow) bool {
	return f.inspected && f.key.remote.Port() == dotPort
}

// serveDNS gives a flow to port 53 to the DNS proxy.
func (n *Network) serveDNS(f *tcpFlow, r *tcp.ForwarderRequest) string {
	ep, wq, ok := n.accept(f, r)
	n.tcp.established(f)
	if !ok {
		return cmp.Or(f.cutReason(), endReset)
	}
	return newGuestConn(f, ep, wq).serve(n.cfg.DNS.ServeConn)
}

// handshakeTimeout bounds the guest's part of the handshake. gVisor would repeat
// its SYN-ACK for two minutes; the guest is next door.
const handshakeTimeout = 10 * time.Second

// accept completes the guest's handshake. ok is false if the guest gave up, or
// the flow was cut.
func (n *Network) accept(f *tcpFlow, r *tcp.ForwarderRequest) (tcpip.Endpoint, *waiter.Queue, bool) {
	wq, id := new(waiter.Queue), r.ID()
	ended, aborted := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithTimeout(f.ctx, handshakeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		defer close(aborted)
		n.abortHandshake(id, ended)
	})
	ep, err := r.CreateEndpoint(wq)
	close(ended)
	if !stop() {
		<-aborted
	}
	if err != nil {
		r.Complete(false)
		return nil, nil, false
	}
	r.Complete(false)
	if ctx.Err() != nil {
		ep.Abort() // the abort came in the very moment
		return nil, nil, false
	}
	tune(ep)
	f.buffers.attach(ep)
	return ep, wq, true
}

// abortHandshake ends the handshake that CreateEndpoint is waiting for, which
// has no other way to be told. The endpoint may not be there yet.
func (n *Network) abortHandshake(id stack.TransportEndpointID, ended <-chan struct{}) {
	proto := header.IPv4ProtocolNumber
	if id.LocalAddress.BitLen() == header.IPv6AddressSizeBits {
		proto = header.IPv6ProtocolNumber
	}
	t := time.NewTicker(abortInterval)
	defer t.Stop()
	for {
		if ep, ok := n.stack.FindTransportEndpoint(proto, tcp.ProtocolNumber, id, nicID).(*tcp.Endpoint); ok {
			// Before the handshake this does nothing, so it is tried again; in the
			// middle it is a failure. Behind it the guest hears nothing of it, so
			// that accept's reset isn't preceded by an end of stream.
			ep.Shutdown(tcpip.ShutdownRead)
		}
		select {
		case <-t.C:
		case <-ended:
			return
		}
	}
}

// abortInterval is how often abortHandshake tries again.
const abortInterval = 5 * time.Millisecond

// reopen makes way for a SYN from where a connection was closed a moment ago.
// gVisor would keep the address and port for timeWait, against segments that are
// still under way; between the guest and us there are none (RFC 6191). A flow whose
// last bytes are still on their way to the host keeps it: the guest repeats its SYN.
// It reports whether an endpoint is there and stays. Only the reader calls it.
func (n *Network) reopen(p *packet) (stays bool) {
	id := stack.TransportEndpointID{
		LocalPort: p.dstPort, LocalAddress: tcpip.AddrFromSlice(p.dst.AsSlice()),
		RemotePort: p.srcPort, RemoteAddress: tcpip.AddrFromSlice(p.src.AsSlice()),
	}
	proto := header.IPv4ProtocolNumber
	if p.v6 {
		proto = header.IPv6ProtocolNumber
	}
	ep, ok := n.stack.FindTransportEndpoint(proto, tcp.ProtocolNumber, id, nicID).(*tcp.Endpoint)
	if !ok || ep.EndpointState() != tcp.StateTimeWait || n.tcp.has(flowKey{p.source(), p.dest()}) {
		return ok
	}
	ep.Abort()
	return false
}

// tune sets what every endpoint towards the guest has.
func tune(ep tcpip.Endpoint) {
	ep.SocketOptions().SetKeepAlive(true)
	ep.SocketOptions().SetDelayOption(false) // TCP_NODELAY: the sender has decided already
}

// dial opens the host's side, for as long as ctx allows.
func (n *Network) dial(ctx context.Context, f *tcpFlow) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := n.cfg.Dialer.DialTCP(ctx, f.dialed)
	if err == nil || !f.dialed.Addr().IsLoopback() {
		return c, err
	}
	if c, err2 := n.cfg.Dialer.DialTCP(ctx, otherLoopback(f.dialed)); err2 == nil {
		return c, nil
	}
	return nil, err
}

// otherLoopback returns where a server of this host's is that isn't at the loopback
// address a: the gateway stands for this host, whichever the server is on.
func otherLoopback(a netip.AddrPort) netip.AddrPort {
	if a.Addr() == loopback6 {
		return netip.AddrPortFrom(loopback4, a.Port())
	}
	return netip.AddrPortFrom(loopback6, a.Port())
}

// refuse tells the guest how its connect failed on the host's side, and returns
// that for the record. RFC 9293, section 3.5.2, and RFC 1122, section 4.2.3.9,
// say what the guest's kernel makes of it.
func (n *Network) refuse(f *tcpFlow, r *tcp.ForwarderRequest, err error) string {
	if why := f.cutReason(); why != "" {
		r.Complete(true)
		return why
	}
	how := n.dialFailed(f, err)
	if how == endUnreachable {
		n.unreachable(f, err)
	}
	// Silence lets the guest repeat its SYN, and maybe have more luck.
	r.Complete(how == endRefused)
	return how
}

// dialFailed says how a flow ends whose dial failed. That the host is short of
// something is recorded: it must not look like a denial.
func (n *Network) dialFailed(f *tcpFlow, err error) string {
	is := func(errnos ...syscall.Errno) bool {
		return slices.ContainsFunc(errnos, func(e syscall.Errno) bool { return errors.Is(err, e) })
	}
	switch {
	case is(syscall.ECONNREFUSED, syscall.ECONNRESET):
		return endRefused
	// EACCES is what Linux makes of ICMPv6 administratively prohibited.
	case is(syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EACCES, syscall.EPERM), is(syscall.EADDRNOTAVAIL) && f.dialed.Addr().Is6():
		return endUnreachable
	case is(syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.EADDRNOTAVAIL):
		n.limitHit("descriptors", f, time.Now())
		return endFailed
	}
	return endTimeout
}

// unreachable tells the guest why there is no way to the flow's destination.
func (n *Network) unreachable(f *tcpFlow, err error) {
	what := icmpNetUnreach
	switch {
	case errors.Is(err, syscall.EHOSTUNREACH):
		what = icmpHostUnreach
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		what = icmpProhibited
	}
	var out batch
	n.builder.appendICMP(&out, icmpReport{what: what}, f.syn)
	n.send(&out)
}
