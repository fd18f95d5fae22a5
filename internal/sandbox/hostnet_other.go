//go:build !linux

package sandbox

import (
	"fmt"
	"net"
	"net/netip"
)

// readHostNet reads the addresses of the interfaces. Their networks stand for
// the routes, and a global address for a default route. See hostNet.
func readHostNet() (hostNet, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return hostNet{}, fmt.Errorf("list addresses: %w", err)
	}
	var h hostNet
	for _, addr := range addrs {
		n, ok := addr.(*net.IPNet)
		if !ok {
			continue
		}
		a, ok := netip.AddrFromSlice(n.IP)
		if !ok {
			continue
		}
		a = a.Unmap()
		ones, _ := n.Mask.Size()
		h.addLocal(netip.PrefixFrom(a, a.BitLen()))
		h.addRoute(netip.PrefixFrom(a, ones))
	}
	return h.sorted(), nil
}
