package vnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/sluicenet/sluice/internal/holder"
	"github.com/sluicenet/sluice/policy"
)

const (
	// guestDialTimeout is how long the guest may be silent on one address before
	// the other family is tried: it is next door. guestPatience is how long a
	// guest that was silent on IPv4 gets after that. A kernel whose queue of
	// accepts is full drops SYNs, and expects them again.
	guestDialTimeout = time.Second
	guestPatience    = 8 * time.Second
	// acceptPause is how long a listener waits after a failed accept, when
	// descriptors have run out, say. It never gives up.
	acceptPause = 50 * time.Millisecond
	// ownerBuffer is the size of each queue of DialGuest's connections.
	ownerBuffer = 256 << 10
)

// A Binding publishes a port of the guest's on the host.
type Binding struct {
	// Protocol is TCP or UDP.
	Protocol policy.Protocol
	// Host is where to listen. 0.0.0.0 is every IPv4 address, :: every IPv6
	// address and no IPv4 one; port 0 takes a free one.
	Host netip.AddrPort
	// GuestPort is the guest's; not 0.
	GuestPort uint16
}

// A published port is a listener on the host and the flows that came through it.
type published struct {
	binding  Binding          // Host as bound
	listener *net.TCPListener // nil for UDP
	udp      *udpPort         // nil for TCP
	flows    sync.WaitGroup   // the accept loop, and every flow
	slots    chan struct{}    // one element per flow; Limits.Inbound bounds it
}

// Publish binds a port of the host's to one of the guest's, and returns the
// binding with the address that was bound. When it returns, connections are
// accepted. The error wraps the system's, and names who holds a port that is
// taken where that can be known.
func (n *Network) Publish(b Binding) (Binding, error) {
	if b.GuestPort == 0 || !b.Host.Addr().IsValid() {
		return Binding{}, fmt.Errorf("publish %v to guest port %d: address or port missing", b.Host, b.GuestPort)
	}
	p := &published{slots: make(chan struct{}, n.cfg.Limits.inbound())}
	if err := p.listen(b); err != nil {
		return Binding{}, fmt.Errorf("publish %v: %w", b.Host, err)
	}
	n.publishedMu.Lock()
	defer n.publishedMu.Unlock()
	if n.ctx.Err() != nil {
		return Binding{}, errors.Join(net.ErrClosed, p.close())
	}
	n.published = append(n.published, p)
	p.flows.Go(func() {
		if p.udp != nil {
			n.inbound.serve(p)
		} else {
			n.acceptLoop(p)
		}
	})
	return p.binding, nil
}

// listen binds the port.
func (p *published) listen(b Binding) error {
	p.binding = b
	switch b.Protocol {
	case policy.TCP:
		network := "tcp4"
		if b.Host.Addr().Is6() {
			network = "tcp6" // with IPV6_V6ONLY, so that :: and 0.0.0.0 can both be bound
		}
		l, err := net.ListenTCP(network, net.TCPAddrFromAddrPort(b.Host))
		if err != nil {
			return withHolder(err, b.Host, b.Protocol)
		}
		p.listener = l
		p.binding.Host = canonical(l.Addr().(*net.TCPAddr).AddrPort())
	case policy.UDP:
		u, err := listenUDPPort(b.Host)
		if err != nil {
			return withHolder(err, b.Host, b.Protocol)
		}
		p.udp = u
		p.binding.Host = canonical(u.conn.LocalAddr().(*net.UDPAddr).AddrPort())
	default:
		return fmt.Errorf("%v port: %w", b.Protocol, errors.ErrUnsupported)
	}
	return nil
}

// withHolder adds to a failed bind of addr which process holds the port, where that
// can be told.
func withHolder(err error, addr netip.AddrPort, proto policy.Protocol) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	if who := holder.Of(addr, proto == policy.UDP); who != "" {
		return fmt.Errorf("%w: held by %s", err, who)
	}
	return err
}

// close closes the socket.
func (p *published) close() error {
	if p.udp != nil {
		return p.udp.conn.Close()
	}
	return p.listener.Close()
}

// Published returns the bindings in force, oldest first.
func (n *Network) Published() []Binding {
	n.publishedMu.Lock()
	defer n.publishedMu.Unlock()
	all := make([]Binding, len(n.published))
	for i, p := range n.published {
		all[i] = p.binding
	}
	return all
}

// Unpublish closes the listener on host and cuts its flows. It returns when
// they have ended; the error matches net.ErrClosed if there is no such port.
func (n *Network) Unpublish(protocol policy.Protocol, host netip.AddrPort) error {
	n.publishedMu.Lock()
	i := slices.IndexFunc(n.published, func(p *published) bool {
		return p.binding.Protocol == protocol && p.binding.Host == host
	})
	if i < 0 {
		n.publishedMu.Unlock()
		return fmt.Errorf("unpublish %v: %w", host, net.ErrClosed)
	}
	p := n.published[i]
	n.published = slices.Delete(n.published, i, i+1)
	n.flows.Add(1) // so that Close waits, which finds this port no more
	n.publishedMu.Unlock()
	defer n.flows.Done()
	return n.retire(p)
}

// retire ends a published port that is no longer in the list.
func (n *Network) retire(p *published) error {
	err := p.close()
	n.tcp.each(func(f *tcpFlow) {
		if f.port == p {
			f.cut(endClosed)
		}
	})
	p.flows.Wait()
	n.inbound.drop(time.Now(), endClosed, func(pe *inboundPeer) bool { return pe.port == p })
	return err
}

// retireAll ends every published port.
func (n *Network) retireAll() error {
	n.publishedMu.Lock()
	all := n.published
	n.published = nil
	n.publishedMu.Unlock()
	var err error
	for _, p := range all {
		err = errors.Join(err, n.retire(p))
	}
	return err
}

// acceptLoop accepts until the listener is closed.
func (n *Network) acceptLoop(p *published) {
	for {
		c, err := p.listener.AcceptTCP()
		switch {
		case err == nil:
			n.acceptInbound(p, c)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			select {
			case <-time.After(acceptPause):
			case <-n.ctx.Done():
				return
			}
		}
	}
}

// acceptInbound admits a peer's connection, or resets it.
func (n *Network) acceptInbound(p *published, c *net.TCPConn) {
	peer := canonical(c.RemoteAddr().(*net.TCPAddr).AddrPort())
	f, ok := n.admitInbound(p, peer, time.Now())
	if !ok {
		reset(c)
		c.Close()
		return
	}
	p.flows.Add(1)
	n.workers.run(func() {
		defer p.flows.Done()
		how := n.serveInbound(f, c)
		<-p.slots
		n.endTCP(f, how, time.Now())
	})
}

// serveInbound connects to the guest and relays.
func (n *Network) serveInbound(f *tcpFlow, c *net.TCPConn) string {
	ep, wq, err := n.dialGuest(f.ctx, f.key.guest.Port(), &f.buffers)
	if err != nil {
		reset(c)
		c.Close()
		return cmp.Or(f.cutReason(), endRefused)
	}
	r := &relay{n: n, flow: f, ep: ep, wq: wq, host: c, gate: &gate{state: gateOpen}}
	defer wq.EventUnregister(watch(f, ep, wq))
	return r.run()
}

// DialGuest connects to a TCP port of the guest's, as a published port would,
// without a rule: it is the owner of the sandbox who calls. The connection must
// be closed before the network is.
func (n *Network) DialGuest(ctx context.Context, port uint16) (net.Conn, error) {
	n.publishedMu.Lock()
	if n.ctx.Err() != nil {
		n.publishedMu.Unlock()
		return nil, fmt.Errorf("dial guest: %w", net.ErrClosed)
	}
	n.flows.Add(1) // so that Close waits for it
	n.publishedMu.Unlock()
	defer n.flows.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	// Its owner's memory, not the guest's.
	fixed := buffers{in: ownerBuffer, out: ownerBuffer, size: ownerBuffer}
	ep, wq, err := n.dialGuest(ctx, port, &fixed)
	if err != nil {
		return nil, err
	}
	// A flow that is in no table: nobody cuts it.
	f := &tcpFlow{ctx: n.ctx, key: flowKey{guest: netip.AddrPortFrom(n.cfg.Block.Guest4, port), remote: netip.AddrPortFrom(n.cfg.Block.Gateway4, 0)}}
	return newGuestConn(f, ep, wq), nil
}

// dialGuest tries the guest's IPv4 address, then its IPv6 one, then the one that
// it gave itself.
func (n *Network) dialGuest(ctx context.Context, port uint16, q *buffers) (tcpip.Endpoint, *waiter.Queue, error) {
	b := n.cfg.Block
	guest4 := netip.AddrPortFrom(b.Guest4, port)
	ep, wq, err := n.dialGuestAt(ctx, b.Gateway4, guest4, guestDialTimeout, q)
	if err == nil {
		return ep, wq, nil
	}
	for _, a := range []netip.Addr{b.Guest6, n.seen.get()} {
		if !a.IsValid() || ctx.Err() != nil {
			break
		}
		if ep, wq, err6 := n.dialGuestAt(ctx, b.Gateway6, netip.AddrPortFrom(a, port), guestDialTimeout, q); err6 == nil {
			return ep, wq, nil
		}
	}
	if errors.Is(err, errGuestSilent) && ctx.Err() == nil {
		return n.dialGuestAt(ctx, b.Gateway4, guest4, guestPatience, q)
	}
	return nil, nil, err
}

// errGuestSilent says that the guest answered a SYN in no way at all.
var errGuestSilent = errors.New("no answer")

// dialGuestAt connects from the gateway's address to the guest's.
func (n *Network) dialGuestAt(ctx context.Context, from netip.Addr, to netip.AddrPort, patience time.Duration, q *buffers) (tcpip.Endpoint, *waiter.Queue, error) {
	proto := header.IPv4ProtocolNumber
	if to.Addr().Is6() {
		proto = header.IPv6ProtocolNumber
	}
	wq := new(waiter.Queue)
	ep, terr := n.stack.NewEndpoint(tcp.ProtocolNumber, proto, wq)
	if terr != nil {
		return nil, nil, fmt.Errorf("dial guest: %v", terr)
	}
	tune(ep)
	q.begin(ep)
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	terr = ep.Bind(tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFromSlice(from.AsSlice())})
	if terr == nil {
		terr = ep.Connect(tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFromSlice(to.Addr().AsSlice()), Port: to.Port()})
	}
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		limit := time.NewTimer(patience)
		defer limit.Stop()
		select {
		case <-connected:
			terr = ep.LastError()
		case <-limit.C:
			ep.Abort()
			return nil, nil, fmt.Errorf("dial guest at %v: %w", to, errGuestSilent)
		case <-ctx.Done():
			terr = &tcpip.ErrAborted{}
		}
	}
	if terr != nil {
		ep.Abort()
		return nil, nil, fmt.Errorf("dial guest at %v: %v", to, terr)
	}
	q.attach(ep)
	return ep, wq, nil
}

// canonical returns a with its address unmapped and without a zone, as policy
// wants it.
func canonical(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
