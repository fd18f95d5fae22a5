package sandbox

import (
	"fmt"
	"net/netip"
	"testing"
)

// TestHostEntries checks the lines of a guest's /etc/hosts.
func TestHostEntries(t *testing.T) {
	t.Parallel()
	gateways := []netip.Addr{netip.MustParseAddr("172.16.0.1"), netip.MustParseAddr("fd00::1")}
	a := netip.MustParseAddr("10.1.2.3")
	n := Network{Hosts: []Host{
		{Name: "db", Addrs: []netip.Addr{a}},
		{Name: "both", Addrs: []netip.Addr{a}, Gateway: true},
		{Name: "host", Gateway: true},
	}}
	for range 2 { // it is asked for again when the host's network changes
		entries := n.hostEntries(gateways)
		for i, g := range gateways {
			if entries[i].Addr != g || len(entries[i].Names) < 2 {
				t.Errorf("line %d: %v, want the names of the host for %v", i, entries[i], g)
			}
		}
		const want = "[{10.1.2.3 [db]} {10.1.2.3 [both]} {172.16.0.1 [both]} {fd00::1 [both]} {172.16.0.1 [host]} {fd00::1 [host]}]"
		if got := fmt.Sprint(entries[len(gateways):]); got != want {
			t.Errorf("the user's lines are %s, want %s", got, want)
		}
	}
}
