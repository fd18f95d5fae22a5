package link

import "encoding/binary"

// TAPHeaderLen is the length of the virtio-net header of a TAP, in bytes: struct
// virtio_net_hdr_v1, with num_buffers (virtio 1.2, section 5.1.6). TUNSETVNETHDRSZ
// wants it.
const TAPHeaderLen = 12

// Flags and types of the virtio-net header.
const (
	flagNeedsChecksum = 1
	flagDataValid     = 2
	gsoECN            = 0x80 // a bit beside the GSO type
)

// largeFrame is the length from which a frame is worth a hint of how much of it
// is headers. Without the hint Linux puts the whole frame into one piece of
// memory, which for 64 KiB and its own data is 128 KiB, and counts that against
// the receiver's buffer; with it the rest goes into pages.
const largeFrame = 4096

// putHeader encodes f's offload into h, which has TAPHeaderLen bytes.
func putHeader(h []byte, f *Frame) {
	_ = h[TAPHeaderLen-1]
	o := &f.Offload
	var flags, gso byte
	if o.NeedsChecksum {
		flags |= flagNeedsChecksum
	}
	if o.ChecksumValid {
		flags |= flagDataValid
	}
	gso = byte(o.GSO)
	if o.ECN {
		gso |= gsoECN
	}
	h[0], h[1] = flags, gso
	binary.LittleEndian.PutUint16(h[2:], headersLen(f))
	binary.LittleEndian.PutUint16(h[4:], o.SegmentSize)
	binary.LittleEndian.PutUint16(h[6:], o.ChecksumStart)
	binary.LittleEndian.PutUint16(h[8:], o.ChecksumOffset)
	binary.LittleEndian.PutUint16(h[10:], 0) // num_buffers: for the device to set
}

// parseHeader decodes h, which has TAPHeaderLen bytes. It judges nothing: a GSO
// type that has no constant here is returned as it is. Fields that are not valid
// are zero, whatever the guest left there.
func parseHeader(h []byte) (o Offload) {
	_ = h[TAPHeaderLen-1]
	o.ChecksumValid = h[0]&flagDataValid != 0
	if h[0]&flagNeedsChecksum != 0 {
		o.NeedsChecksum = true
		o.ChecksumStart = binary.LittleEndian.Uint16(h[6:])
		o.ChecksumOffset = binary.LittleEndian.Uint16(h[8:])
	}
	if h[1] != 0 {
		o.GSO = GSOType(h[1] &^ gsoECN)
		o.ECN = h[1]&gsoECN != 0
		o.SegmentSize = binary.LittleEndian.Uint16(h[4:])
	}
	return o
}

// headersLen returns the length of f's headers for the header's hdr_len: a hint,
// never more than len(f.Data), 0 if there is nothing to say.
func headersLen(f *Frame) uint16 {
	o := &f.Offload
	n := 0
	switch {
	case o.NeedsChecksum && o.GSO != GSOUDP && int(o.ChecksumStart)+13 <= len(f.Data):
		// TCP says how long its header is; what else wants a checksum has
		// something harmless there.
		n = int(o.ChecksumStart) + int(f.Data[o.ChecksumStart+12]>>4)*4
	case o.NeedsChecksum:
		n = int(o.ChecksumStart) + int(o.ChecksumOffset) + 2
	default:
		if frameLen(f) < largeFrame {
			return 0
		}
		n = 128 // as much as IPv6 and TCP need
	}
	return uint16(min(n, len(f.Data), 1<<16-1))
}
