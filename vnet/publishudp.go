package vnet

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/sluicenet/sluice/internal/lru"
	"github.com/sluicenet/sluice/policy"
)

const (
	// firstInboundPort and lastInboundPort are the gateway's ports that peers
	// of published ports appear from: the dynamic ports (RFC 6335, section 6).
	firstInboundPort = 49152
	lastInboundPort  = 65535
	// maxKept is the longest first datagram of a peer that is sent again when the
	// guest refuses it at one address and may take it at another.
	maxKept = 1500
)

// An inboundUDP keeps the peers of published UDP ports. Each appears to the
// guest as a port of the gateway's, so the guest's reply says whom it is for.
type inboundUDP struct {
	n *Network

	mu    sync.Mutex // guards the following fields, and every inboundPeer's
	ports map[uint16]*inboundPeer
	next  uint16 // where the search for a free port begins

	denied recentDenials
}

// An inboundPeer is somebody who wrote to a published UDP port.
type inboundPeer struct {
	port       *published
	from       netip.AddrPort
	asked      netip.Addr // the host's address that it wrote to
	gateway    uint16     // the gateway's port that stands for it
	guest      netip.Addr // the guest's address that it is brought to
	first      []byte     // its first datagram, while it may be sent again
	refused    int        // how often the guest has said that nobody listens
	info       FlowInfo
	verdict    policy.Verdict
	generation uint64
	opened     time.Time
	used       time.Time
}

func newInboundUDP(n *Network) *inboundUDP {
	return &inboundUDP{n: n, ports: make(map[uint16]*inboundPeer), next: firstInboundPort}
}

// A udpPort is the socket of a published UDP port.
type udpPort struct {
	conn  *net.UDPConn
	v4    *ipv4.PacketConn                        // nil for an IPv6 socket
	v6    *ipv6.PacketConn                        // nil for an IPv4 socket
	peers lru.Table[netip.AddrPort, *inboundPeer] // guarded by inboundUDP.mu
	guest netip.Addr                              // where the guest has answered last; guarded by inboundUDP.mu
}

// listenUDPPort binds a published port. It is told which of the host's
// addresses a datagram was sent to, so that the answer comes from there.
func listenUDPPort(host netip.AddrPort) (*udpPort, error) {
	network := "udp4"
	if host.Addr().Is6() {
		network = "udp6"
	}
	c, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(host))
	if err != nil {
		return nil, err
	}
	p := &udpPort{conn: c}
	if host.Addr().Is6() {
		p.v6 = ipv6.NewPacketConn(c)
		err = p.v6.SetControlMessage(ipv6.FlagDst, true)
	} else {
		p.v4 = ipv4.NewPacketConn(c)
		err = p.v4.SetControlMessage(ipv4.FlagDst, true)
	}
	if err != nil && !host.Addr().IsUnspecified() {
		err = nil // there is one address to answer from anyway
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("learn destination addresses: %w", err), c.Close())
	}
	return p, nil
}

// read reads a datagram, and says who sent it and to which address.
func (p *udpPort) read(b []byte) (n int, from netip.AddrPort, asked netip.Addr, err error) {
	var dst net.IP
	var src net.Addr
	if p.v4 != nil {
		var cm *ipv4.ControlMessage
		if n, cm, src, err = p.v4.ReadFrom(b); cm != nil {
			dst = cm.Dst
		}
	} else {
		var cm *ipv6.ControlMessage
		if n, cm, src, err = p.v6.ReadFrom(b); cm != nil {
			dst = cm.Dst
		}
	}
	if a, ok := src.(*net.UDPAddr); ok {
		from = a.AddrPort()
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	}
	asked, _ = netip.AddrFromSlice(dst)
	return n, from, asked.Unmap(), err
}

// serve passes on what peers send until the socket is closed. An error of one
// read, an ICMP error for an earlier answer say, ends nothing.
func (u *inboundUDP) serve(p *published) {
	buf := make([]byte, maxDatagram6)
	var out batch
	for {
		k, from, asked, err := p.udp.read(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			select {
			case <-time.After(acceptPause):
			case <-u.n.ctx.Done():
				return
			}
		case from.IsValid():
			if gateway, guest, ok := u.admitDatagram(p, from, asked, buf[:k], time.Now()); ok {
				out.reset()
				u.n.builder.appendUDP(&out, gateway, guest, buf[:k])
				u.n.send(&out)
			}
		}
	}
}

// admitDatagram returns where a peer's datagram appears to come from, and where it
// goes, if the policy admits it.
func (u *inboundUDP) admitDatagram(p *published, from netip.AddrPort, asked netip.Addr, b []byte, now time.Time) (gateway, guest netip.AddrPort, ok bool) {
	u.mu.Lock()
	e := p.udp.peers.Find(from)
	known := e != nil && e.Value.generation == u.n.rules.Load().generation
	u.mu.Unlock()
	if !known && !u.admit(p, from, asked, now) {
		u.n.counters.drop(dropDenied)
		return gateway, guest, false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if e = p.udp.peers.Find(from); e == nil {
		return gateway, guest, false // evicted since
	}
	pe := e.Value
	if pe.info.BytesIn == 0 && len(b) <= maxKept {
		pe.first = slices.Clone(b)
	}
	pe.used, pe.asked = now, asked
	pe.info.BytesIn += uint64(len(b))
	p.udp.peers.Touch(e)
	gateway, guest = u.wayLocked(pe)
	return gateway, guest, true
}

// wayLocked returns the ends of a peer's datagrams as the guest sees them.
func (u *inboundUDP) wayLocked(pe *inboundPeer) (gateway, guest netip.AddrPort) {
	b := &u.n.cfg.Block
	from := b.Gateway4
	if pe.guest.Is6() {
		from = b.Gateway6
	}
	return netip.AddrPortFrom(from, pe.gateway), netip.AddrPortFrom(pe.guest, pe.port.binding.GuestPort)
}

// admit decides about a peer, and gives it a port of the gateway's.
func (u *inboundUDP) admit(p *published, from netip.AddrPort, asked netip.Addr, now time.Time) bool {
	r := u.n.rules.Load()
	guest := netip.AddrPortFrom(u.n.cfg.Block.Guest4, p.binding.GuestPort)
	peer := canonical(from)
	v := r.decide(policy.Flow{Direction: policy.Ingress, Protocol: policy.UDP, Peer: peer, GuestPort: guest.Port()},
		policy.Evidence{Stage: policy.StageNoName})
	info := FlowInfo{ID: u.n.nextID.Add(1), Direction: policy.Ingress, Protocol: policy.UDP, Src: peer, Dst: guest}
	if v.Action != policy.Allow {
		u.end(p, from, endDenied, now)
		u.recordDenial(natFlow{proto: policy.UDP, guest: guest, remote: peer}, info, v, r.generation, now)
		return false
	}
	u.mu.Lock()
	if u.n.generation() != r.generation { // who replaced the rules may have looked here before
		u.mu.Unlock()
		return u.admit(p, from, asked, now)
	}
	if e := p.udp.peers.Find(from); e != nil { // the policy was replaced
		e.Value.generation, e.Value.verdict = r.generation, v
		u.mu.Unlock()
		return true
	}
	var ended []*inboundPeer
	limit := u.n.cfg.Limits.inbound()
	for p.udp.peers.Len() > 0 && p.udp.peers.Len() >= limit {
		ended = append(ended, u.removeLocked(p, p.udp.peers.Oldest()))
	}
	gateway, ok := u.freePortLocked()
	if ok = ok && limit > 0; ok {
		pe := &inboundPeer{port: p, from: from, asked: asked, gateway: gateway, info: info, verdict: v,
			generation: r.generation, opened: now, used: now, guest: cmp.Or(p.udp.guest, u.n.cfg.Block.Guest4)}
		p.udp.peers.Put(from, pe)
		u.ports[gateway] = pe
	}
	u.mu.Unlock()
	for _, pe := range ended {
		u.n.hit(Event{Type: "limit.hit", Time: now, Generation: r.generation, Flow: pe.info, Limit: "Inbound"})
		u.record(pe, endClosed, now)
	}
	if !ok {
		u.n.hit(Event{Type: "limit.hit", Time: now, Generation: r.generation, Flow: info, Limit: "Inbound"})
		return false
	}
	u.n.event(Event{Type: "flow.open", Time: now, Generation: r.generation, Flow: info, Verdict: v})
	return true
}

// recordDenial records a denial, unless it repeats one of a moment ago.
func (u *inboundUDP) recordDenial(f natFlow, info FlowInfo, v policy.Verdict, generation uint64, now time.Time) {
	u.mu.Lock()
	repeated := u.denied.recent(f, generation, now)
	u.denied.add(f, generation, now)
	u.mu.Unlock()
	if !repeated {
		info.Response = "drop"
		u.n.event(Event{Type: "flow.deny", Time: now, Generation: generation, Flow: info, Verdict: v})
	}
}

// freePortLocked finds a port of the gateway's that stands for nobody.
func (u *inboundUDP) freePortLocked() (uint16, bool) {
	for range lastInboundPort - firstInboundPort + 1 {
		port := u.next
		if u.next++; u.next == 0 { // behind lastInboundPort
			u.next = firstInboundPort
		}
		if u.ports[port] == nil {
			return port, true
		}
	}
	return 0, false
}

// reply passes the guest's answer to a peer of a published port. It reports
// false if p is no such answer, but a flow of the guest's own. The link's reader
// calls it.
func (u *inboundUDP) reply(p *packet, now time.Time) bool {
	u.mu.Lock()
	pe := u.answeredLocked(p)
	if pe == nil {
		u.mu.Unlock()
		return false
	}
	pe.used, pe.first, pe.refused, pe.port.udp.guest = now, nil, 0, pe.guest
	pe.info.BytesOut += uint64(len(p.data()))
	to, asked, port := pe.from, pe.asked, pe.port
	u.mu.Unlock()
	_, size := p.segments()
	for b := range datagrams(p.data(), size) {
		if err := port.udp.write(b, to, asked); err != nil {
			u.n.counters.drop(dropUDPSend)
		}
	}
	return true
}

// answeredLocked returns the peer that a packet of the guest's is an answer to; nil
// if it is none. Over IPv6 the guest may answer from another address of its own.
func (u *inboundUDP) answeredLocked(p *packet) *inboundPeer {
	if p.dst != u.n.cfg.Block.Gateway4 && p.dst != u.n.cfg.Block.Gateway6 {
		return nil
	}
	pe := u.ports[p.dstPort]
	if pe == nil || pe.port.binding.GuestPort != p.srcPort || pe.guest.Is6() != p.v6 {
		return nil
	}
	return pe
}

// refused brings a peer to the guest's next address, where its server may be: IPv4,
// then the block's IPv6 address, then the one that it gave itself, as for TCP. What
// the guest has refused is sent again, if it was the first. It reports false if p
// refuses nothing of ours. The link's reader calls it.
func (u *inboundUDP) refused(p *packet) bool {
	block := &u.n.cfg.Block
	u.mu.Lock()
	pe := u.answeredLocked(p)
	if pe == nil {
		u.mu.Unlock()
		return false
	}
	at := []netip.Addr{block.Guest4, block.Guest6}
	if a := u.n.seen.get(); a.IsValid() {
		at = append(at, a)
	}
	if pe.refused++; pe.refused >= len(at) {
		pe.first = nil // nobody is there; later datagrams go round
	}
	pe.guest, pe.port.udp.guest = at[(slices.Index(at, pe.guest)+1)%len(at)], netip.Addr{}
	again := pe.first
	gateway, guest := u.wayLocked(pe)
	u.mu.Unlock()
	if again != nil {
		var out batch
		u.n.builder.appendUDP(&out, gateway, guest, again)
		u.n.send(&out)
	}
	return true
}

// expire ends peers that were silent for as long as a UDP session may be.
func (u *inboundUDP) expire(now time.Time) {
	u.drop(now, endTimeout, func(pe *inboundPeer) bool { return now.Sub(pe.used) >= udpIdle })
}

// recheck decides every peer again, for its record too, and ends those that are
// now denied.
func (u *inboundUDP) recheck(r *rules, now time.Time) {
	u.drop(now, endDenied, func(pe *inboundPeer) bool {
		f := policy.Flow{Direction: policy.Ingress, Protocol: policy.UDP, Peer: pe.info.Src, GuestPort: pe.info.Dst.Port()}
		pe.verdict, pe.generation = r.decide(f, policy.Evidence{Stage: policy.StageNoName}), r.generation
		return pe.verdict.Action != policy.Allow
	})
}

// drop ends every peer that end is true for.
func (u *inboundUDP) drop(now time.Time, how string, end func(*inboundPeer) bool) {
	u.mu.Lock()
	var ended []*inboundPeer
	for _, pe := range u.ports {
		if end(pe) {
			ended = append(ended, u.removeLocked(pe.port, pe.port.udp.peers.Find(pe.from)))
		}
	}
	u.mu.Unlock()
	for _, pe := range ended {
		u.record(pe, how, now)
	}
}

// end ends one peer, if it is there.
func (u *inboundUDP) end(p *published, from netip.AddrPort, how string, now time.Time) {
	u.mu.Lock()
	e := p.udp.peers.Find(from)
	if e == nil {
		u.mu.Unlock()
		return
	}
	pe := u.removeLocked(p, e)
	u.mu.Unlock()
	u.record(pe, how, now)
}

// appendFlows appends what is known of the peers of this moment.
func (u *inboundUDP) appendFlows(all []FlowInfo, now time.Time) []FlowInfo {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, pe := range u.ports {
		info := pe.info
		info.Duration = now.Sub(pe.opened)
		all = append(all, info)
	}
	return all
}

func (u *inboundUDP) removeLocked(p *published, e *lru.Entry[netip.AddrPort, *inboundPeer]) *inboundPeer {
	p.udp.peers.Remove(e)
	delete(u.ports, e.Value.gateway)
	return e.Value
}

// record records a peer's end.
func (u *inboundUDP) record(pe *inboundPeer, how string, now time.Time) {
	info := pe.info
	info.Duration, info.End = now.Sub(pe.opened), how
	u.n.event(Event{Type: "flow.close", Time: now, Generation: pe.generation, Flow: info, Verdict: pe.verdict})
}
