package vnet

import (
	"net/netip"

	"github.com/sluicenet/sluice/vnet/link"
)

// A packet is a guest's frame that passed the guard: an IP packet whose lengths,
// header and addresses are sound. It refers to the frame's memory and is valid
// only as long as that.
type packet struct {
	frame   []byte // the whole Ethernet frame
	offload link.Offload
	v6      bool
	proto   uint8 // transport protocol: 6, 17, 1 or 58
	ttl     uint8
	src     netip.Addr // never mapped, no zone
	dst     netip.Addr
	srcPort uint16 // TCP and UDP, and first or only fragments
	dstPort uint16
	l4      int // offset of the transport header in frame
	payload int // offset of the transport payload in frame
	end     int // offset of the IP packet's end in frame; the rest is padding

	tcpFlags uint8 // valid iff proto is TCP

	// Fragments: valid iff fragment. srcPort, dstPort and payload are then not
	// valid; frame[l4:end] is the fragment's part.
	fragment   bool
	fragID     uint32
	fragOffset int // bytes
	moreFrags  bool
}
