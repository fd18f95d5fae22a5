package link

// TAPOffloads are the flags for TUNSETOFFLOAD that let the guest's kernel leave
// to us what a Link's reader accepts: checksums, TCP segments with and without
// ECN, and UDP_SEGMENT. Linux has the UDP part, TAPOffloadsUDP, since 6.2; try
// again without it.
//
// The TAP itself needs IFF_TAP|IFF_NO_PI|IFF_VNET_HDR, and TAPHeaderLen by
// TUNSETVNETHDRSZ.
const (
	TAPOffloads    = 0x01 | 0x02 | 0x04 | 0x08 | TAPOffloadsUDP
	TAPOffloadsUDP = 0x20 | 0x40
)
