package policy

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/gaissmai/bart"
)

// A Group is the class of an address. The zero Group is none: a reserved
// address, which no group rule matches.
type Group uint8

const (
	GroupNone Group = iota
	GroupPublic
	GroupPrivate
	GroupLoopback
	GroupLinkLocal
	GroupMetadata
	GroupMulticast
	GroupHost
)

// groupNames holds the names of the reference, by Group.
var groupNames = [...]string{
	GroupNone:      "reserved",
	GroupPublic:    "public",
	GroupPrivate:   "private",
	GroupLoopback:  "loopback",
	GroupLinkLocal: "link-local",
	GroupMetadata:  "metadata",
	GroupMulticast: "multicast",
	GroupHost:      "host",
}

const groupList = "public, private, loopback, link-local, metadata, multicast and host"

// String returns the group's name, as rules spell it, and "reserved" for none.
func (g Group) String() string {
	if int(g) < len(groupNames) {
		return groupNames[g]
	}
	return fmt.Sprintf("Group(%d)", uint8(g))
}

// groupByName returns the group that a rule means by name; none has no name
// there.
func groupByName(name string) (Group, bool) {
	for g := GroupPublic; int(g) < len(groupNames); g++ {
		if groupNames[g] == name {
			return g, true
		}
	}
	return GroupNone, false
}

// nearestGroup returns the name of the group that s was probably meant to be,
// one that begins with the same three letters in any case; "" if there is none.
// "localhost" is what people try first.
func nearestGroup(s string) string {
	s = strings.ToLower(s)
	if s == "localhost" {
		return groupNames[GroupHost]
	}
	for _, name := range groupNames[GroupPublic:] {
		if len(s) >= 3 && s[:3] == name[:3] {
			return name
		}
	}
	return ""
}

// A class is what the ranges alone say about an address.
type class struct {
	group Group
	// denied is why no rule can open the address; "" if a rule can.
	denied string
}

// Why an address is denied whatever the rules say.
const (
	deniedUnspecified = "an unspecified address is nowhere; a host would take it for itself"
	deniedThisNetwork = "0.0.0.0/8 is no destination"
	deniedLoopback    = "loopback is the guest's own; the host is group host"
	deniedMapped      = "an IPv4-mapped address never travels"
	deniedCompatible  = "an IPv4-compatible address never travels"
	deniedMulticast   = "multicast is not forwarded"
	deniedBroadcast   = "240.0.0.0/4 and broadcast are no destinations"
	deniedLinkLocal6  = "fe80::/10 does not leave its link"
	deniedOther       = "another sandbox's block"
	deniedBlockEdge   = "the network or broadcast address of the sandbox's own block"
	deniedNAT64Host   = "NAT64 form of an address of the host"
	deniedNAT64None   = "NAT64 form of a reserved address"
)

// classes holds the class of every address by its longest prefix, so the order
// of the contract (unspecified, metadata, loopback, multicast, fe80::/10,
// private, link-local, reserved, public) shows as nesting. What depends on the
// host, Classify adds.
//
// Reserved are the IANA special-purpose ranges that are not globally reachable,
// https://www.iana.org/assignments/iana-ipv4-special-registry and
// https://www.iana.org/assignments/iana-ipv6-special-registry, and transition
// ranges that carry an IPv4 address past the rules.
var classes = classTable([]struct {
	class
	prefixes string
}{
	{class{GroupPublic, ""}, "0.0.0.0/0"},
	{class{GroupNone, deniedThisNetwork}, "0.0.0.0/8"},
	{class{GroupNone, deniedUnspecified}, "0.0.0.0/32 ::/128"},
	{class{GroupPrivate, ""}, "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7"},
	{class{GroupLoopback, deniedLoopback}, "127.0.0.0/8 ::1/128"},
	{class{GroupLinkLocal, ""}, "169.254.0.0/16"},
	{class{GroupLinkLocal, deniedLinkLocal6}, "fe80::/10"},
	{class{GroupMulticast, deniedMulticast}, "224.0.0.0/4 ff00::/8"},
	{class{GroupNone, deniedBroadcast}, "240.0.0.0/4"},
	{class{GroupNone, ""}, "192.0.0.0/24"},                                // IETF protocol assignments
	{class{GroupNone, ""}, "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24"}, // documentation
	{class{GroupNone, ""}, "192.88.99.0/24"},                              // 6to4 relays, RFC 7526
	{class{GroupNone, ""}, "198.18.0.0/15"},                               // benchmarks, and fake-IP proxies

	// The metadata services of AWS and all who followed (IMDS, ECS, EKS), GCP,
	// Alibaba, Azure, Oracle, Tencent and Scaleway.
	{class{GroupMetadata, ""}, "169.254.169.254/32 fd00:ec2::254/128 169.254.170.2/32 169.254.170.23/32 fd00:ec2::23/128"},
	{class{GroupMetadata, ""}, "fd20:ce::254/128 100.100.100.200/32 168.63.129.16/32 192.0.0.192/32"},
	{class{GroupMetadata, ""}, "169.254.0.23/32 169.254.10.10/32 169.254.42.42/32"},

	{class{GroupNone, ""}, "::/0"}, // outside 2000::/3 nothing is public
	{class{GroupPublic, ""}, "2000::/3"},
	{class{GroupNone, deniedCompatible}, "::/96"},
	{class{GroupNone, deniedMapped}, "::ffff:0:0/96"},
	{class{GroupNone, ""}, "2001::/23"}, // IETF protocol assignments, Teredo among them, less:
	{class{GroupPublic, ""}, "2001:1::1/128 2001:1::2/128 2001:1::3/128 2001:3::/32 2001:4:112::/48 2001:20::/28 2001:30::/28"},
	{class{GroupNone, ""}, "2001:db8::/32 3fff::/20"}, // documentation
	{class{GroupNone, ""}, "2002::/16"},               // 6to4
})

// classTable builds the table of classes; prefixes are separated by spaces.
func classTable(rows []struct {
	class
	prefixes string
}) *bart.Table[class] {
	t := new(bart.Table[class])
	for _, row := range rows {
		for _, p := range strings.Fields(row.prefixes) {
			t.Insert(netip.MustParsePrefix(p), row.class)
		}
	}
	return t
}

// isISATAP reports whether the interface identifier of an IPv6 address is that
// of an ISATAP tunnel, 0:5efe or 200:5efe before the IPv4 address it leads to
// (RFC 5214 section 6.1).
func isISATAP(a netip.Addr) bool {
	b := a.As16() // of an IPv4 address the mapped form, where bytes 10 and 11 are 0xff
	return b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
}
