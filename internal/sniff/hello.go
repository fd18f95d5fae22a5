package sniff

import (
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// Content types of TLS records, RFC 8446 section 5.1.
const (
	recordAlert     = 21
	recordHandshake = 22
)

const (
	recordHeaderLen = 5
	// maxRecord is the largest payload of an unencrypted record. RFC 8446,
	// section 5.1: "The length MUST NOT exceed 2^14 bytes."
	maxRecord = 1 << 14

	handshakeHeaderLen   = 4
	handshakeClientHello = 1

	// maxExtensions bounds the search for duplicates. IANA has assigned about
	// 65 types, clients send up to 25.
	maxExtensions = 128
)

// Extensions that are looked into, by their numbers in IANA's registry.
const (
	extServerName        = 0
	extALPN              = 16
	extPreSharedKey      = 41
	extSupportedVersions = 43
	extECH               = 0xfe0d
)

// A helloReader puts a ClientHello together that may be split over TLS records.
// It remembers where the record begins that isn't complete yet. Its zero value
// is ready for the first byte of a connection.
type helloReader struct {
	record int // offset of the header of the current record
	have   int // bytes of the handshake message in the records before it
	need   int // length of the handshake message with its header; 0 if not known yet
	header [handshakeHeaderLen]byte
}

// next returns the verdict on b, all bytes so far. Each record is checked in
// the order of its bytes, so that the verdict doesn't depend on where b ends.
func (h *helloReader) next(b []byte) Result {
	for {
		payload := h.record + recordHeaderLen
		if len(b) < payload {
			return Result{}
		}
		hdr := b[h.record:payload]
		n := int(hdr[3])<<8 | int(hdr[4])
		switch {
		case hdr[0] != recordHandshake:
			return malformed("ClientHello interrupted by another record")
		case hdr[1] != 3 || hdr[2] > 4:
			return malformed("record of an unknown TLS version")
		case n == 0 || n > maxRecord:
			return malformed("record of a forbidden length")
		}

		fragment := b[payload:min(len(b), payload+n)]
		if h.have < handshakeHeaderLen {
			got := h.have + copy(h.header[h.have:], fragment)
			if got > 0 && h.header[0] != handshakeClientHello {
				return malformed("handshake doesn't begin with a ClientHello")
			}
			if got == handshakeHeaderLen {
				h.need = handshakeHeaderLen + int(h.header[1])<<16 + int(h.header[2])<<8 + int(h.header[3])
			}
		}
		if h.need > 0 {
			switch rest := h.need - h.have; {
			case payload+rest > MaxFlight:
				return malformed("ClientHello longer than 64 KiB")
			case n > rest:
				return malformed("ClientHello followed by something in its record")
			}
		}
		if len(fragment) < n {
			return Result{}
		}
		h.have += n
		h.record = payload + n
		if h.have == h.need {
			break
		}
	}

	r, ok := parseHello(h.message(b)[handshakeHeaderLen:])
	if !ok {
		return malformed("ClientHello isn't well-formed")
	}
	r.Len = h.record
	return r
}

// message returns the handshake message. Nearly always it is in one record and
// thus a part of b; else it is a copy without the record headers.
func (h *helloReader) message(b []byte) []byte {
	if h.record == recordHeaderLen+h.need {
		return b[recordHeaderLen:h.record]
	}
	msg := make([]byte, 0, h.need)
	for i := 0; i < h.record; {
		n := int(b[i+3])<<8 | int(b[i+4])
		msg = append(msg, b[i+recordHeaderLen:][:n]...)
		i += recordHeaderLen + n
	}
	return msg
}

// parseHello reads a ClientHello (RFC 8446, section 4.1.2; RFC 5246, section
// 7.4.1.2) without its header, and reports whether it is well-formed: every
// vector within its bounds, no byte left over.
func parseHello(msg []byte) (Result, bool) {
	s := cryptobyte.String(msg)
	var version uint16
	var session, suites, compressions cryptobyte.String
	if !s.ReadUint16(&version) || version>>8 != 3 || version > 0x0304 ||
		!s.Skip(32) ||
		!s.ReadUint8LengthPrefixed(&session) || len(session) > 32 ||
		!s.ReadUint16LengthPrefixed(&suites) || len(suites) == 0 || len(suites)%2 != 0 ||
		!s.ReadUint8LengthPrefixed(&compressions) || len(compressions) == 0 {
		return Result{}, false
	}
	r := Result{Kind: TLS, Version: version}
	if s.Empty() {
		return r, true // before RFC 3546 there were no extensions
	}
	var exts cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&exts) || !s.Empty() {
		return Result{}, false
	}
	if !r.parseExtensions(exts) {
		return Result{}, false
	}
	return r, true
}

// parseExtensions reads the extensions of a ClientHello into r and reports
// whether they are well-formed. RFC 8446, section 4.2: "There MUST NOT be more
// than one extension of the same type in a given extension block."
func (r *Result) parseExtensions(exts cryptobyte.String) bool {
	var seen [maxExtensions]uint16
	for n := 0; !exts.Empty(); n++ {
		var typ uint16
		var data cryptobyte.String
		if !exts.ReadUint16(&typ) || !exts.ReadUint16LengthPrefixed(&data) {
			return false
		}
		if n == maxExtensions || slices.Contains(seen[:n], typ) {
			return false
		}
		seen[n] = typ

		ok := true
		switch typ {
		case extServerName:
			ok = r.parseServerName(data)
		case extALPN:
			ok = r.parseALPN(data)
		case extSupportedVersions:
			ok = r.parseVersions(data)
		case extECH:
			r.ECH = true
		case extPreSharedKey:
			// RFC 8446, section 4.2.11: it "MUST be the last extension".
			ok = exts.Empty()
		}
		if !ok {
			return false
		}
	}
	return true
}

// parseServerName reads a server_name extension (RFC 6066, section 3). The
// standard allows other types of name in it, but has none, and no two parsers
// agree on how long such a name would be: only a single host name passes. "Literal
// IPv4 and IPv6 addresses are not permitted".
func (r *Result) parseServerName(data cryptobyte.String) bool {
	var list, name cryptobyte.String
	var typ uint8
	if !data.ReadUint16LengthPrefixed(&list) || !data.Empty() ||
		!list.ReadUint8(&typ) || typ != 0 ||
		!list.ReadUint16LengthPrefixed(&name) || !list.Empty() {
		return false
	}
	var ok bool
	r.Name, ok = canonicalName(name)
	return ok
}

// parseALPN reads an application_layer_protocol_negotiation extension (RFC
// 7301, section 3.1).
func (r *Result) parseALPN(data cryptobyte.String) bool {
	var list cryptobyte.String
	if !data.ReadUint16LengthPrefixed(&list) || !data.Empty() || list.Empty() {
		return false
	}
	for rest := list; !rest.Empty(); {
		var proto cryptobyte.String
		if !rest.ReadUint8LengthPrefixed(&proto) || proto.Empty() {
			return false
		}
	}
	r.alpn = string(list)
	return true
}

// parseVersions reads a supported_versions extension (RFC 8446, section 4.2.1)
// and notes the highest version of TLS in it, which GREASE values (RFC 8701)
// aren't.
func (r *Result) parseVersions(data cryptobyte.String) bool {
	var list cryptobyte.String
	if !data.ReadUint8LengthPrefixed(&list) || !data.Empty() || list.Empty() {
		return false
	}
	var highest uint16
	for !list.Empty() {
		var v uint16
		if !list.ReadUint16(&v) {
			return false
		}
		if v>>8 == 3 {
			highest = max(highest, v)
		}
	}
	r.Version = highest
	return true
}
