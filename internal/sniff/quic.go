package sniff

import "encoding/binary"

// minInitial is the least size of a datagram with a client's Initial packet.
// RFC 9000, section 14.1: "A client MUST expand the payload of all UDP
// datagrams carrying Initial packets to at least the smallest allowed maximum
// datagram size of 1200 bytes".
const minInitial = 1200

// maxConnID is the longest connection id of the versions we know, in bytes.
const maxConnID = 20

// QUICInitial reports whether a UDP datagram from the guest may open a QUIC
// connection: 1200 bytes or more, a long header (RFC 9000, section 17.2) of
// version 1, version 2 (RFC 9369), an IETF draft or a version that forces
// negotiation (section 15), and connection ids that fit.
func QUICInitial(b []byte) bool {
	const (
		longHeader = 0xc0 // header form and fixed bit
		flagsLen   = 1
		versionLen = 4
	)
	if len(b) < minInitial || b[0]&longHeader != longHeader || !isQUICVersion(binary.BigEndian.Uint32(b[flagsLen:])) {
		return false
	}
	// Two ids of at most 20 bytes and their lengths fit 1200 bytes.
	dst := b[flagsLen+versionLen:]
	if dst[0] > maxConnID {
		return false
	}
	src := dst[1+dst[0]:]
	return src[0] <= maxConnID
}

func isQUICVersion(v uint32) bool {
	const (
		version1    = 0x00000001
		version2    = 0x6b3343cf
		draft       = 0xff0000 // of the number in the last byte
		greaseMask  = 0x0f0f0f0f
		greaseValue = 0x0a0a0a0a
	)
	return v == version1 || v == version2 || v>>8 == draft || v&greaseMask == greaseValue
}
