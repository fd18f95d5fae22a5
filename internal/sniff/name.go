package sniff

import "net/netip"

// Bounds of names, RFC 1035 section 2.3.4, in bytes of text without the
// trailing dot.
const (
	maxName  = 253
	maxLabel = 63
)

// canonicalName returns b, a host name as it is on the wire, in lower case and
// without one trailing dot. It reports false for what is no host name: an empty
// label, one over 63 bytes, a byte that isn't a letter, digit, hyphen or
// underscore, and an IP address in any spelling.
func canonicalName(b []byte) (string, bool) {
	if n := len(b); n > 0 && b[n-1] == '.' {
		b = b[:n-1]
	}
	if len(b) > maxName {
		return "", false
	}
	var name [maxName]byte
	label := 0 // where the current label begins
	for i, c := range b {
		switch {
		case c == '.':
			if i == label || i-label > maxLabel {
				return "", false
			}
			label = i + 1
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		case !isNameByte(c):
			return "", false
		}
		name[i] = c
	}
	last := name[label:len(b)]
	if len(last) == 0 || len(last) > maxLabel || isNumber(last) {
		return "", false
	}
	return string(name[:len(b)]), true
}

// isNameByte reports whether c may be in the label of a name in lower case. The
// underscore isn't allowed in host names, but used in many.
func isNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// isNumber reports whether a label in lower case is a number as inet_aton reads
// them: decimal, octal, or hexadecimal behind 0x, which may stand alone. A name
// that ends in a number is an IPv4 address to some resolvers (127.1,
// 0x7f000001), and no top-level domain is a number:
// https://url.spec.whatwg.org/#ends-in-a-number-checker
func isNumber(label []byte) bool {
	if len(label) >= 2 && label[0] == '0' && label[1] == 'x' {
		for _, c := range label[2:] {
			if !isHex(c) {
				return false
			}
		}
		return true
	}
	for _, c := range label {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// A host is the host of an authority: a canonical name, or an address. The zero
// host is an empty one.
type host struct {
	name string
	addr netip.Addr
}

// ParseAuthority reads the authority of a request as [Flight] does, for who gets it
// from another reader: a canonical name, an address, or neither where it is empty;
// and the port, -1 if there is none. It reports false for what isn't strictly one.
func ParseAuthority(s string) (name string, addr netip.Addr, port int, ok bool) {
	h, port, ok := parseAuthority([]byte(s))
	return h.name, h.addr, port, ok
}

// parseAuthority reads the authority of a request: host, or host and port (RFC
// 3986, section 3.2, without user information, percent-encoding and zones,
// which other readers take apart in other ways). port is -1 if there is none or
// an empty one.
func parseAuthority(b []byte) (h host, port int, ok bool) {
	hostPart, portPart := b, []byte(nil)
	bracketed := len(b) > 0 && b[0] == '['
	for i := len(b) - 1; i >= 0 && b[i] != ']'; i-- {
		if b[i] == ':' {
			hostPart, portPart = b[:i], b[i+1:]
			break
		}
	}
	port, ok = parsePort(portPart)
	if !ok {
		return host{}, -1, false
	}
	if bracketed {
		n := len(hostPart)
		if hostPart[n-1] != ']' {
			return host{}, -1, false
		}
		addr, err := netip.ParseAddr(string(hostPart[1 : n-1]))
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return host{}, -1, false
		}
		return host{addr: addr}, port, true
	}
	if len(hostPart) == 0 {
		return host{}, port, true
	}
	if name, ok := canonicalName(hostPart); ok {
		return host{name: name}, port, true
	}
	addr, err := netip.ParseAddr(string(hostPart))
	if err != nil || !addr.Is4() {
		return host{}, -1, false
	}
	return host{addr: addr}, port, true
}

// parsePort reads a decimal port of at most five digits; -1 means an empty one.
func parsePort(b []byte) (int, bool) {
	if len(b) == 0 {
		return -1, true
	}
	if len(b) > 5 {
		return -1, false
	}
	port := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return -1, false
		}
		port = port*10 + int(c-'0')
	}
	return port, port <= 65535
}
