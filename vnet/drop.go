package vnet

// A drop says why a frame went no further. Each value is one counter; dropNone
// is the zero value and means that nothing was dropped.
type drop uint8

const (
	dropNone drop = iota

	// The guard's, in the order of its checks.
	dropRunt        // shorter than its headers say
	dropOversize    // above the MTU, and not to be segmented
	dropEtherType   // not ARP, IPv4 or IPv6: VLAN, LLC, LLDP, junk
	dropMACSource   // not from the guest's card
	dropMACDest     // not for the gateway's card, nor a broadcast that we answer
	dropOffload     // a virtio-net header that does not fit its packet
	dropARP         // malformed, or none of our business
	dropIPHeader    // IP version, lengths, reserved bit
	dropIPChecksum  // IPv4 header checksum
	dropIPOptions   // IPv4 options
	dropExtension   // an IPv6 extension header other than a fragment's
	dropSource      // a source address that is not the guest's
	dropDestination // a destination that is never valid on the wire
	dropMulticast   // multicast or broadcast that nobody here answers: noise
	dropTTL         // TTL or hop limit 0
	dropProtocol    // neither TCP, UDP nor ICMP
	dropFragment    // malformed fragment, or one of a protocol that we don't reassemble
	dropTCPHeader   // TCP lengths, port 0
	dropTCPFlags    // a combination of TCP flags that no stack sends
	dropUDPHeader   // UDP lengths, port 0, IPv6 without checksum
	dropICMPHeader  // ICMP too short
	dropICMPType    // ICMP other than an echo request: a guest's errors, redirects
	dropNDP         // malformed, or a message that only a router or neighbour sends
	dropDHCP        // malformed, or a message that needs no answer from us
	dropChecksum    // TCP, UDP or ICMP checksum

	// The reassembler's.
	dropReassemblyOverlap // fragments that overlap or contradict each other
	dropReassemblyLimit   // no room for another fragment, byte or datagram
	dropReassemblyTimeout // the rest never came

	// The NAT's.
	dropDenied      // the policy said no
	dropExpired     // TTL or hop limit 1: it ends at the gateway
	dropUDPSocket   // no host socket to be had: descriptors
	dropUDPSend     // the host's socket took no more (ENOBUFS, EAGAIN)
	dropUDPPeer     // a reply from an address that the guest did not write to
	dropTooBig      // larger than the path's MTU, and not to be fragmented
	dropDNS         // a query for port 53, and nobody there to answer
	dropICMPRate    // echo requests and errors above Limits.ICMPPerSecond
	dropICMPSocket  // the host forbids echo, or has no descriptor left
	dropICMPSend    // the host's socket took no more
	dropICMPPeer    // an echo reply to no request of the guest's
	dropUnreachable // the host has no route
	dropNATClosed   // the network is closing

	// The gateway's own answers.
	dropAutoconfRate // more DHCP and router solicitations than any client sends

	// The TCP path's.
	dropHeld       // a SYN above Limits.HeldFlows: the guest repeats it
	dropFlowRate   // a flow above Limits.FlowsPerSecond, UDP's too
	dropRepeated   // a SYN of a flow that is being dialled already
	dropSequence   // a segment that leaves a gap: the guest sends it again
	dropLinkClosed // the guest's card is gone

	numDrops // how many there are: the size of an array of counters
)

// String returns the counter's name, in lower case with dashes.
func (d drop) String() string {
	if int(d) < len(dropNames) {
		return dropNames[d]
	}
	return "unknown"
}

var dropNames = [numDrops]string{
	dropNone:              "none",
	dropRunt:              "runt",
	dropOversize:          "oversize",
	dropEtherType:         "ethertype",
	dropMACSource:         "mac-source",
	dropMACDest:           "mac-destination",
	dropOffload:           "offload",
	dropARP:               "arp",
	dropIPHeader:          "ip-header",
	dropIPChecksum:        "ip-checksum",
	dropIPOptions:         "ip-options",
	dropExtension:         "ipv6-extension",
	dropSource:            "source",
	dropDestination:       "destination",
	dropMulticast:         "multicast",
	dropTTL:               "ttl",
	dropProtocol:          "protocol",
	dropFragment:          "fragment",
	dropTCPHeader:         "tcp-header",
	dropTCPFlags:          "tcp-flags",
	dropUDPHeader:         "udp-header",
	dropICMPHeader:        "icmp-header",
	dropICMPType:          "icmp-type",
	dropNDP:               "ndp",
	dropDHCP:              "dhcp",
	dropChecksum:          "checksum",
	dropReassemblyOverlap: "reassembly-overlap",
	dropReassemblyLimit:   "reassembly-limit",
	dropReassemblyTimeout: "reassembly-timeout",
	dropDenied:            "denied",
	dropExpired:           "expired",
	dropUDPSocket:         "udp-socket",
	dropUDPSend:           "udp-send",
	dropUDPPeer:           "udp-peer",
	dropTooBig:            "too-big",
	dropDNS:               "dns",
	dropICMPRate:          "icmp-rate",
	dropICMPSocket:        "icmp-socket",
	dropICMPSend:          "icmp-send",
	dropICMPPeer:          "icmp-peer",
	dropUnreachable:       "unreachable",
	dropNATClosed:         "closed",
	dropAutoconfRate:      "autoconf-rate",
	dropHeld:              "held",
	dropFlowRate:          "flow-rate",
	dropRepeated:          "repeated",
	dropSequence:          "sequence",
	dropLinkClosed:        "link-closed",
}
