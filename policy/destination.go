package policy

import (
	"errors"
	"net/netip"
	"strings"
)

// A Destination is what a rule compares with the other end of a flow: any, a
// group, a prefix, a domain, or the subdomains of a domain. It is comparable.
// The zero Destination is any.
type Destination struct {
	kind   destKind
	group  Group        // valid iff kind is destGroup
	prefix netip.Prefix // valid iff kind is destPrefix; masked, never IPv4-mapped
	name   string       // valid iff kind is destDomain or destSuffix; canonical
}

// A destKind says which field of a Destination is valid. The first three are
// compared with addresses, the others with names.
type destKind uint8

const (
	destAny destKind = iota
	destGroup
	destPrefix
	destDomain
	destSuffix // subdomains of name, not name itself
)

// GroupDestination returns the destination that matches the addresses of a
// group. GroupNone matches nothing.
func GroupDestination(g Group) Destination { return Destination{kind: destGroup, group: g} }

// PrefixDestination returns the destination that matches the addresses of a
// prefix, whose host bits are masked. An invalid prefix matches nothing.
func PrefixDestination(p netip.Prefix) Destination {
	return Destination{kind: destPrefix, prefix: canonicalPrefix(p)}
}

// DomainDestination returns the destination that matches one name, which must
// be canonical.
func DomainDestination(name string) Destination {
	return Destination{kind: destDomain, name: name}
}

// SuffixDestination returns the destination that matches the subdomains of a
// name, which must be canonical, and not the name itself.
func SuffixDestination(name string) Destination {
	return Destination{kind: destSuffix, name: name}
}

// IsDomain reports whether d is a domain or the subdomains of one, so that
// names decide and not addresses.
func (d Destination) IsDomain() bool { return d.kind == destDomain || d.kind == destSuffix }

// String returns the destination as ParseDestination reads it.
func (d Destination) String() string {
	switch d.kind {
	case destGroup:
		return d.group.String()
	case destPrefix:
		if d.prefix.IsSingleIP() {
			return d.prefix.Addr().String()
		}
		return d.prefix.String()
	case destDomain:
		if !strings.Contains(d.name, ".") {
			return d.name + "." // else it would read as a group
		}
		return d.name
	case destSuffix:
		return "." + d.name // also of one label: a group has no dot before it
	}
	return "*"
}

// Describe says in words what d matches, for a reader who wonders whether a
// suffix matches its own name.
func (d Destination) Describe() string {
	switch d.kind {
	case destGroup:
		return "the addresses of group " + d.group.String()
	case destPrefix:
		if d.prefix.IsSingleIP() {
			return "the address " + d.String()
		}
		return "the addresses " + d.prefix.Addr().String() + " to " + lastAddress(d.prefix).String()
	case destDomain:
		return d.name + ", not its subdomains"
	case destSuffix:
		return "the subdomains of " + d.name + ", not " + d.name + " itself"
	}
	return "every address"
}

// matchesName reports whether d is a domain destination that matches a
// canonical name, label by label.
func (d Destination) matchesName(name string) bool {
	switch d.kind {
	case destDomain:
		return name == d.name
	case destSuffix:
		// The dot is what keeps evilexample.com out of .example.com, and
		// example.com itself, of which nothing is left.
		rest, ok := strings.CutSuffix(name, d.name)
		return ok && strings.HasSuffix(rest, ".")
	}
	return false
}

// ParseDestination reads a destination: "" or "*" for any, a group's name, an
// address, a prefix (host bits are masked), a domain, or ".domain" for its
// subdomains. A host alias is group host. The error is a Problem.
func ParseDestination(s string) (Destination, error) {
	if s == "" || s == "*" {
		return Destination{}, nil
	}
	if g, ok := groupByName(s); ok {
		return GroupDestination(g), nil
	}
	// No name has a slash or a colon, so these are meant as addresses, however
	// wrong: "10.0.0.0/33" is told what is wrong with it.
	if strings.ContainsAny(s, "/:") || looksLikeAddr(s) {
		return parsePrefix(s)
	}
	// Whether "*.example.com" has example.com in it every program answers in its
	// own way, so no star is taken.
	if strings.Contains(s, "*") {
		fix := "a name is written out"
		if rest, ok := strings.CutPrefix(s, "*."); ok && !strings.Contains(rest, "*") {
			fix = "for the subdomains write ." + rest
		}
		return Destination{}, Problem{Value: s, Message: "a domain can't hold `*`", Fix: fix}
	}
	if base, ok := strings.CutPrefix(s, "."); ok {
		name, err := ParseName(base)
		if err != nil {
			return Destination{}, revalue(err, s)
		}
		return SuffixDestination(name), nil
	}
	name, err := ParseName(s)
	if err != nil {
		return Destination{}, err
	}
	if IsHostAlias(name) { // its addresses are the gateway's, whatever a resolver says
		return GroupDestination(GroupHost), nil
	}
	// A word that is misspelt, "pubilc", must not become a name that never matches.
	if !strings.Contains(name, ".") && !strings.HasSuffix(s, ".") {
		return Destination{}, oneLabel(s)
	}
	return DomainDestination(name), nil
}

// oneLabel says what a single word, which is no group, may have been meant as.
func oneLabel(s string) Problem {
	fix := "groups are " + groupList + "; for a host name write `" + s + ".`"
	if near := nearestGroup(s); near != "" {
		fix = "group `" + near + "`? for a host name write `" + s + ".`"
	}
	return Problem{Value: s, Message: "no such group", Fix: fix}
}

// looksLikeAddr reports whether s is an address that no name could be.
func looksLikeAddr(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// parsePrefix reads an address or a prefix.
func parsePrefix(s string) (Destination, error) {
	var p netip.Prefix
	if strings.Contains(s, "/") {
		var err error
		if p, err = netip.ParsePrefix(s); err != nil {
			return Destination{}, Problem{Value: s, Message: "no address range", Fix: "write it as 10.0.0.0/8 or fd00::/8"}
		}
	} else {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return Destination{}, Problem{Value: s, Message: "no address", Fix: "a port goes into the rule's ports"}
		}
		if a.Zone() != "" {
			return Destination{}, Problem{Value: s, Message: "an address of a rule has no zone", Fix: "write " + a.WithZone("").String()}
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	return PrefixDestination(p), nil
}

// canonicalPrefix masks p and writes an IPv4-mapped prefix as the IPv4 prefix
// that it is: flows have no mapped addresses, so a rule for one would never match.
// A mapped one of fewer than 96 bits holds other addresses too, and stays.
func canonicalPrefix(p netip.Prefix) netip.Prefix {
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

// revalue returns err, a Problem, with another value: what the user wrote.
func revalue(err error, value string) error {
	var p Problem
	errors.As(err, &p)
	p.Value = value
	return p
}
