package sandbox

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/hvtest"
	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/internal/netlab"
	"github.com/sluicenet/sluice/policy"
)

// embed starts a sandbox on a fake, with a network.
func embed(t *testing.T, dirs Dirs, name string, fake *hvtest.Fake) *Embedded {
	t.Helper()
	e, err := Embed(t.Context(), control.Spec{Name: name, Home: dirs.Home, Runtime: dirs.Runtime}, Options{
		Open: func(context.Context, string) (hv.Hypervisor, error) { return fake, nil },
		Compile: func(json.RawMessage) (Config, error) {
			cfg, err := policy.Preset(policy.PresetPublicOnly)
			if err != nil {
				return Config{}, err
			}
			p, err := policy.New(cfg)
			return Config{Network: &Network{Policy: p, Pool: mustPool(t, "10.77.0.0/24", "fd77::/56")}}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestFollowHost checks that a guest loses and gets back its default route with
// its host. It isn't parallel: the host is everybody's.
func TestFollowHost(t *testing.T) {
	netlab.New(t)
	fake := &hvtest.Fake{}
	e := embed(t, testDirs(t), "follow", fake)
	g := fake.Guests()[0]
	if n := g.Bootstrap().Network; !n.Default4 || !n.Default6 {
		t.Fatalf("at first: %+v", n)
	}
	first := e.s.hostNet()
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V6)
	if err != nil {
		t.Fatal(err)
	}
	var removed []netlink.Route
	for _, r := range routes {
		if p, ok := destination(r); ok && !p.Addr().IsLinkLocalUnicast() && !onLoopback(r) {
			if err := netlink.RouteDel(&r); err != nil {
				t.Fatal(err)
			}
			removed = append(removed, r)
		}
	}
	eventually(t, "no IPv6 default route", func() bool {
		told := g.Networks()
		return len(told) > 0 && told[len(told)-1].Default4 && !told[len(told)-1].Default6
	})
	for i := range removed { // a gateway's network before what leads over it
		r := removed[len(removed)-1-i]
		if err := netlink.RouteReplace(&r); err != nil {
			r = removed[i]
			if err := netlink.RouteReplace(&r); err != nil {
				t.Logf("restore %v: %v", r, err)
			}
		}
	}
	eventually(t, "the IPv6 default route again", func() bool {
		told := g.Networks()
		return told[len(told)-1].Default6
	})
	eventually(t, "the host as at first", func() bool { return e.s.hostNet().equal(first) })
}

// TestFollowOthers checks that the blocks of sandboxes that come later are
// denied, and let go with them.
func TestFollowOthers(t *testing.T) {
	t.Parallel()
	dirs := testDirs(t)
	a := embed(t, dirs, "a", &hvtest.Fake{})
	b := embed(t, dirs, "b", &hvtest.Fake{})
	guest := b.s.block.block.Guest4
	denied := func() bool {
		host, err := a.s.policyHost()
		if err != nil {
			t.Fatal(err)
		}
		_, denied := host.AlwaysDenied(guest)
		return denied
	}
	if !denied() {
		t.Errorf("%v is another sandbox's, and may be allowed", guest)
	}
	eventually(t, "the network is told", func() bool {
		a.s.mu.Lock()
		defer a.s.mu.Unlock()
		return a.s.told != nil && len(a.s.told.Others) == 2
	})
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the block is nobody's", func() bool {
		a.s.mu.Lock()
		defer a.s.mu.Unlock()
		return len(a.s.told.Others) == 0
	})
}
