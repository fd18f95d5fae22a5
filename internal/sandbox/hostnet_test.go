package sandbox

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// compareHostNets compares all fields; empty and nil lists are the same.
var compareHostNets = cmp.Options{
	cmp.AllowUnexported(hostNet{}),
	cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}),
	cmpopts.EquateEmpty(),
}

// TestHostNetFiles checks what is made of routes and local addresses.
func TestHostNetFiles(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		routes, local []netip.Prefix
		want          hostNet
	}{
		{"default routes", prefixes("0.0.0.0/0", "::/0"), nil, hostNet{usable4: true, usable6: true, default6: true}},
		{"networks", prefixes("192.168.1.0/24"), nil, hostNet{usable4: true, routes: prefixes("192.168.1.0/24")}},
		{"host bits, twice", prefixes("192.168.1.7/24", "192.168.1.0/24"), nil, hostNet{usable4: true, routes: prefixes("192.168.1.0/24")}},
		{"loopback", prefixes("127.0.0.0/8", "::1/128"), nil, hostNet{}},
		{"link-local", prefixes("169.254.0.0/16", "fe80::/64"), nil, hostNet{}},
		{"multicast", prefixes("ff00::/8", "224.0.0.0/4"), nil, hostNet{}},
		{"addresses", nil, prefixes("192.168.1.7/32", "10.0.0.1/32", "fd00::1/128"), hostNet{addrs: addrs("10.0.0.1", "192.168.1.7", "fd00::1")}},
		{"own loopback", nil, prefixes("127.0.0.0/8", "127.0.0.1/32", "::1/128"), hostNet{}},
		{"a range", nil, prefixes("198.51.100.0/24"), hostNet{local: prefixes("198.51.100.0/24")}},
	} {
		var h hostNet
		for _, p := range tt.routes {
			h.addRoute(p)
		}
		for _, p := range tt.local {
			h.addLocal(p)
		}
		if diff := cmp.Diff(tt.want, h.sorted(), compareHostNets); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.name, diff)
		}
	}
}

// TestHostNetEqual checks that each field counts.
func TestHostNetEqual(t *testing.T) {
	t.Parallel()
	for i, h := range []hostNet{
		{addrs: addrs("10.0.0.1")}, {local: prefixes("10.0.0.0/8")}, {nameservers: addrs("10.0.0.1")},
		{routes: prefixes("10.0.0.0/8")}, {usable4: true}, {usable6: true}, {default6: true},
	} {
		if !h.equal(h) || h.equal(hostNet{}) || (hostNet{}).equal(h) {
			t.Errorf("row %d: equal looks past a field", i)
		}
	}
}
