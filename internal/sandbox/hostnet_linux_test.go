package sandbox

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sluicenet/sluice/internal/netlab"
)

// TestReadHostNet checks what is read of the lab's machine, an address that is
// only in a routing table, and a change.
func TestReadHostNet(t *testing.T) {
	t.Parallel()
	netlab.New(t)
	h, err := readHostNet()
	if err != nil {
		t.Fatal(err)
	}
	if !h.usable4 || !h.usable6 {
		t.Errorf("families: %v, %v", h.usable4, h.usable6)
	}
	if !slices.Contains(h.addrs, netip.MustParseAddr("192.168.50.2")) || !slices.Contains(h.addrs, netip.MustParseAddr("2606:2800:220:50::2")) {
		t.Errorf("addresses %v", h.addrs)
	}
	if slices.ContainsFunc(h.addrs, netip.Addr.IsLoopback) || slices.ContainsFunc(h.routes, func(p netip.Prefix) bool { return p.Bits() == 0 }) {
		t.Errorf("loopback addresses or default routes: %+v", h)
	}

	changes := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done, err := watchHostNet(ctx, func() {
		select {
		case changes <- struct{}{}:
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	_, dst, err := net.ParseCIDR("198.51.100.77/32")
	if err != nil {
		t.Fatal(err)
	}
	route := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Table: 255, Type: 2, Scope: netlink.SCOPE_HOST} // local
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.RouteDel(route) })
	awaitChange(t, changes)
	if h, err = readHostNet(); err != nil || !slices.Contains(h.addrs, netip.MustParseAddr("198.51.100.77")) {
		t.Errorf("a local route is no address: %v, %v", h.addrs, err)
	}
	cancel()
	<-done
}

// awaitChange waits for a value.
func awaitChange(t *testing.T, changes <-chan struct{}) {
	t.Helper()
	select {
	case <-changes:
	case <-time.After(10 * time.Second):
		t.Fatal("no change was noticed")
	}
}

// TestWatchDir checks that new, removed and touched files are noticed.
func TestWatchDir(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	changes := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done, err := watchDir(ctx, dir, func() { changes <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "f")
	for _, change := range []func() error{
		func() error { return os.WriteFile(path, nil, 0o600) },
		func() error { return os.Chtimes(path, time.Now(), time.Now()) },
		func() error { return os.Remove(path) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		awaitChange(t, changes)
	}
	cancel()
	<-done
	if _, err := watchDir(t.Context(), path, func() {}); err == nil {
		t.Error("watches what isn't there")
	}
}
