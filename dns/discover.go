package dns

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	mdns "github.com/miekg/dns"
)

// A Discovery is what upstreams reveal of the network they stand in.
type Discovery struct {
	// NAT64 are the network's own prefixes for IPv4 addresses inside IPv6:
	// policy.Host wants to know them.
	NAT64 []netip.Prefix
	// FakeIP reports that a proxy on this host answers 198.18.0.0/15 for every
	// name, which nothing but a rule for that prefix lets a guest reach.
	FakeIP bool
}

// discoveryName has one IPv4 address pair, and no IPv6 address but what a
// network's NAT64 makes of them: https://www.rfc-editor.org/rfc/rfc7050#section-2.2
const discoveryName = "ipv4only.arpa."

var (
	discoveryAddrs = []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 0, 170}), netip.AddrFrom4([4]byte{192, 0, 0, 171})}

	// fakeIPs are what such proxies answer with: addresses for benchmarks,
	// https://www.rfc-editor.org/rfc/rfc2544
	fakeIPs = netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, 0, 0}), 15)
)

// Discover asks the upstreams what network this is. It is for who composes a
// sandbox: at its start, and after each change of the host's routes. Policy and
// limits don't apply; nothing is kept.
func (s *Server) Discover(ctx context.Context) (Discovery, error) {
	var d Discovery
	// A tells what a proxy that fakes addresses makes of any name, AAAA what the
	// network's NAT64 makes of the two addresses.
	for _, qtype := range []uint16{mdns.TypeA, mdns.TypeAAAA} {
		a, err := s.askFor(ctx, discoveryName, qtype)
		if err != nil {
			return d, fmt.Errorf("ask upstreams for %s: %w", discoveryName, err)
		}
		for _, addr := range a.addrs {
			d.FakeIP = d.FakeIP || fakeIPs.Contains(addr)
			for _, p := range nat64Prefixes(addr) {
				if !slices.Contains(d.NAT64, p) {
					d.NAT64 = append(d.NAT64, p)
				}
			}
		}
	}
	return d, nil
}

// askFor asks the upstreams on our own behalf.
func (s *Server) askFor(ctx context.Context, name string, qtype uint16) (*answer, error) {
	msg, err := new(mdns.Msg).SetQuestion(name, qtype).Pack()
	if err != nil {
		return nil, err
	}
	q, _, _ := parseQuery(msg) // ours, and so no error
	text, _ := textName(name)
	// No call that others could join: whoever asks for the guest is judged.
	c := &call{key: cacheKey{name: text, qtype: qtype}, q: q}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, errClosed
	}
	s.wg.Add(1) // Close waits for this goroutine, which is the caller's
	s.mu.Unlock()
	defer s.wg.Done()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	stop := context.AfterFunc(s.ctx, cancel)
	defer stop()
	a := s.lookUp(ctx, c)
	if !final(a.rcode) {
		return nil, fmt.Errorf("answer is %s: %s", mdns.RcodeToString[a.rcode], a.reason)
	}
	return a, nil
}

// nat64Prefixes returns the prefixes under which addr can hold one of
// discoveryAddrs: https://www.rfc-editor.org/rfc/rfc6052#section-2.2
func nat64Prefixes(addr netip.Addr) []netip.Prefix {
	if !addr.Is6() {
		return nil
	}
	var prefixes []netip.Prefix
	b := addr.As16()
	for _, bits := range []int{96, 64, 56, 48, 40, 32} { // "one of the following prefix lengths"
		if bits < 96 && b[8] != 0 {
			continue // "bits 64 to 71 of the address are reserved … and MUST be set to zero"
		}
		var inside [4]byte
		for i, at := 0, bits/8; i < len(inside); i, at = i+1, at+1 {
			if at == 8 && bits < 96 {
				at++ // the reserved octet stands between those of the address
			}
			inside[i] = b[at]
		}
		if slices.Contains(discoveryAddrs, netip.AddrFrom4(inside)) {
			prefixes = append(prefixes, netip.PrefixFrom(addr, bits).Masked())
		}
	}
	return prefixes
}
