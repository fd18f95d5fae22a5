package link

// Where things are in frames, in bytes.
const (
	etherLen    = 14
	ipv4Len     = 20 // without options
	ipv6Len     = 40
	tcpLen      = 20 // without options
	udpLen      = 8
	tcpChecksum = 16 // offset in the TCP header
	udpChecksum = 6  // offset in the UDP header
)

// EtherTypes and IP protocols.
const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	protoTCP  = 6
	protoUDP  = 17
)

// TCP flags that matter where segments are cut or merged.
const (
	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpACK = 0x10
	tcpCWR = 0x80
)

// frameLen returns the length of f, in bytes.
func frameLen(f *Frame) int {
	n := len(f.Data)
	for _, b := range f.More {
		n += len(b)
	}
	return n
}
