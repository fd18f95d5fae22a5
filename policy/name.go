package policy

import (
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Limits of a name in text form, RFC 1035 section 2.3.4: 255 bytes on the wire
// are 253 characters without the last dot.
const (
	maxName  = 253
	maxLabel = 63
)

// hostAliases are the names under which the gateway is known in every guest.
// As a destination each means group host.
var hostAliases = [...]string{
	"host.microsandbox.internal",
	"host.docker.internal",
	"host.containers.internal",
	"host.lima.internal",
}

// HostAliases returns the names that mean the host in every guest. The caller
// owns the slice.
func HostAliases() []string { return hostAliases[:len(hostAliases):len(hostAliases)] }

// IsHostAlias reports whether a canonical name is one of HostAliases.
func IsHostAlias(name string) bool {
	for _, alias := range hostAliases {
		if name == alias {
			return true
		}
	}
	return false
}

// CanonicalName returns the canonical form of a name from the wire (SNI, an
// authority without its port, the text of a DNS name): lower case, without the
// last dot. It reports false for what is malformed: an empty or too long name
// or label, a space, control byte, colon, backslash or byte from 0x80 on, an IP
// literal in any spelling. It allocates only if there is an upper-case letter.
//
// A backslash is malformed because the text form of DNS names escapes with it:
// the label "a.b" reads `a\.b`, and must not be taken for two labels.
func CanonicalName(s string) (string, bool) {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > maxName {
		return "", false
	}
	upper := false
	label := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '.':
			if label == 0 {
				return "", false
			}
			label = -1
		case c <= ' ' || c >= 0x7f || c == '\\' || c == ':':
			return "", false
		case 'A' <= c && c <= 'Z':
			upper = true
		}
		if label++; label > maxLabel {
			return "", false
		}
	}
	if label == 0 || endsInNumber(s) {
		return "", false
	}
	if upper {
		s = strings.ToLower(s)
	}
	return s, true
}

// endsInNumber reports whether the last label of s is a number, decimal or
// hexadecimal. Such a string is an IPv4 address to inet_aton ("127.1",
// "0x7f000001") or to nobody, and never a name: no top-level domain is a number
// (RFC 3696 section 2).
func endsInNumber(s string) bool {
	last := s[strings.LastIndexByte(s, '.')+1:]
	digits := "0123456789"
	if len(last) >= 2 && last[0] == '0' && last[1]|0x20 == 'x' {
		last, digits = last[2:], "0123456789abcdefABCDEF"
	} else if last == "" {
		return false
	}
	return strings.Trim(last, digits) == ""
}

// configNames turns names of a configuration into A-labels. Underscores and
// hyphens anywhere are legal, since such hosts exist (r3---sn-4g5e.example.com);
// which ASCII characters are is checked afterwards.
var configNames = idna.New(
	idna.MapForLookup(),
	idna.BidiRule(),
	idna.Transitional(false),
	idna.StrictDomainName(false),
	idna.CheckHyphens(false),
)

// ParseName returns the canonical form of a name from a configuration: what
// CanonicalName gives, after IDNA has turned it into A-labels. Only letters,
// digits, hyphens and underscores may remain. The error is a Problem.
func ParseName(s string) (string, error) {
	bad := func(message, fix string) (string, error) {
		return "", Problem{Value: s, Message: message, Fix: fix}
	}
	ascii := s
	if !isPlain(s) {
		if !utf8.ValidString(s) {
			return bad("not UTF-8", "") // idna would take a stray byte for a character
		}
		var err error
		if ascii, err = configNames.ToASCII(s); err != nil {
			return bad("no domain name: "+strings.TrimPrefix(err.Error(), "idna: "), "")
		}
	}
	if _, err := netip.ParseAddr(ascii); err == nil {
		return bad("an address is no domain name", "")
	}
	name := strings.ToLower(ascii)
	for i := 0; i < len(name); i++ {
		c := name[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return bad("a domain name can't hold "+quoteByte(c), "")
		}
	}
	if endsInNumber(strings.TrimSuffix(name, ".")) {
		return bad("neither an address in four decimal parts nor a domain name", "")
	}
	canonical, ok := CanonicalName(name)
	if !ok {
		return bad("no domain name: labels have 1 to 63 characters, the whole at most 253", "")
	}
	return canonical, nil
}

// isPlain reports whether s needs no IDNA: it is ASCII and holds no label that
// claims to be an A-label.
func isPlain(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return !strings.Contains(strings.ToLower(s), "xn--")
}

func quoteByte(c byte) string {
	if c > ' ' && c < 0x7f {
		return string([]byte{'`', c, '`'})
	}
	return "a space or control character"
}
