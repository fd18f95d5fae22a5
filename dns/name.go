package dns

import (
	"strings"

	mdns "github.com/miekg/dns"

	"github.com/sluicenet/sluice/policy"
)

// Names have three forms here. The wire form is what messages carry. The text
// form is the policy's: lower case, labels joined by dots, no dot at the end,
// "." for the root. miekg's presentation form has a dot at the end and escapes.

// plainName reports whether the name in wire form has a text form: whether its
// labels are made of visible ASCII without dots. A dot inside a label would
// read like a border between labels, and the rest can't be compared with a
// configured name.
func plainName(wire []byte) bool {
	for i := 0; wire[i] != 0; {
		end := i + 1 + int(wire[i])
		for _, c := range wire[i+1 : end] {
			if c <= ' ' || c >= 0x7f || c == '.' {
				return false
			}
		}
		i = end
	}
	return true
}

// appendText appends the text form of the plain name in wire form to dst.
func appendText(dst, wire []byte) []byte {
	for i := 0; wire[i] != 0; {
		if i > 0 {
			dst = append(dst, '.')
		}
		end := i + 1 + int(wire[i])
		for _, c := range wire[i+1 : end] {
			dst = append(dst, lower(c))
		}
		i = end
	}
	return dst
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// lowerWire returns a lower-case copy of a name in wire form. The lengths of
// labels are below 64 and so no letters.
func lowerWire(wire []byte) []byte {
	out := make([]byte, len(wire))
	for i, c := range wire {
		out[i] = lower(c)
	}
	return out
}

// equalFold reports whether two names in wire form, of equal length, are the
// same but for the case of ASCII letters.
func equalFold(a, b []byte) bool {
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

// textName returns the text form of a name in miekg's presentation form, which
// escapes what a host name can't hold: not ok means that it isn't one.
func textName(s string) (text string, ok bool) {
	if s == "." {
		return "", true
	}
	return policy.CanonicalName(s)
}

// serviceHost returns the host that a service name belongs to: the name without
// its leading labels that begin with an underscore, and how many these are.
// https://www.rfc-editor.org/rfc/rfc8552#section-1.1
func serviceHost(name string) (host string, labels int) {
	host = name
	for strings.HasPrefix(host, "_") {
		_, rest, ok := strings.Cut(host, ".")
		if !ok {
			return name, 0
		}
		host = rest
		labels++
	}
	return host, labels
}

// foldShared returns name, in presentation form, with the labels at its end
// that it shares with question in lower case. Servers compress names of an
// answer against the question, and so give back the random case in which we
// ask; what they spell themselves stays.
func foldShared(name, question string) string {
	shared := mdns.CompareDomainName(name, question)
	if shared == 0 {
		return name
	}
	i, _ := mdns.PrevLabel(name, shared)
	if tail := strings.ToLower(name[i:]); tail != name[i:] {
		return name[:i] + tail
	}
	return name
}
