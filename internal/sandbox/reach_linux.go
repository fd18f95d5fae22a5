package sandbox

import (
	"net/netip"

	"github.com/vishvananda/netlink"
)

// hasRoute asks the kernel for the route it would take. See reach.
func hasRoute(h hostNet, a netip.Addr) bool {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return false // a dial would fail at once, and say so
	}
	if a.Is4() || !a.IsGlobalUnicast() || a.IsPrivate() {
		return true
	}
	src, ok := netip.AddrFromSlice(routes[0].Src)
	return ok && src.IsGlobalUnicast() && (!src.IsPrivate() || h.default6)
}
