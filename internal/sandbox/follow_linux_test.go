package sandbox

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sluicenet/sluice/hv/hvtest"
	"github.com/sluicenet/sluice/internal/netlab"
	"github.com/sluicenet/sluice/policy"
)

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
	e := embed(t, testDirs(t), "follow", fake, public)
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
	for pass := range 2 { // a gateway's network before what leads over it
		for _, r := range removed {
			if err := netlink.RouteReplace(&r); err != nil && pass == 1 {
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
	a := embed(t, dirs, "a", &hvtest.Fake{}, public)
	b := embed(t, dirs, "b", &hvtest.Fake{}, public)
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

// TestPolicyHost checks what the classifier is told.
func TestPolicyHost(t *testing.T) {
	t.Parallel()
	netlab.New(t)
	dirs := testDirs(t)
	embed(t, dirs, "other", &hvtest.Fake{}, public)
	e := embed(t, dirs, "one", &hvtest.Fake{}, public)
	h, err := e.s.policyHost()
	if err != nil {
		t.Fatal(err)
	}
	b := e.s.block.block
	for addr, want := range map[netip.Addr]policy.Group{
		b.Gateway4:                             policy.GroupHost,
		b.Gateway6:                             policy.GroupHost,
		netip.MustParseAddr("192.168.50.2"):    policy.GroupHost,
		netip.MustParseAddr("192.168.50.77"):   policy.GroupPrivate,
		netip.MustParseAddr("127.0.0.1"):       policy.GroupLoopback,
		netip.MustParseAddr("93.184.216.34"):   policy.GroupPublic,
		netip.MustParseAddr("169.254.169.254"): policy.GroupMetadata,
	} {
		if got := h.Classify(addr); got != want {
			t.Errorf("%v is %v, want %v", addr, got, want)
		}
	}
	for _, addr := range []netip.Addr{b.Prefix4.Addr(), b.Guest4.Next(), netip.MustParseAddr("10.77.0.2")} { // our edges, and the other's
		if _, denied := h.AlwaysDenied(addr); !denied {
			t.Errorf("%v may be allowed", addr)
		}
	}
}

// TestReach checks which addresses count as reachable.
func TestReach(t *testing.T) {
	t.Parallel()
	netlab.New(t)
	h, err := readHostNet()
	if err != nil {
		t.Fatal(err)
	}
	public4, public6 := netip.MustParseAddr("93.184.216.34"), netip.MustParseAddr("2606:2800:220::1")
	r := newReach(h)
	for range 2 { // the second time from memory
		if !r.usable(public4) || !r.usable(public6) {
			t.Error("a public address isn't reachable")
		}
	}
	only4, only6 := h, h
	only4.usable6, only6.usable4 = false, false
	if r.reset(only4); !r.usable(public4) || r.usable(public6) {
		t.Error("without IPv6: an IPv6 address counts as reachable")
	}
	if r.reset(only6); r.usable(public4) || !r.usable(public6) {
		t.Error("without IPv4: an IPv4 address counts as reachable")
	}
	r.reset(h)
	a := netip.MustParseAddr("10.0.0.0")
	for range 2 * maxReach {
		a = a.Next()
		r.usable(a)
	}
	if n := len(r.known); n > maxReach {
		t.Errorf("%d addresses are remembered, want at most %d", n, maxReach)
	}
}
