package sandbox

import (
	"net/netip"
	"slices"

	"github.com/sluicenet/sluice/vnet"
)

// A hostNet is what a sandbox must know of its host's network. It is immutable.
//
// readHostNet, per platform, takes it; watchHostNet calls changed, from one
// goroutine, whenever it may have changed, until ctx ends, and returns a
// channel that is closed when that goroutine has ended.
type hostNet struct {
	addrs       []netip.Addr   // of the host itself, loopback addresses left out; sorted
	local       []netip.Prefix // ranges that are the host's own as a whole, loopback left out
	nameservers []netip.Addr   // that the sandbox's resolver asks
	routes      []netip.Prefix // to others, but default routes; sorted
	usable4     bool           // has an IPv4 route beyond loopback and link-local
	usable6     bool
	default6    bool // has an IPv6 default route
}

// Families reports which families of addresses are usable: whether this host has
// a route in them beyond loopback and link-local.
func Families() (ipv4, ipv6 bool, err error) {
	h, err := readHostNet()
	return h.usable4, h.usable6, err
}

// points returns the addresses that a block must not contain: what lies there
// would be the guest's network, never the host's.
func (h hostNet) points() []netip.Prefix {
	points := slices.Clone(h.local)
	for _, a := range slices.Concat(h.addrs, h.nameservers) {
		a = a.Unmap().WithZone("")
		points = append(points, netip.PrefixFrom(a, a.BitLen()))
	}
	return points
}

// equal reports whether h and o say the same.
func (h hostNet) equal(o hostNet) bool {
	return slices.Equal(h.addrs, o.addrs) && slices.Equal(h.local, o.local) &&
		slices.Equal(h.nameservers, o.nameservers) && slices.Equal(h.routes, o.routes) &&
		h.usable4 == o.usable4 && h.usable6 == o.usable6 && h.default6 == o.default6
}

// unusable returns the families that the host has no route for.
func (h hostNet) unusable() vnet.Families {
	var f vnet.Families
	if !h.usable4 {
		f |= vnet.FamilyIPv4
	}
	if !h.usable6 {
		f |= vnet.FamilyIPv6
	}
	return f
}

// addRoute files a route to others: what makes a family usable, and what a
// block may hide.
func (h *hostNet) addRoute(p netip.Prefix) {
	a := p.Addr()
	if a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		return
	}
	if a.Is4() {
		h.usable4 = true
	} else {
		h.usable6 = true
		h.default6 = h.default6 || p.Bits() == 0
	}
	if p.Bits() > 0 {
		h.routes = append(h.routes, p.Masked())
	}
}

// addLocal files a range of the host's own addresses.
func (h *hostNet) addLocal(p netip.Prefix) {
	switch a := p.Addr(); {
	case a.IsLoopback(), a.IsMulticast():
	case p.IsSingleIP():
		h.addrs = append(h.addrs, a)
	default:
		h.local = append(h.local, p.Masked())
	}
}

// sorted returns h with sorted lists, so that equal compares sets.
func (h hostNet) sorted() hostNet {
	for _, list := range []*[]netip.Prefix{&h.local, &h.routes} {
		slices.SortFunc(*list, func(a, b netip.Prefix) int { return a.Compare(b) })
		*list = slices.Compact(*list)
	}
	slices.SortFunc(h.addrs, netip.Addr.Compare)
	h.addrs = slices.Compact(h.addrs)
	return h
}
