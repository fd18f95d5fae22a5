package vnet

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/sluicenet/sluice/vnet/link"
)

// A batch is frames on their way to the guest, and the memory that they lie in.
// Its zero value is empty and ready to use. It is not safe for concurrent use.
type batch struct {
	frames []link.Frame
	buf    []byte
}

// reset empties the batch and keeps its memory for the next one.
func (o *batch) reset() {
	clear(o.frames)
	o.frames = o.frames[:0]
	o.buf = o.buf[:0]
}

// add appends a frame of n bytes and returns them, their content undefined.
func (o *batch) add(n int) []byte {
	// When buf grows, earlier frames keep the array that they were written to.
	start := len(o.buf)
	o.buf = slices.Grow(o.buf, n)[:start+n]
	data := o.buf[start : start+n : start+n]
	o.frames = append(o.frames, link.Frame{Data: data})
	return data
}

// gatewayTTL is the TTL of what the gateway says or passes on (RFC 1700).
const gatewayTTL = 64

// A builder writes frames from the gateway to the guest. Its methods may be
// called concurrently on different batches.
type builder struct {
	guestMAC, gatewayMAC [6]byte
	gateway4, gateway6   netip.Addr
	mtu                  int
	fragID               atomic.Uint32 // of the last datagram that was cut
}

// newBuilder returns the builder of frames for the guest that holds block.
func newBuilder(block Block, mtu int) *builder {
	return &builder{
		guestMAC:   macOf(block.GuestMAC),
		gatewayMAC: macOf(block.GatewayMAC),
		gateway4:   block.Gateway4,
		gateway6:   block.Gateway6,
		mtu:        mtu,
	}
}

// gateway returns the gateway's address of one family.
func (b *builder) gateway(v6 bool) netip.Addr {
	if v6 {
		return b.gateway6
	}
	return b.gateway4
}

// putEther writes the Ethernet header of a frame to the guest.
func (b *builder) putEther(f []byte, etherType uint16) {
	copy(f, b.guestMAC[:])
	copy(f[6:], b.gatewayMAC[:])
	binary.BigEndian.PutUint16(f[12:], etherType)
}

// An ipHeader describes an IP header to be written, without options, and with a
// fragment header if fragment is set.
type ipHeader struct {
	src, dst netip.Addr // of one family
	proto    uint8
	ttl      uint8
	length   int // of what follows the headers, in bytes

	// The part of a datagram that follows; the others are valid iff fragment.
	fragment bool
	id       uint32
	offset   int // bytes, a multiple of 8
	more     bool
}

// headersLen returns the length of Ethernet and IP headers together.
func (h *ipHeader) headersLen() int {
	switch {
	case h.src.Is4():
		return etherLen + ipv4Len
	case h.fragment:
		return etherLen + ipv6Len + fragmentLen
	}
	return etherLen + ipv6Len
}

// putIP writes Ethernet and IP headers to the beginning of f.
func (b *builder) putIP(f []byte, h *ipHeader) {
	ip := f[etherLen:]
	if h.src.Is4() {
		b.putEther(f, etherTypeIPv4)
		putIPv4(ip, h)
		return
	}
	b.putEther(f, etherTypeIPv6)
	putIPv6(ip, h)
}

func putIPv4(ip []byte, h *ipHeader) {
	ip[0], ip[1] = 0x45, 0
	binary.BigEndian.PutUint16(ip[2:], uint16(ipv4Len+h.length))
	// A datagram that is not cut needs no identification (RFC 6864, section
	// 4.1), and says that it must not be.
	frag := uint16(0x4000)
	if h.fragment {
		frag = uint16(h.offset / 8)
		if h.more {
			frag |= 0x2000
		}
	}
	binary.BigEndian.PutUint16(ip[4:], uint16(h.id))
	binary.BigEndian.PutUint16(ip[6:], frag)
	ip[8], ip[9] = h.ttl, h.proto
	src, dst := h.src.As4(), h.dst.As4()
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	putChecksum(ip[:ipv4Len], 10, 0)
}

func putIPv6(ip []byte, h *ipHeader) {
	ip[0], ip[1], ip[2], ip[3] = 0x60, 0, 0, 0
	length := h.length
	ip[6], ip[7] = h.proto, h.ttl
	if h.fragment {
		length += fragmentLen
		ip[6] = protoFragment
		frag := uint16(h.offset)
		if h.more {
			frag |= 1
		}
		ip[40], ip[41] = h.proto, 0
		binary.BigEndian.PutUint16(ip[42:], frag)
		binary.BigEndian.PutUint32(ip[44:], h.id)
	}
	binary.BigEndian.PutUint16(ip[4:], uint16(length))
	src, dst := h.src.As16(), h.dst.As16()
	copy(ip[8:], src[:])
	copy(ip[24:], dst[:])
}

// putChecksum writes the checksum of b, begun with the sum initial, to
// b[offset:].
func putChecksum(b []byte, offset int, initial uint16) {
	b[offset], b[offset+1] = 0, 0
	binary.BigEndian.PutUint16(b[offset:], checksumField(sum(b, initial)))
}

// maxDatagram4 and maxDatagram6 are the largest payloads of a UDP datagram, in
// bytes: what 16 bits of length leave (IPv6 counts from behind its header).
const (
	maxDatagram4 = 65535 - ipv4Len - udpLen
	maxDatagram6 = 65535 - udpLen
)

// appendUDP appends the datagram to out, cut into fragments where it is larger
// than the MTU. It reports false, and appends nothing, if payload is larger than
// any datagram. The payload is copied.
func (b *builder) appendUDP(out *batch, src, dst netip.AddrPort, payload []byte) bool {
	if len(payload) > maxUDP(src.Addr()) {
		return false
	}
	var head [udpLen]byte
	putUDP(head[:], src, dst, len(payload))
	h := ipHeader{src: src.Addr(), dst: dst.Addr(), proto: protoUDP, ttl: gatewayTTL, length: udpLen + len(payload)}
	if h.headersLen()-etherLen+h.length > b.mtu {
		// The checksum spans the fragments, so that no card could complete it.
		binary.BigEndian.PutUint16(head[udpChecksumOffset:],
			checksumField(sum(payload, sum(head[:], 0))))
		b.appendFragments(out, &h, head[:], payload)
		return true
	}
	start := h.headersLen()
	f := out.add(start + h.length)
	b.putIP(f, &h)
	copy(f[start:], head[:])
	copy(f[start+udpLen:], payload)
	out.frames[len(out.frames)-1].Offload = partialChecksum(start)
	return true
}

// maxUDP returns the largest payload of a datagram of a's family.
func maxUDP(a netip.Addr) int {
	if a.Is4() {
		return maxDatagram4
	}
	return maxDatagram6
}

// udpHeadroom is how much memory in front of a payload wrapUDP may need.
const udpHeadroom = etherLen + ipv6Len + udpLen

// wrapUDP makes a frame of a payload where it lies: buf[udpHeadroom:], with
// room for the headers in front of it. It reports false if the datagram must be
// cut, or is larger than any; appendUDP then is for it.
func (b *builder) wrapUDP(buf []byte, src, dst netip.AddrPort) (link.Frame, bool) {
	length := len(buf) - udpHeadroom
	h := ipHeader{src: src.Addr(), dst: dst.Addr(), proto: protoUDP, ttl: gatewayTTL, length: udpLen + length}
	start := h.headersLen()
	if start-etherLen+h.length > b.mtu {
		return link.Frame{}, false
	}
	f := buf[udpHeadroom-udpLen-start:]
	b.putIP(f, &h)
	putUDP(f[start:], src, dst, length)
	return link.Frame{Data: f, Offload: partialChecksum(start)}, true
}

// putUDP writes a UDP header whose checksum is that of the pseudo-header only.
func putUDP(u []byte, src, dst netip.AddrPort, length int) {
	binary.BigEndian.PutUint16(u[0:], src.Port())
	binary.BigEndian.PutUint16(u[2:], dst.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(udpLen+length))
	binary.BigEndian.PutUint16(u[udpChecksumOffset:], pseudoSum(src.Addr(), dst.Addr(), protoUDP, udpLen+length))
}

// partialChecksum describes a UDP frame whose header was written by putUDP at
// offset l4: the link's card completes the checksum, or nobody needs to.
func partialChecksum(l4 int) link.Offload {
	return link.Offload{NeedsChecksum: true, ChecksumStart: uint16(l4), ChecksumOffset: udpChecksumOffset}
}

// appendFragments appends the datagram that consists of head and payload, in
// fragments that fill the MTU. h describes the whole.
func (b *builder) appendFragments(out *batch, h *ipHeader, head, payload []byte) {
	part := *h
	part.fragment = true
	part.id = b.fragID.Add(1)
	start := part.headersLen()
	room := (b.mtu - (start - etherLen)) &^ 7
	for part.offset < h.length {
		part.length = min(room, h.length-part.offset)
		part.more = part.offset+part.length < h.length
		f := out.add(start + part.length)
		b.putIP(f, &part)
		n := 0
		if part.offset < len(head) {
			// The first: its header fits, since every MTU is above 1279.
			n = copy(f[start:], head)
		}
		copy(f[start+n:], payload[part.offset+n-len(head):])
		part.offset += part.length
	}
}

// appendRST appends the reset that refuses the TCP segment p, as a host without
// that port would (RFC 9293, section 3.10.7.1). A reset gets no answer.
func (b *builder) appendRST(out *batch, p *packet) {
	if p.tcpFlags&flagRST != 0 {
		return
	}
	h := ipHeader{src: p.dst, dst: p.src, proto: protoTCP, ttl: gatewayTTL, length: tcpLen}
	start := h.headersLen()
	f := out.add(start + tcpLen)
	b.putIP(f, &h)
	in, t := p.frame[p.l4:], f[start:]
	clear(t)
	binary.BigEndian.PutUint16(t[0:], p.dstPort)
	binary.BigEndian.PutUint16(t[2:], p.srcPort)
	t[12] = tcpLen / 4 << 4
	if p.tcpFlags&flagACK != 0 {
		copy(t[4:8], in[8:12]) // "<SEQ=SEG.ACK><CTL=RST>"
		t[13] = flagRST
	} else {
		// "<SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>"
		length := uint32(p.end - p.payload)
		if p.tcpFlags&flagSYN != 0 {
			length++
		}
		if p.tcpFlags&flagFIN != 0 {
			length++
		}
		binary.BigEndian.PutUint32(t[8:], binary.BigEndian.Uint32(in[4:])+length)
		t[13] = flagRST | flagACK
	}
	putChecksum(t, tcpChecksumOffset, pseudoSum(h.src, h.dst, protoTCP, tcpLen))
}
