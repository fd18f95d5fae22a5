package vnet

import (
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	nicID = 1
	// timeWait is how long gVisor remembers a closed flow. Between the guest
	// and us nothing is delayed or reordered for longer than a queue, so the
	// two minutes of RFC 9293, section 3.6.1, would only hold memory.
	timeWait = 2 * time.Second
	// forwarderInFlight bounds gVisor's own table of SYNs being answered. Ours
	// (Limits.HeldFlows) is smaller and says what it drops; this one is silent.
	forwarderInFlight = 1 << 16
)

// newStack returns a gVisor stack that terminates the guest's TCP flows to any
// address at all: one card, no addresses of its own, every destination
// accepted. It speaks no ARP, NDP or ICMP; see the package's doc.
func newStack(e *endpoint) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocol,
			ipv6.NewProtocolWithOptions(ipv6.Options{}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	if err := configureStack(s, e); err != nil {
		s.Destroy()
		return nil, err
	}
	return s, nil
}

func configureStack(s *stack.Stack, e *endpoint) error {
	sack := tcpip.TCPSACKEnabled(true)
	// Said to be moderated, a queue that begins small has a window scale for the
	// largest (RFC 7323, section 2.2). Nobody moderates: buffers.go sets sizes.
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	recovery := tcpip.TCPRACKLossDetection
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	options := []tcpip.SettableTransportProtocolOption{
		&sack, &moderate, &recovery, &wait,
		&tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: maxBuffer, Max: maxBuffer},
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: maxBuffer, Max: maxBuffer},
	}
	for _, o := range options {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("set TCP option %T: %v", o, err)
		}
	}
	if err := s.CreateNIC(nicID, e); err != nil {
		return fmt.Errorf("create card: %v", err)
	}
	// Packets to any address are ours, and answers come from that address.
	if err := s.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("accept every destination: %v", err)
	}
	if err := s.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("answer from every address: %v", err)
	}
	// The guest sees flows from the gateway come from the dynamic ports (RFC
	// 6335, section 6), which no server of its own is on.
	if err := s.SetPortRange(49152, 65535); err != nil {
		return fmt.Errorf("set range of ports: %v", err)
	}
	s.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	return nil
}

// addrPortOf converts gVisor's address and port.
func addrPortOf(a tcpip.Address, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(addr, port)
}
