package sniff

import (
	"bytes"
	"net/netip"
)

// preface is what a client of HTTP/2 sends first (RFC 9113, section 3.4). Its
// first line looks like a request of HTTP/1 on purpose.
const (
	preface     = prefaceLine + "\r\nSM\r\n\r\n"
	prefaceLine = "PRI * HTTP/2.0\r\n"
)

// A headReader reads the head of an HTTP/1 request, line by line, or the
// preface of HTTP/2. It remembers how far it came, and of the bytes only what
// counts. Its zero value is ready for the first byte of a head.
type headReader struct {
	dst   netip.Addr // see Flight.Dst
	first firstLine
	scan  int // bytes searched for the end of a line
	line  int // offset of the line that isn't complete yet

	connect bool // the method is CONNECT
	http10  bool // the version is HTTP/1.0
	// inTarget and inHost report that the request target or a Host field gave an
	// authority, if only an empty one: target or host.
	inTarget, inHost bool
	target, host     host
	port             uint16 // of a CONNECT's target
	framing          framing
}

// next returns the verdict on b, all bytes so far.
func (h *headReader) next(b []byte) Result {
	switch h.first.next(b) {
	case undecided:
		return Result{}
	case looksOpaque:
		return Result{Kind: Opaque}
	}
	if len(b) >= len(prefaceLine) && string(b[:len(prefaceLine)]) == prefaceLine {
		switch n := min(len(b), len(preface)); {
		case string(b[:n]) != preface[:n]:
			return malformed("HTTP/2 preface isn't well-formed")
		case n == len(preface):
			return Result{Kind: HTTP2, Len: n}
		}
		return Result{}
	}
	for {
		i := bytes.IndexByte(b[h.scan:], '\n')
		if i < 0 {
			h.scan = len(b)
			return Result{}
		}
		begin, end := h.line, h.scan+i-1
		h.scan += i + 1
		h.line = h.scan
		if end < begin || b[end] != '\r' {
			return malformed("line that doesn't end in CR LF")
		}
		var reason string
		switch line := b[begin:end]; {
		case begin == 0:
			reason = h.requestLine(line)
		case len(line) > 0:
			reason = h.field(line)
		default:
			return h.finish()
		}
		if reason != "" {
			return malformed(reason)
		}
	}
}

// likeHTTP reports whether a head that ends with b, undecided, is like HTTP.
func (h *headReader) likeHTTP(b []byte) bool {
	return h.first.likeHTTP(b)
}

// requestLine reads the first line (RFC 9112, section 3) without its end. It
// returns the reason why it isn't strict, or "".
func (h *headReader) requestLine(line []byte) (reason string) {
	method, rest, _ := bytes.Cut(line, []byte(" "))
	target, version, _ := bytes.Cut(rest, []byte(" "))
	if !all(method, isToken) || len(method) == 0 {
		return "method isn't a token"
	}
	switch string(version) {
	case "HTTP/1.1":
	case "HTTP/1.0":
		h.http10 = true
	default:
		return "request line isn't three words, or of another version"
	}
	if !all(target, isTargetByte) {
		return "request target holds a forbidden byte"
	}
	switch {
	case string(method) == "CONNECT":
		h.connect = true
		return h.connectTarget(target)
	case len(target) > 0 && target[0] == '/':
		return ""
	case string(target) == "*" && string(method) == "OPTIONS":
		return ""
	}
	return h.absoluteTarget(target)
}

// connectTarget reads the target of a CONNECT: host and port, both needed (RFC
// 9110, section 9.3.6).
func (h *headReader) connectTarget(target []byte) (reason string) {
	a, port, ok := parseAuthority(target)
	if !ok || a == (host{}) || port <= 0 {
		return "CONNECT target isn't host and port"
	}
	h.target, h.inTarget, h.port = a, true, uint16(port)
	return ""
}

// absoluteTarget reads a target in absolute form, which clients send to
// proxies.
func (h *headReader) absoluteTarget(target []byte) (reason string) {
	var authority []byte
	for _, scheme := range [...]string{"http://", "https://"} {
		if len(target) >= len(scheme) && bytes.EqualFold(target[:len(scheme)], []byte(scheme)) {
			authority = target[len(scheme):]
		}
	}
	if i := bytes.IndexAny(authority, "/?"); i >= 0 {
		authority = authority[:i]
	}
	a, _, ok := parseAuthority(authority)
	if !ok || a == (host{}) {
		return "request target of an unknown form"
	}
	h.target, h.inTarget = a, true
	return ""
}

// field reads a field line (RFC 9112, section 5). Folded lines begin with a
// blank and thus have no proper name.
func (h *headReader) field(line []byte) (reason string) {
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok || len(name) == 0 || !all(name, isToken) {
		return "field without a proper name"
	}
	if !all(value, isFieldByte) {
		return "field value holds a forbidden byte"
	}
	value = bytes.Trim(value, " \t")
	if !equalFold(name, "Host") {
		return h.framing.field(name, value)
	}
	if h.inHost {
		return "more than one Host field"
	}
	h.inHost = true
	if h.host, _, ok = parseAuthority(value); !ok {
		return "Host field isn't a host"
	}
	return ""
}

// finish returns the verdict on a head whose every line was strict.
func (h *headReader) finish() Result {
	r := Result{Kind: HTTP1, Len: h.line}
	var reason string
	if r.body, reason = h.framing.body(h.connect, h.http10); reason != "" {
		return malformed(reason)
	}
	if h.inTarget && h.inHost && h.target != h.host {
		return malformed("request target and Host field name different hosts")
	}
	authority := h.host
	if h.inTarget {
		authority = h.target
	}
	r.Name = authority.name
	switch {
	case h.connect:
		r.Kind, r.Addr, r.Port = Connect, authority.addr, h.port
	case authority.addr.IsValid() && authority.addr != h.dst:
		return malformed("authority is the address of another host")
	default:
		r.webSocket = h.framing.webSocket
	}
	return r
}

// isToken reports whether c may be in a token (RFC 9110, section 5.6.2): a
// method or the name of a field.
func isToken(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) >= 0
}

// isTargetByte reports whether c may be in a request target. Browsers and curl
// send more in paths than RFC 3986 allows, bytes of UTF-8 for example; a
// fragment they never send.
func isTargetByte(c byte) bool {
	return c > ' ' && c != 0x7f && c != '#'
}

// isFieldByte reports whether c may be in a field value (RFC 9110, section
// 5.5).
func isFieldByte(c byte) bool {
	return c >= ' ' && c != 0x7f || c == '\t'
}

func all(b []byte, ok func(byte) bool) bool {
	for _, c := range b {
		if !ok(c) {
			return false
		}
	}
	return true
}

func equalFold(b []byte, s string) bool {
	return len(b) == len(s) && bytes.EqualFold(b, []byte(s))
}
