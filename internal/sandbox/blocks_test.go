package sandbox

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/vnet"
)

// mustPool returns a pool; without a t it panics if there is none.
func mustPool(t *testing.T, prefix4, prefix6 string) vnet.Pool {
	pool, err := vnet.NewPool(netip.MustParsePrefix(prefix4), netip.MustParsePrefix(prefix6))
	if err != nil && t == nil {
		panic(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range texts {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// TestClaimBlock checks which block a host's network leaves first.
func TestClaimBlock(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		host    hostNet
		want    string // IPv4 block; "" is a full pool
		warning string // within the warning
	}{
		{"an empty host", hostNet{}, "10.0.0.0/30", ""},
		{"an address", hostNet{addrs: addrs("10.0.0.2")}, "10.0.0.4/30", ""},
		{"an IPv6 address", hostNet{addrs: addrs("fd00::9")}, "10.0.0.4/30", ""},
		{"a nameserver", hostNet{nameservers: addrs("10.0.0.3", "10.0.0.4")}, "10.0.0.8/30", ""},
		{"a range of its own", hostNet{local: prefixes("10.0.0.0/29")}, "10.0.0.8/30", ""},
		{"a route", hostNet{routes: prefixes("10.0.0.0/29")}, "10.0.0.8/30", ""},
		{"a route within a block", hostNet{routes: prefixes("10.0.0.1/32")}, "10.0.0.4/30", ""},
		{"a route elsewhere", hostNet{routes: prefixes("192.168.0.0/16")}, "10.0.0.0/30", ""},
		{"a route to everything", hostNet{routes: prefixes("10.0.0.0/8")}, "10.0.0.0/30", "hides the host's route 10.0.0.0/8"},
		{"a route to everything, and an address", hostNet{routes: prefixes("10.0.0.0/8"), addrs: addrs("10.0.0.1")}, "10.0.0.4/30", "hides the host's route 10.0.0.0/8"},
		{"two routes", hostNet{routes: prefixes("10.0.0.0/8", "fd00::/16")}, "10.0.0.0/30", "hides the host's route 10.0.0.0/8, fd00::/16"},
		{"addresses everywhere", hostNet{local: prefixes("10.0.0.0/8")}, "", ""},
	} {
		d := testDirs(t)
		c, warning, err := d.claimBlock(mustPool(t, "10.0.0.0/28", "fd00::/62"), tt.host)
		if tt.want == "" {
			if !errors.Is(err, errPoolFull) {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := c.block.Prefix4.String(); got != tt.want {
			t.Errorf("%s: block %s, want %s", tt.name, got, tt.want)
		}
		if (warning == "") != (tt.warning == "") || !strings.Contains(warning, tt.warning) {
			t.Errorf("%s: warning %q, want %q", tt.name, warning, tt.warning)
		}
		if err := c.release(); err != nil {
			t.Error(err)
		}
	}
}

// TestBlocksAreRecycled checks the order of claims, what others are told of
// them, and that pools may overlap.
func TestBlocksAreRecycled(t *testing.T) {
	t.Parallel()
	d := testDirs(t)
	pool := mustPool(t, "10.0.0.0/28", "fd00::/62")
	claim := func(pool vnet.Pool) *blockClaim {
		t.Helper()
		c, _, err := d.claimBlock(pool, hostNet{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	a, b := claim(pool), claim(pool)
	if b.block.Prefix4 != netip.MustParsePrefix("10.0.0.4/30") || b.block.Prefix6 != netip.MustParsePrefix("fd00:0:0:1::/64") {
		t.Errorf("second block %v, %v", b.block.Prefix4, b.block.Prefix6)
	}
	if a.block.GuestMAC.String() == b.block.GuestMAC.String() {
		t.Error("two guests have one MAC")
	}
	held, err := d.heldBlocks(a.block)
	if want := prefixes("10.0.0.4/30", "fd00:0:0:1::/64"); err != nil || !slices.Equal(held, want) {
		t.Errorf("held by others: %v, %v, want %v", held, err, want)
	}
	// A block is its addresses, whatever pool it was cut from.
	if _, _, err := d.claimBlock(mustPool(t, "10.0.0.4/30", "fd00:1::/64"), hostNet{}); !errors.Is(err, errPoolFull) {
		t.Errorf("the same IPv4 block from another pool: %v", err)
	}
	if _, _, err := d.claimBlock(mustPool(t, "10.9.0.0/30", "fd00::/64"), hostNet{}); !errors.Is(err, errPoolFull) {
		t.Errorf("the same IPv6 block from another pool: %v", err)
	}
	// The lowest that is free comes first, a dead sandbox's too.
	for _, f := range a.locks {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	again := claim(pool)
	if again.block.Prefix4 != a.block.Prefix4 {
		t.Errorf("a dead sandbox's block is not claimed again, but %v", again.block.Prefix4)
	}
	third, fourth := claim(pool), claim(pool)
	_, _, err = d.claimBlock(pool, hostNet{})
	if want := "pool is full: 10.0.0.0/28 and fd00::/62 has 4 blocks"; err == nil || err.Error() != want {
		t.Errorf("a full pool: %v, want %s", err, want)
	}
	for _, c := range []*blockClaim{again, b, third, fourth} {
		if err := errors.Join(c.release(), c.release()); err != nil {
			t.Error(err)
		}
	}
	if held, err := d.heldBlocks(a.block); err != nil || len(held) != 0 {
		t.Errorf("held in the end: %v, %v", held, err)
	}
}

// TestSweepBlocks checks that locks which nobody holds go, and others stay.
func TestSweepBlocks(t *testing.T) {
	t.Parallel()
	d := testDirs(t)
	pool := mustPool(t, "10.0.0.0/28", "fd00::/62")
	var claims []*blockClaim
	for range 3 {
		c, _, err := d.claimBlock(pool, hostNet{})
		if err != nil {
			t.Fatal(err)
		}
		claims = append(claims, c)
	}
	for _, f := range claims[1].locks { // its holder died
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Sweep(); err != nil {
		t.Fatal(err)
	}
	for i, c := range claims {
		_, err := os.Stat(c.locks[0].Name())
		if left := err == nil; left != (i != 1) {
			t.Errorf("block %d: its lock is left: %v", i, left)
		}
	}
	if err := errors.Join(claims[0].release(), claims[2].release()); err != nil {
		t.Error(err)
	}
}

// TestBlockFile checks that names of locks and blocks go both ways.
func TestBlockFile(t *testing.T) {
	t.Parallel()
	for _, p := range prefixes("172.16.0.4/30", "fd42:6d73:62:7::/64") {
		if got, ok := blockPrefix(blockFile(p)); !ok || got != p {
			t.Errorf("%v is %q is %v", p, blockFile(p), got)
		}
	}
	if _, ok := blockPrefix("README"); ok {
		t.Error("README is a block")
	}
}

// TestLastAddr checks the highest address of prefixes.
func TestLastAddr(t *testing.T) {
	t.Parallel()
	for prefix, want := range map[string]string{
		"10.0.0.0/8": "10.255.255.255", "10.0.0.4/30": "10.0.0.7", "10.0.0.1/32": "10.0.0.1", "0.0.0.0/0": "255.255.255.255", "10.1.2.3/12": "10.15.255.255",
		"fd00::/64": "fd00::ffff:ffff:ffff:ffff", "fd00::/63": "fd00::1:ffff:ffff:ffff:ffff", "::1/128": "::1", "fd00::/8": "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
	} {
		if got := lastAddr(netip.MustParsePrefix(prefix)); got.String() != want {
			t.Errorf("lastAddr(%s) is %v, want %s", prefix, got, want)
		}
	}
}
