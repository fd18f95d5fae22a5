package sniff

// A framing collects the fields of a head that frame what follows it (RFC 9112,
// section 6). Two readers that frame a body differently see different next
// requests; so whatever could be read in two ways is malformed.
type framing struct {
	hasLength, hasEncoding, hasUpgrade bool
	length                             int64
	webSocket                          bool // Upgrade is websocket and nothing else
}

// field takes note of a field that frames. It returns the reason why it isn't
// strict, or "".
func (f *framing) field(name, value []byte) (reason string) {
	switch {
	case equalFold(name, "Content-Length"):
		if f.hasLength {
			return "more than one Content-Length field"
		}
		f.hasLength = true
		// 18 digits can't overflow an int64.
		if len(value) == 0 || len(value) > 18 {
			return "Content-Length isn't a length"
		}
		for _, c := range value {
			if c < '0' || c > '9' {
				return "Content-Length isn't a length"
			}
			f.length = f.length*10 + int64(c-'0')
		}
	case equalFold(name, "Transfer-Encoding"):
		if f.hasEncoding || !equalFold(value, "chunked") {
			return "Transfer-Encoding isn't chunked alone"
		}
		f.hasEncoding = true
	case equalFold(name, "Upgrade"):
		f.webSocket = !f.hasUpgrade && equalFold(value, "websocket")
		f.hasUpgrade = true
	}
	return ""
}

// body returns the body that follows a complete head, or the reason why there
// is no telling.
func (f *framing) body(connect, http10 bool) (b body, reason string) {
	switch {
	case f.hasLength && f.hasEncoding:
		return body{}, "both Content-Length and Transfer-Encoding"
	case connect && (f.hasLength || f.hasEncoding):
		return body{}, "CONNECT with a body"
	case http10 && f.hasEncoding:
		return body{}, "Transfer-Encoding in HTTP/1.0"
	case f.hasEncoding:
		return body{part: chunkSize}, ""
	case f.length > 0:
		return body{part: plainData, left: f.length}, ""
	}
	return body{}, ""
}

// A body is what is still to come of a request's body. The zero body is
// complete.
type body struct {
	part   bodyPart
	left   int64 // bytes of data to come; valid iff part holds data
	size   int64 // of the chunk, as far as its digits were read
	digits int
}

// A bodyPart is the part of a body that the next byte belongs to.
type bodyPart uint8

const (
	bodyEnd       bodyPart = iota
	plainData              // data of a known length
	chunkSize              // first digit of a chunk's size
	chunkSizeMore          // further digits, or the CR behind them
	chunkSizeLF            // LF behind the size
	chunkData              // data of a chunk
	chunkDataCR            // CR behind the data
	chunkDataLF            // LF behind the data
	trailerStart           // first byte of a trailer field, or the CR of the end
	trailerName            // name of a trailer field, or the colon behind it
	trailerValue           // value of a trailer field, or the CR behind it
	trailerLF              // LF behind a trailer field
	endLF                  // LF of the end
)

// maxChunkDigits bounds the digits of a chunk's size, leading zeros included,
// so that it fits an int64.
const maxChunkDigits = 15

// take returns how many bytes at the beginning of p belong to the body; fewer
// than all only if the body ends there. A byte that isn't strictly framed isn't
// taken: then it returns the reason and the bytes before it, and would return
// the reason again.
func (b *body) take(p []byte) (n int, reason string) {
	for n < len(p) && b.part != bodyEnd {
		if b.part == plainData || b.part == chunkData {
			step := min(b.left, int64(len(p)-n))
			n += int(step)
			b.left -= step
			switch {
			case b.left > 0:
			case b.part == plainData:
				b.part = bodyEnd
			default:
				b.part = chunkDataCR
			}
			continue
		}
		next, ok := b.frame(p[n])
		if !ok {
			return n, "chunked body isn't strictly framed"
		}
		b.part = next
		n++
	}
	return n, ""
}

// frame returns the part behind c, a byte that isn't data, and reports whether c
// is allowed there (RFC 9112, section 7.1). Chunk extensions aren't: nobody uses
// them but to smuggle.
func (b *body) frame(c byte) (next bodyPart, ok bool) {
	switch b.part {
	case chunkSize:
		b.size, b.digits = 0, 0
		return chunkSizeMore, b.digit(c)
	case chunkSizeMore:
		if c == '\r' {
			return chunkSizeLF, true
		}
		return chunkSizeMore, b.digit(c)
	case chunkSizeLF:
		if b.size == 0 {
			return trailerStart, c == '\n'
		}
		b.left = b.size
		return chunkData, c == '\n'
	case chunkDataCR:
		return chunkDataLF, c == '\r'
	case chunkDataLF:
		return chunkSize, c == '\n'
	case trailerStart:
		if c == '\r' {
			return endLF, true
		}
		return trailerName, isToken(c)
	case trailerName:
		if c == ':' {
			return trailerValue, true
		}
		return trailerName, isToken(c)
	case trailerValue:
		if c == '\r' {
			return trailerLF, true
		}
		return trailerValue, isFieldByte(c)
	case trailerLF:
		return trailerStart, c == '\n'
	case endLF:
		return bodyEnd, c == '\n'
	}
	return bodyEnd, false
}

// digit adds a digit to the size of a chunk.
func (b *body) digit(c byte) bool {
	if !isHex(c) || b.digits == maxChunkDigits {
		return false
	}
	v := c | 0x20 // letters in lower case, digits as they are
	if v >= 'a' {
		v -= 'a' - 10
	} else {
		v -= '0'
	}
	b.size = b.size<<4 | int64(v)
	b.digits++
	return true
}
