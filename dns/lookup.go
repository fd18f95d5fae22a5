package dns

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/sluicenet/sluice/policy"
)

// Lookup resolves name as a query of the guest's over UDP would: decided by the
// policy, recorded in events and in the table of names. It is for who acts on
// the guest's word with a name instead of an address, as a CONNECT does. IPv4
// addresses come first. The error says what the guest would be told.
func (s *Server) Lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	var addrs []netip.Addr
	var problem error // the first
	// Both families at once, as a resolver's client asks; the answers are kept as
	// the guest's own would be.
	qtypes := []uint16{mdns.TypeA, mdns.TypeAAAA}
	answers := make([]chan []byte, len(qtypes))
	for i, qtype := range qtypes {
		msg, err := new(mdns.Msg).SetQuestion(mdns.Fqdn(name), qtype).SetEdns0(maxUDPSize, false).Pack()
		if err != nil {
			return nil, fmt.Errorf("look up %q: %w", name, err)
		}
		answers[i] = make(chan []byte, 1)
		// The channel has room: an answer that comes when nobody waits any more
		// must not hold up who brings it.
		if !s.serve(msg, policy.UDP, time.Now(), func(answer []byte) { answers[i] <- answer }) {
			return nil, fmt.Errorf("look up %q: %w", name, errClosed)
		}
	}
	// In the order of qtypes, whichever comes first: IPv4 is what most hosts reach.
	for i := range qtypes {
		select {
		case answer := <-answers[i]:
			got, err := readAddrs(answer)
			addrs = append(addrs, got...)
			if problem == nil {
				problem = err
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("look up %q: %w", name, ctx.Err())
		case <-s.ctx.Done(): // who waits for an upstream then gets no answer
			return nil, fmt.Errorf("look up %q: %w", name, errClosed)
		}
	}
	switch {
	case len(addrs) > 0:
		return addrs, nil // one family is enough, whatever became of the other
	case problem != nil:
		return nil, fmt.Errorf("look up %q: %w", name, problem)
	}
	return nil, fmt.Errorf("look up %q: no address", name)
}

// readAddrs returns the addresses in an answer of our own, or its error.
func readAddrs(answer []byte) ([]netip.Addr, error) {
	// Ours has a header, whatever went wrong, and no code beyond its four bits.
	if rcode := int(binary.BigEndian.Uint16(answer[2:]) & 0xf); rcode != mdns.RcodeSuccess {
		return nil, fmt.Errorf("answer is %s", mdns.RcodeToString[rcode])
	}
	var m mdns.Msg
	if err := m.Unpack(answer); err != nil {
		return nil, err
	}
	return addrsIn(m.Answer), nil
}

// addrsIn returns the addresses of the A and AAAA records in rrs, whoever owns
// them: in an answer of ours all stand at the end of the queried name's chain.
func addrsIn(rrs []mdns.RR) []netip.Addr {
	var addrs []netip.Addr
	for _, rr := range rrs {
		var ip []byte
		switch rr := rr.(type) {
		case *mdns.A:
			ip = rr.A
		case *mdns.AAAA:
			ip = rr.AAAA
		}
		if addr, ok := netip.AddrFromSlice(ip); ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}
