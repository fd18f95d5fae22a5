package policy

import (
	"strconv"
	"strings"
)

// A PortRange is the ports from First to Last, both included. The zero
// PortRange is not valid: there is no port 0.
type PortRange struct{ First, Last uint16 }

// String returns "443" or "8000-9000".
func (p PortRange) String() string {
	s := strconv.Itoa(int(p.First))
	if p.First != p.Last {
		s += "-" + strconv.Itoa(int(p.Last))
	}
	return s
}

func (p PortRange) valid() bool { return 1 <= p.First && p.First <= p.Last }

// parsePortRange reads a port or a range of ports, without spaces.
func parsePortRange(s string) (PortRange, bool) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	a, okFirst := parsePort(first)
	b, okLast := parsePort(last)
	p := PortRange{a, b}
	return p, okFirst && okLast && p.valid()
}

// parsePort reads a decimal number without sign or leading zero.
func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && startsWithDigit(s) && s[0] != '0'
}
