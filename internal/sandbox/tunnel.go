package sandbox

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet"
)

// A connectTo is where a CONNECT leads: one address, and the name that it was
// asked for by.
type connectTo struct {
	addr   netip.AddrPort
	name   string         // "" if an address was asked for
	names  []string       // that the resolver has given for the address
	source netip.AddrPort // the guest; its port isn't known here
}

// evidence is what is known of the flow.
func (t connectTo) evidence() policy.Evidence {
	if t.name == "" {
		return policy.Evidence{Stage: policy.StageNoName, Names: t.names}
	}
	return policy.Evidence{Stage: policy.StageName, Name: t.name, Names: t.names}
}

// lookUpTarget returns the addresses of host, which is a canonical name or an
// address.
func (s *Sandbox) lookUpTarget(ctx context.Context, host string, port uint16) ([]connectTo, error) {
	block := s.block.block
	target := func(addr netip.Addr, name string) connectTo {
		source := block.Guest4
		if addr.Is6() {
			source = block.Guest6
		}
		return connectTo{
			addr:   netip.AddrPortFrom(addr, port),
			name:   name,
			names:  s.resolver.AppendNames(nil, addr, time.Now()),
			source: netip.AddrPortFrom(source, 0),
		}
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return []connectTo{target(addr.Unmap().WithZone(""), "")}, nil
	}
	addrs, err := s.resolver.Lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	if len(addrs) == 0 {
		return nil, errNoAddress
	}
	targets := make([]connectTo, len(addrs))
	for i, a := range addrs {
		targets[i] = target(a, host)
	}
	return targets, nil
}

// decideTarget decides about a target by the rules of this moment.
func (s *Sandbox) decideTarget(t connectTo) policy.Verdict {
	p, host := s.rules()
	return p.Decide(host, policy.Flow{Direction: policy.Egress, Protocol: policy.TCP, Peer: t.addr}, t.evidence())
}

// rules returns the policy of this moment and what it is about.
func (s *Sandbox) rules() (*policy.Policy, *policy.Host) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.policy, s.told
}

// dialTarget connects to a target that was allowed; the gateway is this host.
func (s *Sandbox) dialTarget(ctx context.Context, t connectTo) (net.Conn, error) {
	dialer := vnet.NewDialer()
	var err error
	for _, to := range s.reachable(t.addr) {
		var c net.Conn
		if c, err = dialer.DialTCP(ctx, to); err == nil {
			return s.tunnels.add(c, t), nil
		}
	}
	return nil, err
}

// reachable returns where an address is to be dialled: the gateway's own is this
// host's loopback, that of its family first.
func (s *Sandbox) reachable(a netip.AddrPort) []netip.AddrPort {
	loopback4 := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port())
	loopback6 := netip.AddrPortFrom(netip.IPv6Loopback(), a.Port())
	switch block := s.block.block; a.Addr() {
	case block.Gateway4:
		return []netip.AddrPort{loopback4, loopback6}
	case block.Gateway6:
		return []netip.AddrPort{loopback6, loopback4}
	}
	return []netip.AddrPort{a}
}

// tunnels are the open connections of CONNECT requests, so that new rules can cut
// them. The zero value is ready; its methods may be called by several goroutines.
type tunnels struct {
	mu   sync.Mutex // guards the following field
	open map[*tunnel]struct{}
}

// A tunnel is one of them.
type tunnel struct {
	net.Conn
	to connectTo
	of *tunnels
}

func (ts *tunnels) add(c net.Conn, to connectTo) *tunnel {
	t := &tunnel{c, to, ts}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.open == nil {
		ts.open = make(map[*tunnel]struct{})
	}
	ts.open[t] = struct{}{}
	return t
}

// review closes those that allowed denies now.
func (ts *tunnels) review(allowed func(connectTo) bool) {
	ts.mu.Lock()
	var all []*tunnel
	for t := range ts.open {
		all = append(all, t)
	}
	ts.mu.Unlock()
	for _, t := range all {
		if !allowed(t.to) {
			_ = t.Close() // the proxy notices
		}
	}
}

// CloseWrite ends our side.
func (t *tunnel) CloseWrite() error { return closeWrite(t.Conn) }

// Close closes the connection.
func (t *tunnel) Close() error {
	t.of.mu.Lock()
	delete(t.of.open, t)
	t.of.mu.Unlock()
	return t.Conn.Close()
}
