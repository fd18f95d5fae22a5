package policy

import (
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"github.com/gaissmai/bart"
)

// An index tells which rules can match a flow, so that a walk passes over all
// others. It decides nothing: the walk compares every rule that it stops at.
//
// Address rules have an ordinal, their place among the address rules, and are
// kept as bit vectors by ordinal: one per interval of ports that no filter
// tells apart, one per group, one per prefix. The first rule that matches a
// flow is the lowest bit set in the vector of its port and in one of those of
// its address. Domain rules, of which there may be a hundred thousand, are found
// by the name and its suffixes in two maps.
//
// For example, among
//
//	0 deny 10.0.0.0/8 tcp 80     ordinal 0
//	1 allow api.example.com      a domain
//	2 allow private              ordinal 1
//	3 allow *                    ordinal 2
//
// the flow tcp 10.0.0.5:443 has the vector {1, 2} by its port (443 is beside 80),
// {1, 2} by its group and {0} by its prefix. The lowest bit of {1,2} & ({1,2}|{0})
// is ordinal 1: rule 2.
type index struct {
	address  []int32                                // flattened index by ordinal
	byGroup  [GroupHost + 1]vector                  // rules for the group, or for any address
	byPrefix bart.Table[vector]                     // rules for the prefix or one that contains it
	deny     vector                                 // deny rules; they match the IPv6 form of NAT64 too
	ports    [Ingress + 1][ICMPv6 + 1]portIntervals // by direction and protocol
	exact    map[string][]int32                     // flattened indices by the domain's name, ascending
	suffix   map[string][]int32                     // the same for the subdomains of a name
	queries  []int32                                // flattened indices of the address rules that queries ask
}

// A vector is a set of ordinals. Bits beyond its length are zero, so that nil is
// the empty set: what a look-up returns that finds nothing.
type vector []uint64

// word returns ordinals 64*i to 64*i+63, the lowest bit first.
func (v vector) word(i int) uint64 {
	if i < len(v) {
		return v[i]
	}
	return 0
}

// count returns the number of ordinals in the set.
func (v vector) count() int {
	n := 0
	for _, w := range v {
		n += bits.OnesCount64(w)
	}
	return n
}

func (v vector) set(ordinal int) { v[ordinal/64] |= 1 << (ordinal % 64) }

// A portInterval is a range of ports that no rule's filter tells apart, up to
// the next one's first.
type portInterval struct {
	first  uint16
	fits   vector // address rules whose direction, protocol and ports fit
	domain int32  // flattened index of the first domain rule that fits
	allow  int32  // the same among those that allow
	deny   int32  // the same among those that deny
	silent int32  // the same among those that don't list both the protocol and the port
}

// portIntervals cover 0 to 65535, ascending.
type portIntervals []portInterval

// of returns the interval that holds port.
func (s portIntervals) of(port uint16) *portInterval {
	low, high := 0, len(s)
	for high-low > 1 {
		if mid := int(uint(low+high) / 2); s[mid].first <= port {
			low = mid
		} else {
			high = mid
		}
	}
	return &s[low]
}

// newIndex returns the index of a flattened list. It is not changed any more, so
// any number of flows may be decided at once.
func newIndex(rules []Rule) *index {
	ix := &index{exact: make(map[string][]int32), suffix: make(map[string][]int32)}
	for i := range rules {
		switch d := rules[i].Destination; {
		case d.kind == destDomain:
			ix.exact[d.name] = append(ix.exact[d.name], int32(i))
		case d.kind == destSuffix:
			ix.suffix[d.name] = append(ix.suffix[d.name], int32(i))
		default:
			ix.address = append(ix.address, int32(i))
			if rules[i].concernsQueries() {
				ix.queries = append(ix.queries, int32(i))
			}
		}
	}
	ix.addAddresses(rules)
	for _, d := range []Direction{Egress, Ingress} {
		for p := TCP; p <= ICMPv6; p++ {
			ix.ports[d][p] = ix.intervals(rules, d, p)
		}
	}
	return ix
}

// vector returns an empty vector for all address rules.
func (ix *index) vector() vector { return make(vector, (len(ix.address)+63)/64) }

// addAddresses fills the vectors by group and prefix.
func (ix *index) addAddresses(rules []Rule) {
	ix.deny = ix.vector()
	for g := range ix.byGroup {
		ix.byGroup[g] = ix.vector()
	}
	prefixes := make(map[netip.Prefix]vector)
	for ordinal, i := range ix.address {
		if rules[i].Action == Deny {
			ix.deny.set(ordinal)
		}
		switch d := rules[i].Destination; d.kind {
		case destAny: // GroupNone too: any is every address, in a group or not
			for g := range ix.byGroup {
				ix.byGroup[g].set(ordinal)
			}
		case destGroup:
			if d.group != GroupNone {
				ix.byGroup[d.group].set(ordinal)
			}
		case destPrefix:
			if prefixes[d.prefix] == nil {
				prefixes[d.prefix] = ix.vector()
			}
			prefixes[d.prefix].set(ordinal)
		}
	}
	// A look-up finds the longest prefix only, so each takes over the rules of
	// those that contain it: shorter ones first.
	sorted := make([]netip.Prefix, 0, len(prefixes))
	for p := range prefixes {
		sorted = append(sorted, p)
	}
	slices.SortFunc(sorted, func(a, b netip.Prefix) int { return a.Bits() - b.Bits() })
	for _, p := range sorted {
		v := prefixes[p]
		if outer, ok := ix.byPrefix.LookupPrefix(p); ok {
			for i := range v {
				v[i] |= outer[i]
			}
		}
		ix.byPrefix.Insert(p, v)
	}
}

// intervals returns the port intervals of a direction and protocol: one between
// any two ports where a filter begins or has just ended. ICMP has a single one.
func (ix *index) intervals(rules []Rule, d Direction, p Protocol) portIntervals {
	firsts := []uint16{0}
	for i := range rules {
		if !rules[i].fitsProtocol(d, p) || !p.HasPorts() {
			continue
		}
		for _, r := range rules[i].Ports {
			firsts = append(firsts, r.First)
			if r.Last < 65535 {
				firsts = append(firsts, r.Last+1)
			}
		}
	}
	slices.Sort(firsts)
	firsts = slices.Compact(firsts)
	s := make(portIntervals, len(firsts))
	for i, first := range firsts {
		s[i] = ix.interval(rules, d, p, first)
	}
	return s
}

// interval returns the interval that begins at port first, which stands for all
// of its ports.
func (ix *index) interval(rules []Rule, d Direction, p Protocol, first uint16) portInterval {
	none := int32(len(rules))
	s := portInterval{first: first, fits: ix.vector(), domain: none, allow: none, deny: none, silent: none}
	ordinal := 0
	for i := range rules {
		r := &rules[i]
		fits := r.fitsProtocol(d, p) && r.fitsPort(p, first)
		if !r.Destination.IsDomain() {
			if fits {
				s.fits.set(ordinal)
			}
			ordinal++
			continue
		}
		if !fits || d != Egress {
			continue
		}
		s.domain = min(s.domain, int32(i))
		if r.Action == Allow {
			s.allow = min(s.allow, int32(i))
		} else {
			s.deny = min(s.deny, int32(i))
		}
		if !r.Protocols.Lists(p) || !r.listsPort(first) {
			s.silent = min(s.silent, int32(i))
		}
	}
	return s
}

// nextAddress returns the flattened index, from on, of the first address rule
// that fits and is in one of the vectors of the address, 64 rules at a time; none
// if there is no such rule. Of outer, only deny rules count.
func (ix *index) nextAddress(from, none int, fits, group, prefix, outer vector) int {
	ordinal, _ := slices.BinarySearch(ix.address, int32(from))
	mask := ^uint64(0) << (ordinal % 64) // of the first word; the others count whole
	for k := ordinal / 64; k < len(fits); k++ {
		m := fits[k] & mask & (group.word(k) | prefix.word(k) | outer.word(k)&ix.deny[k])
		if m != 0 {
			return int(ix.address[k*64+bits.TrailingZeros64(m)])
		}
		mask = ^uint64(0)
	}
	return none
}

// nextDomain returns the flattened index, from on, of the first rule that
// matches the name and that keep keeps; none if there is no such rule. A name of
// n labels costs n look-ups: itself, then what follows each dot.
func (ix *index) nextDomain(from, none int, name string, keep func(i int32) bool) int {
	best := firstKept(ix.exact[name], from, none, keep)
	for dot := strings.IndexByte(name, '.'); dot >= 0; dot = strings.IndexByte(name, '.') {
		name = name[dot+1:]
		best = firstKept(ix.suffix[name], from, best, keep)
	}
	return best
}

// firstKept returns the first index of an ascending list that is at least from
// and below best and that keep keeps; best if there is none.
func firstKept(list []int32, from, best int, keep func(i int32) bool) int {
	for _, i := range list {
		if int(i) >= best {
			break
		}
		if int(i) >= from && keep(i) {
			return int(i)
		}
	}
	return best
}
