package dns

import (
	"context"
	"net/netip"
	"slices"
)

// HostServers returns the addresses of the host's own resolvers, those for parts
// of the name space included: what a Config without Nameservers asks. It is for
// who chooses a sandbox's addresses, which must hide none of them.
func HostServers(ctx context.Context) ([]netip.Addr, error) {
	load, _ := hostLoader()
	u, err := load(ctx)
	if err != nil {
		return nil, err
	}
	servers := slices.Clone(u.servers)
	for _, d := range u.domains {
		servers = append(servers, d.servers...)
	}
	addrs := make([]netip.Addr, len(servers))
	for i, s := range servers {
		addrs[i] = s.Addr()
	}
	return addrs, nil
}
