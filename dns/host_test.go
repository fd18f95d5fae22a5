package dns

import (
	"testing"
)

// TestHostServers checks that the host's own servers are the ones that its
// loader gives.
func TestHostServers(t *testing.T) {
	t.Parallel()
	load, _ := hostLoader()
	u, err := load(t.Context())
	if err != nil {
		t.Skipf("this host has no resolver: %v", err)
	}
	addrs, err := HostServers(t.Context())
	if err != nil || len(addrs) < len(u.servers) {
		t.Fatalf("servers %v, %v, want at least %v", addrs, err, u.servers)
	}
	for i, s := range u.servers {
		if addrs[i] != s.Addr() {
			t.Errorf("server %d is %v, want %v", i, addrs[i], s.Addr())
		}
	}
}
