package vnet

import (
	"encoding/binary"
	"net/netip"

	"github.com/sluicenet/sluice/vnet/link"
)

// Numbers of the wire formats: EtherTypes, IP protocols, header lengths in
// bytes and TCP flags.
const (
	etherTypeIPv4 = 0x0800
	etherTypeARP  = 0x0806
	etherTypeIPv6 = 0x86dd

	protoICMPv4   = 1
	protoTCP      = 6
	protoUDP      = 17
	protoFragment = 44 // IPv6 fragment header
	protoICMPv6   = 58

	etherLen    = 14
	ipv4Len     = 20 // without options, which we neither take nor send
	ipv6Len     = 40
	fragmentLen = 8
	tcpLen      = 20 // without options
	udpLen      = 8
	icmpLen     = 8 // echo, and the errors

	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagPSH = 0x08
	flagACK = 0x10
	flagURG = 0x20
)

// A kind says which part of the network a packet is for. The zero kind is none:
// nothing that passed the guard has it.
type kind uint8

const (
	kindNone     kind = iota
	kindARP           // → neigh.go; only frame and end are valid
	kindNDP           // → neigh.go or autoconf.go: a neighbour or router solicitation
	kindDHCP4         // → autoconf.go; src may be unspecified
	kindDHCP6         // → autoconf.go; src is link-local, dst multicast
	kindTCP           // → a direct flow, or gVisor
	kindUDP           // → udp.go, port 53 included
	kindEcho          // → icmp.go: an echo request
	kindRefused       // → publishudp.go: the guest's word that nobody listens; srcPort and dstPort are those of its answer
	kindFragment      // → fragment.go: a part of an UDP or ICMP datagram
)

// A packet is a guest's frame that passed the guard: an IP packet whose lengths,
// header and addresses are sound. It refers to the frame's memory and is valid
// only as long as that.
type packet struct {
	kind    kind
	frame   []byte // the whole Ethernet frame
	offload link.Offload
	v6      bool
	proto   uint8 // transport protocol: 6, 17, 1 or 58
	ttl     uint8
	src     netip.Addr // never mapped, no zone
	dst     netip.Addr
	srcPort uint16 // valid iff proto is TCP or UDP and the packet is no fragment, or kind is kindRefused
	dstPort uint16 // likewise
	l4      int    // offset of the transport header in frame
	payload int    // offset of the transport payload in frame
	end     int    // offset of the IP packet's end in frame; the rest is padding

	tcpFlags     uint8 // valid iff proto is TCP
	dontFragment bool  // IPv4's DF; always true for IPv6, whose routers never fragment

	// Fragments: valid iff kind is kindFragment. srcPort, dstPort and payload
	// are then not valid; frame[l4:end] is the fragment's part.
	fragID     uint32
	fragOffset int // bytes
	moreFrags  bool
}

// source returns the guest's end of a TCP or UDP packet.
func (p *packet) source() netip.AddrPort { return netip.AddrPortFrom(p.src, p.srcPort) }

// dest returns where a TCP or UDP packet goes.
func (p *packet) dest() netip.AddrPort { return netip.AddrPortFrom(p.dst, p.dstPort) }

// data returns the transport payload.
func (p *packet) data() []byte { return p.frame[p.payload:p.end] }

// ip returns the packet from its IP header to its end, without padding.
func (p *packet) ip() []byte { return p.frame[etherLen:p.end] }

// segments returns how many datagrams or segments the packet stands for, and
// the size of each but the last, in bytes of payload.
func (p *packet) segments() (n, size int) {
	length := p.end - p.payload
	if p.offload.GSO == link.GSONone {
		return 1, length
	}
	size = int(p.offload.SegmentSize)
	return max(1, (length+size-1)/size), size
}

// echoIdent returns an echo request's identifier and sequence number.
func (p *packet) echoIdent() (ident, seq uint16) {
	b := p.frame[p.l4:]
	return binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
}
