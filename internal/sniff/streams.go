package sniff

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// Frames of HTTP/2: types and flags, RFC 9113 section 6.
const (
	frameHeaderLen = 9

	frameHeaders      = 1
	frameSettings     = 4
	framePushPromise  = 5
	framePing         = 6
	frameWindowUpdate = 8
	frameContinuation = 9

	flagEndHeaders = 0x04
	flagPadded     = 0x08
	flagPriority   = 0x20

	priorityLen = 5
)

const (
	// maxFrame is the largest frame of a field block: what every server
	// accepts without having said so (RFC 9113, section 4.2).
	maxFrame = 1 << 14
	// maxTable bounds HPACK's dynamic table, in bytes as RFC 7541 counts them.
	// Servers allow 4 KiB unless told otherwise.
	maxTable = 64 << 10
)

// streams finds the requests in what a client sends on an HTTP/2 connection,
// behind the preface. Whole frames pass; a request is a field block, which is
// decoded: the blocks of a connection hang together, so none may be left out.
type streams struct {
	dst   netip.Addr
	left  int    // bytes of the current frame that pass
	block int    // bytes of the field block that were scanned, all whole frames
	last  uint32 // highest stream so far; 0 before the first request
	table *hpack.Decoder
	head  fieldBlock // that the table writes to
}

func newStreams(dst netip.Addr) *streams {
	s := &streams{dst: dst}
	s.table = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		s.head.field(f)
		s.table.SetEmitEnabled(s.head.reason == "")
	})
	s.table.SetAllowedMaxDynamicTableSize(maxTable)
	s.table.SetMaxStringLength(MaxFlight)
	return s
}

// next looks at b, as [Requests.Next] does.
func (s *streams) next(b []byte) (pass int, head Result) {
	if s.left == 0 {
		if len(b) < frameHeaderLen {
			return 0, Result{}
		}
		switch typ := b[3]; {
		case typ == frameHeaders:
			return s.headers(b)
		case typ == framePushPromise || typ == frameContinuation:
			return 0, malformed("HTTP/2 frame out of place")
		case s.last == 0 && (typ != frameSettings && typ != framePing && typ != frameWindowUpdate || frameLen(b) > maxFrame):
			// Nothing was allowed yet: only what concerns the connection passes.
			return 0, malformed("HTTP/2 frame before the first request")
		}
		s.left = frameHeaderLen + frameLen(b)
	}
	pass = min(s.left, len(b))
	s.left -= pass
	return pass, Result{}
}

// headers reads a field block: a HEADERS frame at the beginning of b, and the
// CONTINUATION frames behind it.
func (s *streams) headers(b []byte) (pass int, head Result) {
	for {
		frame := b[s.block:]
		if len(frame) < frameHeaderLen {
			return 0, Result{}
		}
		n := frameLen(frame)
		switch {
		case s.block > 0 && (frame[3] != frameContinuation || streamOf(frame) != streamOf(b)):
			return 0, malformed("HTTP/2 field block interrupted")
		case n == 0 || n > maxFrame:
			return 0, malformed("HTTP/2 field block of a forbidden length")
		case s.block+frameHeaderLen+n > MaxFlight:
			return 0, malformed("longer than 64 KiB")
		case len(frame) < frameHeaderLen+n:
			return 0, Result{}
		}
		s.block += frameHeaderLen + n
		if frame[4]&flagEndHeaders != 0 {
			break
		}
	}
	block := b[:s.block]
	s.block = 0
	s.head = fieldBlock{}
	s.table.SetEmitEnabled(true)
	if !s.decode(block) {
		return 0, malformed("HTTP/2 field block can't be decoded")
	}

	stream := streamOf(block)
	if stream%2 == 0 {
		return 0, malformed("HTTP/2 stream that no client may open")
	}
	if stream <= s.last {
		// Trailers: the stream was decided when it began.
		if s.head.pseudo != 0 || s.head.reason != "" {
			return 0, malformed("HTTP/2 trailers aren't well-formed")
		}
		return len(block), Result{}
	}
	s.last = stream
	head = s.head.finish(s.dst)
	head.Len = len(block)
	return 0, head
}

// decode runs the fragments of a field block through the table and reports
// whether they are well-formed (RFC 9113, section 6.2).
func (s *streams) decode(block []byte) bool {
	for len(block) > 0 {
		n, typ, flags := frameLen(block), block[3], block[4]
		payload := block[frameHeaderLen:][:n]
		block = block[frameHeaderLen+n:]
		if typ == frameHeaders {
			padding := 0
			if flags&flagPadded != 0 {
				padding, payload = int(payload[0]), payload[1:]
			}
			if flags&flagPriority != 0 {
				if len(payload) < priorityLen {
					return false
				}
				payload = payload[priorityLen:]
			}
			if padding > len(payload) {
				return false
			}
			payload = payload[:len(payload)-padding]
		}
		if _, err := s.table.Write(payload); err != nil {
			return false
		}
	}
	return s.table.Close() == nil
}

// frameLen returns the length of the payload of the frame that b begins with.
func frameLen(b []byte) int {
	return int(b[0])<<16 | int(b[1])<<8 | int(b[2])
}

// streamOf returns the stream of the frame that b begins with.
func streamOf(b []byte) uint32 {
	return binary.BigEndian.Uint32(b[5:frameHeaderLen]) &^ (1 << 31)
}

// A fieldBlock collects what counts of a request's fields (RFC 9113, section
// 8.3). Its zero value is ready for the first field.
type fieldBlock struct {
	size      uint32 // of the fields so far, in bytes as RFC 7541 counts them
	pseudo    pseudoFields
	regular   bool // a regular field was seen
	inHost    bool
	authority host
	host      host
	reason    string // why it is malformed; "" if it isn't
}

// pseudoFields is the set of pseudo-header fields that were seen.
type pseudoFields uint8

const (
	pseudoMethod pseudoFields = 1 << iota
	pseudoScheme
	pseudoPath
	pseudoAuthority
)

// field takes note of one field. Behind a malformed one, which decides the block,
// there is nothing to be noted: a byte of a block can stand for a field of 64 KiB.
func (f *fieldBlock) field(field hpack.HeaderField) {
	if f.size += field.Size(); f.size > MaxFlight {
		f.reason = "longer than 64 KiB"
		return
	}
	f.reason = f.read(field.Name, field.Value)
}

// read reads one field. It returns the reason why it is malformed, or "".
func (f *fieldBlock) read(name, value string) (reason string) {
	if strings.ContainsAny(value, "\x00\r\n") {
		return "HTTP/2 field value holds a forbidden byte"
	}
	if !strings.HasPrefix(name, ":") {
		f.regular = true
		if name == "" || !all([]byte(name), isToken) || strings.ToLower(name) != name {
			return "HTTP/2 field without a proper name"
		}
		if name != "host" {
			return ""
		}
		if f.inHost {
			return "more than one Host field"
		}
		f.inHost = true
		var ok bool
		if f.host, _, ok = parseAuthority([]byte(value)); !ok {
			return "Host field isn't a host"
		}
		return ""
	}

	var bit pseudoFields
	switch name {
	case ":method":
		bit = pseudoMethod
		if value == "CONNECT" {
			return "CONNECT within HTTP/2"
		}
	case ":scheme":
		bit = pseudoScheme
	case ":path":
		bit = pseudoPath
	case ":authority":
		bit = pseudoAuthority
		var ok bool
		if f.authority, _, ok = parseAuthority([]byte(value)); !ok {
			return "HTTP/2 authority isn't a host"
		}
	default:
		return "unknown HTTP/2 pseudo-header field"
	}
	if f.regular || f.pseudo&bit != 0 {
		return "HTTP/2 pseudo-header field out of place"
	}
	f.pseudo |= bit
	return ""
}

// finish returns the verdict on a complete field block of a request.
func (f *fieldBlock) finish(dst netip.Addr) Result {
	const needed = pseudoMethod | pseudoScheme | pseudoPath
	authority := f.host
	if f.pseudo&pseudoAuthority != 0 {
		authority = f.authority
	}
	switch {
	case f.reason != "":
		return malformed(f.reason)
	case f.pseudo&needed != needed:
		return malformed("HTTP/2 request without method, scheme or path")
	case f.inHost && f.host != authority:
		return malformed("HTTP/2 authority and Host field name different hosts")
	case authority.addr.IsValid() && authority.addr != dst:
		return malformed("authority is the address of another host")
	}
	return Result{Kind: HTTP2, Name: authority.name}
}
