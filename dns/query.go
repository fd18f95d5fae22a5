package dns

import (
	"encoding/binary"

	mdns "github.com/miekg/dns"
)

const (
	headerLen   = 12
	maxNameWire = 255 // https://www.rfc-editor.org/rfc/rfc1035#section-2.3.4
	maxLabel    = 63

	// maxQuery is the longest query we read, in bytes. A name, a question and
	// the options that real resolvers send need 600; the bound keeps what a
	// slow TCP client can make us hold small.
	maxQuery = 4096

	// plainUDPSize is the largest reply over UDP for a guest without EDNS:
	// https://www.rfc-editor.org/rfc/rfc1035#section-2.3.4
	plainUDPSize = 512

	// maxUDPSize bounds the size that a guest may ask for with EDNS. Larger
	// replies go over TCP: our link loses nothing, but a datagram of 64 KiB is
	// 45 fragments for the guest to put together.
	maxUDPSize = 4096
)

// Header flags, in the 16 bits after the id.
const (
	flagQR = 1 << 15
	flagAA = 1 << 10
	flagTC = 1 << 9
	flagRD = 1 << 8
	flagRA = 1 << 7
	flagAD = 1 << 5
	flagCD = 1 << 4
)

// A query is a guest's query as far as we act on it. It is a value without
// pointers, so that one can be kept while the answer is on its way.
type query struct {
	id     uint16
	opcode int
	rd     bool
	ad     bool // the guest understands AD: https://www.rfc-editor.org/rfc/rfc6840#section-5.7
	cd     bool
	qtype  uint16
	qclass uint16

	edns    bool // the query carries an OPT record; the fields below are valid
	version uint8
	do      bool
	size    int // the guest's largest UDP reply

	// hasQuestion reports that the question was read: wire, qtype, qclass and
	// hostname are valid.
	hasQuestion bool
	// plain reports that the name holds nothing but what a host name or a
	// service label may: see textName.
	plain   bool
	nameLen int
	name    [maxNameWire]byte // the name's wire form in the guest's case
}

// wire returns the name's wire form in the guest's case.
func (q *query) wire() []byte { return q.name[:q.nameLen] }

// udpSize returns the largest reply the guest takes over UDP.
func (q *query) udpSize() int {
	if !q.edns {
		return plainUDPSize
	}
	return min(max(q.size, plainUDPSize), maxUDPSize)
}

// parseQuery reads a guest's message. Not ok means that it deserves no answer:
// it is too short to have an id, or is itself a response (answering those makes
// loops). Otherwise rcode is what is wrong with the message as such, and
// RcodeSuccess if it is one question that we can look at.
func parseQuery(msg []byte) (q query, rcode int, ok bool) {
	if len(msg) < headerLen {
		return q, 0, false
	}
	flags := binary.BigEndian.Uint16(msg[2:])
	if flags&flagQR != 0 {
		return q, 0, false
	}
	q.id = binary.BigEndian.Uint16(msg)
	q.opcode = int(flags>>11) & 0xf
	q.rd = flags&flagRD != 0
	q.ad = flags&flagAD != 0
	q.cd = flags&flagCD != 0
	if q.opcode != mdns.OpcodeQuery {
		return q, mdns.RcodeNotImplemented, true
	}
	if len(msg) > maxQuery || binary.BigEndian.Uint16(msg[4:]) != 1 {
		return q, mdns.RcodeFormatError, true
	}
	off := q.readQuestion(msg)
	if off < 0 {
		return q, mdns.RcodeFormatError, true
	}
	return q, q.readRecords(msg, off), true
}

// readQuestion reads the one question and returns the offset behind it, or -1.
// Its name can't be compressed: there is nothing before it to point to.
func (q *query) readQuestion(msg []byte) int {
	off := headerLen
	for {
		if off >= len(msg) || msg[off] > maxLabel {
			return -1
		}
		n := 1 + int(msg[off])
		if off+n > len(msg) || off+n-headerLen > maxNameWire {
			return -1
		}
		off += n
		if n == 1 {
			break
		}
	}
	if off+4 > len(msg) {
		return -1
	}
	q.nameLen = copy(q.name[:], msg[headerLen:off])
	q.qtype = binary.BigEndian.Uint16(msg[off:])
	q.qclass = binary.BigEndian.Uint16(msg[off+2:])
	q.plain = plainName(q.wire())
	q.hasQuestion = true
	return off + 4
}

// readRecords walks what follows the question, for the OPT record in it. Other
// records say nothing to a forwarder and are passed over: a signature (TSIG) is
// for a server that knows the key, which then wouldn't recognise what we ask.
// Bytes behind the last record, or a record that doesn't fit, are malformed.
func (q *query) readRecords(msg []byte, off int) (rcode int) {
	answers := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:]))
	records := answers + int(binary.BigEndian.Uint16(msg[10:]))
	for i := range records {
		start := off
		off = skipName(msg, off)
		if off < 0 || off+10 > len(msg) {
			return mdns.RcodeFormatError
		}
		rdata := off + 10
		end := rdata + int(binary.BigEndian.Uint16(msg[off+8:]))
		if end > len(msg) {
			return mdns.RcodeFormatError
		}
		if binary.BigEndian.Uint16(msg[off:]) == mdns.TypeOPT {
			// "The OPT RR MAY be placed anywhere within the additional data
			// section", once, with the root as its owner:
			// https://www.rfc-editor.org/rfc/rfc6891#section-6.1.1
			if i < answers || q.edns || off != start+1 || !validOptions(msg[rdata:end]) {
				return mdns.RcodeFormatError
			}
			q.edns = true
			q.size = int(binary.BigEndian.Uint16(msg[off+2:]))
			q.version = msg[off+5]
			q.do = msg[off+6]&0x80 != 0
		}
		off = end
	}
	if off != len(msg) {
		return mdns.RcodeFormatError
	}
	if q.version != 0 {
		// https://www.rfc-editor.org/rfc/rfc6891#section-6.1.3
		return mdns.RcodeBadVers
	}
	return mdns.RcodeSuccess
}

// validOptions reports whether the data of an OPT record is a row of options
// that fills it.
func validOptions(data []byte) bool {
	for len(data) >= 4 {
		n := 4 + int(binary.BigEndian.Uint16(data[2:]))
		if n > len(data) {
			return false
		}
		data = data[n:]
	}
	return len(data) == 0
}

// skipName returns the offset behind the name at off, or -1. A pointer ends a
// name and is not followed, so a loop of pointers costs nothing.
func skipName(msg []byte, off int) int {
	for off < len(msg) {
		switch c := msg[off]; {
		case c == 0:
			return off + 1
		case c&0xc0 == 0xc0:
			if off+2 > len(msg) {
				return -1
			}
			return off + 2
		case c > maxLabel:
			return -1
		default:
			off += 1 + int(c)
		}
	}
	return -1
}
