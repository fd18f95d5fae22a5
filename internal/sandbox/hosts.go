package sandbox

import (
	"net/netip"

	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/policy"
)

// A Host is a name that the guest knows without asking its resolver.
type Host struct {
	Name    string
	Addrs   []netip.Addr
	Gateway bool // means the gateway, and so this host, too
}

// hostEntries returns the lines of the guest's /etc/hosts: the names of this
// host first, then the user's, in their order.
func (n *Network) hostEntries(gateways []netip.Addr) []guest.HostEntry {
	var entries []guest.HostEntry
	for _, g := range gateways {
		entries = append(entries, guest.HostEntry{Addr: g, Names: policy.HostAliases()})
	}
	for _, h := range n.Hosts {
		addrs := h.Addrs
		if h.Gateway {
			addrs = append(addrs[:len(addrs):len(addrs)], gateways...)
		}
		for _, a := range addrs {
			entries = append(entries, guest.HostEntry{Addr: a, Names: []string{h.Name}})
		}
	}
	return entries
}
