package vnet

import (
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/sluicenet/sluice/vnet/link"
)

const (
	// maxSegmentPayload is what one frame to the guest may carry behind its
	// headers: an IP packet of 65535 bytes less 40 of IPv6 and 60 of TCP,
	// rounded down so that a MaxFrame always holds it.
	maxSegmentPayload = 65374
	// maxSynAcks bounds the SYN-ACKs that wait for their goroutine. What finds
	// no room is written where it is, which costs no more than some spinning.
	maxSynAcks = 256
	// writeBatch is how many frames one call hands to the link; gVisor's TCP
	// sends bursts of up to a congestion window.
	writeBatch = 32
)

// endpoint is gVisor's end of the guest's card: a stack.LinkEndpoint that
// writes to a link with segmentation offload. Frames arrive through inject,
// after the guard; there is no goroutine here.
type endpoint struct {
	link       link.Link
	mtu        uint32
	addr       tcpip.LinkAddress // the gateway's
	guest      tcpip.LinkAddress
	drops      *counters
	plain      bool                     // the link takes no segments
	dispatcher stack.NetworkDispatcher  // set once by Attach, before any frame; nil when removed
	scratch    sync.Pool                // of *writeScratch
	synAcks    chan *stack.PacketBuffer // to writeSynAcks; nil without it
}

// writeScratch is the memory of one WritePackets call.
type writeScratch struct {
	frames [writeBatch]link.Frame
	pieces [writeBatch][]([]byte)
}

var (
	_ stack.LinkEndpoint = (*endpoint)(nil)
	_ stack.GSOEndpoint  = (*endpoint)(nil)
)

func newEndpoint(l link.Link, mtu int, gateway, guest tcpip.LinkAddress, drops *counters) *endpoint {
	e := &endpoint{link: l, mtu: uint32(mtu), addr: gateway, guest: guest, drops: drops}
	_, e.plain = l.(link.Plain)
	e.scratch.New = func() any { return new(writeScratch) }
	return e
}

// inject hands an IP packet from the guest to the stack. It takes ownership of
// v, which begins with the IP header.
func (e *endpoint) inject(v6 bool, v *buffer.View) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(v)})
	proto := header.IPv4ProtocolNumber
	if v6 {
		proto = header.IPv6ProtocolNumber
	}
	e.dispatcher.DeliverNetworkPacket(proto, pkt)
	pkt.DecRef()
}

// WritePackets writes packets to the guest. It never waits: what finds no room
// is dropped by the link, which counts it, and TCP sends it again.
func (e *endpoint) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	list := pkts.AsSlice()
	if len(list) == 1 && isSynAck(list[0]) {
		pkt := list[0].IncRef()
		select {
		case e.synAcks <- pkt:
			return 1, nil
		default:
			pkt.DecRef()
		}
	}
	return e.write(list)
}

// writeSynAcks is a goroutine that writes SYN-ACKs until stop is done. gVisor
// sends one with its endpoint's lock held; the guest's ACK can be here before
// the write has returned, and the stack's processor would spin for the lock.
func (e *endpoint) writeSynAcks(stop <-chan struct{}) {
	for {
		select {
		case pkt := <-e.synAcks:
			e.write([]*stack.PacketBuffer{pkt})
			pkt.DecRef()
		case <-stop:
			return
		}
	}
}

// release lets go of SYN-ACKs that nobody writes any more.
func (e *endpoint) release() {
	for {
		select {
		case pkt := <-e.synAcks:
			pkt.DecRef()
		default:
			return
		}
	}
}

// isSynAck reports whether pkt answers a SYN.
func isSynAck(pkt *stack.PacketBuffer) bool {
	const both = header.TCPFlagSyn | header.TCPFlagAck
	h := pkt.TransportHeader().Slice()
	return len(h) >= header.TCPMinimumSize && header.TCP(h).Flags()&both == both
}

func (e *endpoint) write(list []*stack.PacketBuffer) (int, tcpip.Error) {
	s := e.scratch.Get().(*writeScratch)
	for rest := list; len(rest) > 0; {
		n := min(len(rest), writeBatch)
		for i, pkt := range rest[:n] {
			s.set(i, pkt)
		}
		e.drops.sent(s.frames[:n])
		if k, err := e.link.WriteFrames(s.frames[:n]); err != nil {
			e.drops.add(dropLinkClosed, uint64(len(rest)-k))
			break
		}
		rest = rest[n:]
	}
	s.clear()
	e.scratch.Put(s)
	return len(list), nil
}

// set lays packet pkt out as frame i, without copying.
func (s *writeScratch) set(i int, pkt *stack.PacketBuffer) {
	f := &s.frames[i]
	f.Offload = offloadOf(pkt)
	f.Data = nil
	pieces := s.pieces[i][:0]
	views, skip := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		b, skip = b[skip:], 0
		if f.Data == nil {
			f.Data = b
		} else {
			pieces = append(pieces, b)
		}
	}
	s.pieces[i] = pieces
	f.More = pieces
}

// clear lets go of the packets' memory, so that a pooled scratch pins none.
func (s *writeScratch) clear() {
	for i := range s.frames {
		if s.frames[i].Data == nil {
			break
		}
		s.frames[i].Data, s.frames[i].More = nil, nil
		clear(s.pieces[i])
	}
}

// offloadOf says what gVisor left undone in pkt. With host GSO its TCP packets
// carry only the pseudo-header's sum; all others are complete.
func offloadOf(pkt *stack.PacketBuffer) link.Offload {
	gso := pkt.GSOOptions
	if gso.Type == stack.GSONone || !gso.NeedsCsum {
		return link.Offload{}
	}
	o := link.Offload{
		NeedsChecksum:  true,
		ChecksumStart:  header.EthernetMinimumSize + gso.L3HdrLen,
		ChecksumOffset: gso.CsumOffset,
	}
	if pkt.Data().Size() <= int(gso.MSS) {
		return o // one segment: only the checksum is left
	}
	o.SegmentSize = gso.MSS
	switch gso.Type {
	case stack.GSOTCPv4:
		o.GSO = link.GSOTCPv4
	case stack.GSOTCPv6:
		o.GSO = link.GSOTCPv6
	}
	return o
}

// AddHeader puts the Ethernet header in front of pkt. There is one neighbour,
// so nothing is looked up.
func (e *endpoint) AddHeader(pkt *stack.PacketBuffer) {
	eth := header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize))
	eth.Encode(&header.EthernetFields{SrcAddr: e.addr, DstAddr: e.guest, Type: pkt.NetworkProtocolNumber})
}

// ParseHeader is not needed: inject delivers IP packets.
func (e *endpoint) ParseHeader(*stack.PacketBuffer) bool { return true }

func (e *endpoint) MTU() uint32                             { return e.mtu }
func (e *endpoint) SetMTU(uint32)                           {}
func (e *endpoint) MaxHeaderLength() uint16                 { return header.EthernetMinimumSize }
func (e *endpoint) LinkAddress() tcpip.LinkAddress          { return e.addr }
func (e *endpoint) SetLinkAddress(tcpip.LinkAddress)        {}
func (e *endpoint) Attach(d stack.NetworkDispatcher)        { e.dispatcher = d }
func (e *endpoint) IsAttached() bool                        { return e.dispatcher != nil }
func (e *endpoint) Wait()                                   {}
func (e *endpoint) Close()                                  {}
func (e *endpoint) SetOnCloseAction(func())                 {}
func (e *endpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (e *endpoint) GSOMaxSize() uint32                      { return maxSegmentPayload }
func (e *endpoint) SupportedGSO() stack.SupportedGSO {
	if e.plain {
		return stack.GSONotSupported
	}
	return stack.HostGSOSupported
}

// Capabilities says that received checksums need no look: the guard has
// verified them, or the card's header calls them partial. Transmit checksum
// offload is not said: with it gVisor leaves the checksums of packets without
// GSO options at zero.
func (e *endpoint) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}
