package vnet

import (
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/sluicenet/sluice/vnet/link"
)

// appendSYN appends the answer to the guest's SYN.
func (c *directFlow) appendSYN() {
	var options [8]byte
	n := header.EncodeMSSOption(uint32(c.ourMSS), options[:])
	if c.scaled {
		n += header.EncodeNOP(options[n:])
		n += header.EncodeWSOption(directScale, options[n:])
	}
	t := c.append(c.iss, flagSYN|flagACK, options[:n])
	header.TCP(t).SetWindowSize(uint16(min(directWindow, 0xffff)))
}

// appendRST appends a reset. The guest takes it whatever state it is in.
func (c *directFlow) appendRST() {
	seq := c.toGuest.nxt
	if c.state == directDialing {
		seq = 0
	}
	c.append(seq, flagRST|flagACK, nil)
}

// appendACK appends an acknowledgement of all that the socket has.
func (c *directFlow) appendACK() { c.append(c.toGuest.nxt, flagACK, nil) }

// append appends a segment without payload to what is sent at the end of the round,
// and returns its TCP header.
func (c *directFlow) append(seq uint32, flags uint8, options []byte) []byte {
	out, start := &c.d.out, c.ipOffset()
	f := out.add(start + tcpLen + len(options))
	copy(f[start+tcpLen:], options)
	out.frames[len(out.frames)-1].Offload = c.putHeaders(f, seq, flags, tcpLen+len(options), 0)
	return f[start:]
}

// write writes a frame with payload, behind those without that wait.
func (c *directFlow) write(f link.Frame) {
	c.d.send()
	frames := &c.d.frame
	frames[0] = f
	_ = c.d.n.write(frames[:])
	frames[0] = link.Frame{}
}

// ipOffset returns how long Ethernet and IP headers are together.
func (c *directFlow) ipOffset() int {
	if c.v6() {
		return etherLen + ipv6Len
	}
	return etherLen + ipv4Len
}

// putHeaders writes the headers of a segment of so much TCP header and payload to
// the beginning of f. They acknowledge what there is to acknowledge.
func (c *directFlow) putHeaders(f []byte, seq uint32, flags uint8, tcpHeader, payload int) (o link.Offload) {
	key := &c.flow.key
	start := c.ipOffset()
	h := ipHeader{src: key.remote.Addr(), dst: key.guest.Addr(), proto: protoTCP, ttl: gatewayTTL, length: tcpHeader + payload}
	c.d.n.builder.putIP(f, &h)
	next, window := c.fromGuest.tell(c.scaled)
	header.TCP(f[start:]).Encode(&header.TCPFields{
		SrcPort: key.remote.Port(), DstPort: key.guest.Port(), SeqNum: seq, AckNum: next,
		DataOffset: uint8(tcpHeader), Flags: header.TCPFlags(flags), WindowSize: window,
		Checksum: pseudoSum(h.src, h.dst, protoTCP, h.length),
	})
	o = link.Offload{NeedsChecksum: true, ChecksumStart: uint16(start), ChecksumOffset: tcpChecksumOffset}
	if payload > c.mss {
		o.SegmentSize, o.GSO = uint16(c.mss), link.GSOTCPv4
		if c.v6() {
			o.GSO = link.GSOTCPv6
		}
	}
	return o
}
