package memnet

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/sluicenet/sluice/vnet/link"
)

// nic is the guest's one card.
const nic = 1

// Config describes a guest. Link and MAC are needed.
type Config struct {
	Link link.Link // the guest's end of the card; the guest closes it
	MAC  net.HardwareAddr
	// Addrs are the guest's addresses with their on-link prefixes.
	Addrs []netip.Prefix
	// Gateways are where the default routes lead, one of each family at most.
	Gateways []netip.Addr
	MTU      int // bytes of IP packet; 0 means 1500
}

// A Guest is a machine with one card. Its methods may be called concurrently.
type Guest struct {
	link    link.Link
	channel *channel.Endpoint // between the stack and our goroutines
	stack   *stack.Stack
	stop    context.CancelFunc
	wg      sync.WaitGroup // readLink and readStack

	mu      sync.Mutex           // guards watches
	watches map[chan []byte]bool // who wants to see what comes
}

// NewGuest starts a guest, for the time of a test.
func NewGuest(t testing.TB, c Config) *Guest {
	t.Helper()
	if c.MTU == 0 {
		c.MTU = 1500
	}
	ctx, stop := context.WithCancel(context.Background())
	g := &Guest{
		link:    c.Link,
		channel: channel.New(pipeFrames, uint32(c.MTU)+header.EthernetMinimumSize, tcpip.LinkAddress(c.MAC)),
		stop:    stop,
		watches: make(map[chan []byte]bool),
	}
	g.stack = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			arp.NewProtocol,
			ipv4.NewProtocol,
			ipv6.NewProtocol, // its zero NDP options: no DAD, no router solicitation
		},
		TransportProtocols: []stack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
	})
	if err := g.configure(c); err != nil {
		t.Fatal(err)
	}
	g.wg.Go(func() { g.readStack(ctx) })
	g.wg.Go(g.readLink)
	t.Cleanup(g.close)
	return g
}

// configure gives the stack its card, addresses and routes.
func (g *Guest) configure(c Config) error {
	if err := g.stack.CreateNIC(nic, ethernet.New(g.channel)); err != nil {
		return fmt.Errorf("create the guest's card: %v", err)
	}
	sack := tcpip.TCPSACKEnabled(true)
	if err := g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack); err != nil {
		return fmt.Errorf("set up the guest's TCP: %v", err)
	}
	var routes []tcpip.Route
	for _, p := range c.Addrs {
		a := tcpip.AddrFromSlice(p.Addr().AsSlice())
		with := tcpip.AddressWithPrefix{Address: a, PrefixLen: p.Bits()}
		if err := g.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{Protocol: family(p.Addr()), AddressWithPrefix: with}, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("give the guest %v: %v", p, err)
		}
		routes = append(routes, tcpip.Route{Destination: with.Subnet(), NIC: nic})
	}
	for _, gateway := range c.Gateways {
		to := header.IPv4EmptySubnet
		if gateway.Is6() {
			to = header.IPv6EmptySubnet
		}
		routes = append(routes, tcpip.Route{Destination: to, Gateway: tcpip.AddrFromSlice(gateway.AsSlice()), NIC: nic})
	}
	g.stack.SetRouteTable(routes)
	return nil
}

func family(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

// Dial connects from the guest, network "tcp" or "udp", to an address and port.
// The caller closes the connection. For UDP ctx is not looked at.
func (g *Guest) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	switch network {
	case "tcp":
		c, err := gonet.DialContextTCP(ctx, g.stack, full(to), family(to.Addr()))
		if err != nil {
			return nil, err // not a nil *TCPConn in an interface
		}
		return c, nil
	case "udp":
		remote := full(to)
		c, err := gonet.DialUDP(g.stack, nil, &remote, family(to.Addr()))
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	return nil, net.UnknownNetworkError(network)
}

// Listen opens a TCP listener on one of the guest's addresses, or on all of a
// family's if it is unspecified. The caller closes it.
func (g *Guest) Listen(address string) (net.Listener, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	return gonet.ListenTCP(g.stack, full(at), family(at.Addr()))
}

// ListenPacket opens a UDP socket on one of the guest's addresses. The caller
// closes it.
func (g *Guest) ListenPacket(address string) (net.PacketConn, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	local := full(at)
	return gonet.DialUDP(g.stack, &local, nil, family(at.Addr()))
}

func full(a netip.AddrPort) tcpip.FullAddress {
	f := tcpip.FullAddress{NIC: nic, Port: a.Port()}
	if !a.Addr().IsUnspecified() {
		f.Addr = tcpip.AddrFromSlice(a.Addr().AsSlice())
	}
	return f
}

// Send sends bytes as an Ethernet frame, whatever they are: a guest's root can.
func (g *Guest) Send(frame []byte) error {
	_, err := g.link.WriteFrames([]link.Frame{{Data: frame}})
	return err
}

// Watch returns a channel that gets a copy of every frame that comes, until the
// test ends. A frame that finds the channel full is missing from it. The guest's
// stack gets the frames all the same.
func (g *Guest) Watch(t testing.TB, size int) <-chan []byte {
	frames := make(chan []byte, size)
	g.mu.Lock()
	g.watches[frames] = true
	g.mu.Unlock()
	t.Cleanup(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.watches, frames)
	})
	return frames
}

// readStack carries frames from the stack to the card until ctx is done.
func (g *Guest) readStack(ctx context.Context) {
	for {
		p := g.channel.ReadContext(ctx)
		if p == nil {
			return
		}
		v := p.ToView()
		g.Send(v.AsSlice()) // an error means that the card is gone
		v.Release()
		p.DecRef()
	}
}

// readLink carries frames from the card to the stack until the card is gone.
func (g *Guest) readLink() {
	frames := make([]link.Frame, 16)
	for {
		n, err := g.link.ReadFrames(frames)
		if err != nil {
			return
		}
		for _, f := range frames[:n] {
			g.show(f.Data)
			// gVisor verifies checksums here, so what the link left to be done is
			// done first, as a card does.
			if o := f.Offload; o.NeedsChecksum {
				finishChecksum(f.Data, int(o.ChecksumStart), int(o.ChecksumOffset))
			}
			p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(f.Data)})
			g.channel.InjectInbound(0, p)
			p.DecRef()
		}
	}
}

func (g *Guest) show(frame []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for w := range g.watches {
		select {
		case w <- slices.Clone(frame):
		default:
		}
	}
}

// finishChecksum completes a checksum whose field holds the pseudo-header's sum.
func finishChecksum(frame []byte, start, offset int) {
	if start+offset+2 > len(frame) {
		return // a bug of the sender's; the stack will drop it
	}
	sum := checksum.Checksum(frame[start:], 0)
	binary.BigEndian.PutUint16(frame[start+offset:], ^sum)
}

// close takes the guest down and waits for its goroutines.
func (g *Guest) close() {
	g.link.Close()
	g.stop()
	g.wg.Wait()
	g.stack.Destroy()
}
