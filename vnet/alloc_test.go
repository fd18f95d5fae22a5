package vnet

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

func TestNewPool(t *testing.T) {
	t.Parallel()
	rows := []struct {
		prefix4, prefix6 string
		capacity         int
		want             string // the prefixes, or a part of the error
	}{
		{"", "", 65536, "172.16.0.0/12 and fd42:6d73:62::/48"},
		{"10.0.0.0/8", "", 65536, "10.0.0.0/8 and fd42:6d73:62::/48"},
		{"10.1.2.3/24", "fd00::5/56", 64, "10.1.2.0/24 and fd00::/56"},
		{"10.0.0.0/30", "fd00::/64", 1, "10.0.0.0/30 and fd00::/64"},
		{"10.0.0.0/8", "fd00::/63", 2, "10.0.0.0/8 and fd00::/63"},
		{"0.0.0.0/0", "::/0", 1 << 30, "0.0.0.0/0 and ::/0"},
		{"10.0.0.0/31", "", 0, "longer than /30"},
		{"10.0.0.0/32", "", 0, "longer than /30"},
		{"", "fd00::/65", 0, "longer than /64"},
		{"fd00::/48", "", 0, "not an IPv4 prefix"},
		{"", "10.0.0.0/8", 0, "not an IPv6 prefix"},
		{"::ffff:10.0.0.0/104", "", 0, "not an IPv4 prefix"},
		{"", "::ffff:10.0.0.0/64", 0, "not an IPv6 prefix"},
	}
	for _, r := range rows {
		p, err := NewPool(parsePrefix(r.prefix4), parsePrefix(r.prefix6))
		if err != nil {
			if r.capacity != 0 || !strings.Contains(err.Error(), r.want) {
				t.Errorf("NewPool(%q, %q): %v, want %q", r.prefix4, r.prefix6, err, r.want)
			}
			continue
		}
		if p.Capacity() != r.capacity || p.String() != r.want {
			t.Errorf("NewPool(%q, %q) = %v, capacity %d; want %s, %d", r.prefix4, r.prefix6, p, p.Capacity(), r.want, r.capacity)
		}
	}
	if _, err := NewPool(netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), 40), netip.Prefix{}); err == nil {
		t.Error("a prefix that is not valid was taken")
	}
	if _, ok := (Pool{}).Block(0); ok || (Pool{}).Capacity() != 0 {
		t.Error("the zero Pool has a block")
	}
}

func parsePrefix(s string) netip.Prefix {
	if s == "" {
		return netip.Prefix{}
	}
	return netip.MustParsePrefix(s)
}

// TestBlock is the contract's layout: network +0, gateway +1, guest +2,
// broadcast +3; ::1 and ::2.
func TestBlock(t *testing.T) {
	t.Parallel()
	rows := []struct {
		i                                             int
		prefix4, prefix6, gw4, gw6, guest4, guest6, m string
	}{
		{0, "172.16.0.0/30", "fd42:6d73:62::/64", "172.16.0.1", "fd42:6d73:62::1", "172.16.0.2", "fd42:6d73:62::2", "02:73:ac:10:00:02"},
		{1, "172.16.0.4/30", "fd42:6d73:62:1::/64", "172.16.0.5", "fd42:6d73:62:1::1", "172.16.0.6", "fd42:6d73:62:1::2", "02:73:ac:10:00:06"},
		{64, "172.16.1.0/30", "fd42:6d73:62:40::/64", "172.16.1.1", "fd42:6d73:62:40::1", "172.16.1.2", "fd42:6d73:62:40::2", "02:73:ac:10:01:02"},
		{65535, "172.19.255.252/30", "fd42:6d73:62:ffff::/64", "172.19.255.253", "fd42:6d73:62:ffff::1", "172.19.255.254", "fd42:6d73:62:ffff::2", "02:73:ac:13:ff:fe"},
	}
	p, err := NewPool(netip.Prefix{}, netip.Prefix{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		b, ok := p.Block(r.i)
		if !ok {
			t.Fatalf("block %d: none", r.i)
		}
		for got, want := range map[string]string{
			b.Prefix4.String(): r.prefix4, b.Prefix6.String(): r.prefix6, b.Gateway4.String(): r.gw4, b.Gateway6.String(): r.gw6,
			b.Guest4.String(): r.guest4, b.Guest6.String(): r.guest6, b.GuestMAC.String(): r.m,
		} {
			if got != want {
				t.Errorf("block %d: got %s, want %s", r.i, got, want)
			}
		}
	}
	for _, i := range []int{-1, 65536, 1 << 40} {
		if b, ok := p.Block(i); ok {
			t.Errorf("block %d: %v", i, b)
		}
	}
}

// TestBlocksAreDisjoint checks what must hold for any two blocks of any pool.
func TestBlocksAreDisjoint(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		prefix4 := netip.PrefixFrom(addr4(rnd.Uint32()), 1+rnd.IntN(30))
		prefix6 := netip.PrefixFrom(addr6(rnd.Uint64()|1<<63, rnd.Uint64()), 1+rnd.IntN(64))
		p, err := NewPool(prefix4, prefix6)
		if err != nil {
			t.Fatal(err)
		}
		i, j := rnd.IntN(p.Capacity()), rnd.IntN(p.Capacity())
		a, ok1 := p.Block(i)
		b, ok2 := p.Block(j)
		if !ok1 || !ok2 {
			t.Fatalf("%v: no block %d or %d", p, i, j)
		}
		if i != j && (a.Prefix4.Overlaps(b.Prefix4) || a.Prefix6.Overlaps(b.Prefix6) || a.GuestMAC.String() == b.GuestMAC.String()) {
			t.Errorf("%v: blocks %d and %d overlap: %v, %v", p, i, j, a, b)
		}
		if !prefix4.Contains(a.Guest4) || !prefix6.Contains(a.Guest6) || !a.Prefix4.Contains(a.Gateway4) || !a.Prefix6.Contains(a.Gateway6) {
			t.Errorf("%v: block %d lies outside: %v", p, i, a)
		}
		if a.GuestMAC[0]&3 != 2 || a.GatewayMAC[0]&3 != 2 || a.GuestMAC.String() == a.GatewayMAC.String() {
			t.Errorf("%v: MACs %v and %v are not local unicast ones", p, a.GuestMAC, a.GatewayMAC)
		}
		for _, addr := range []netip.Addr{a.Guest4, a.Gateway4, a.Prefix4.Addr(), a.Guest6, a.Gateway6} {
			if k, ok := p.Index(addr); !ok || k != i {
				t.Errorf("%v: Index(%v) = %d, %v; want %d", p, addr, k, ok, i)
			}
		}
	}
}

func TestIndexOutside(t *testing.T) {
	t.Parallel()
	p, err := NewPool(netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/60"))
	if err != nil {
		t.Fatal(err)
	}
	// The pool has 16 blocks: the IPv6 half is the smaller one.
	for _, s := range []string{"11.0.0.1", "10.0.0.64", "fd00:0:0:10::1", "::1", "::ffff:10.0.0.1"} {
		if i, ok := p.Index(netip.MustParseAddr(s)); ok {
			t.Errorf("Index(%s) = %d", s, i)
		}
	}
	if _, ok := p.Index(netip.Addr{}); ok {
		t.Error("the zero Addr has a block")
	}
}
