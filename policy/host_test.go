package policy

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		want  string
		addrs string
	}{
		{"public", "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255 169.255.0.0"},
		{"public", "172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.0.3.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255"},
		{"public", "192.31.196.1 192.52.193.1 192.175.48.1 198.51.99.255 198.51.101.0 203.0.112.255 203.0.114.0 192.88.98.255 192.88.100.0"},
		{"public", "2606:4700::1 2000:: 3ffe:ffff::1 2001:200::1 2001:dc0::1 2001:3::1 2001:4:112::1 2001:20::1 2001:30::1 2620:4f:8000::1 3fff:1000::1"},
		{"private", "10.0.0.0 10.255.255.255 172.16.0.9 172.31.255.255 192.168.0.0 192.168.255.255 100.64.0.0 100.127.255.255 fc00::1 fdff::1"},
		{"loopback", "127.0.0.0 127.0.0.1 127.255.255.255 ::1"},
		{"link-local", "169.254.0.0 169.254.255.255 169.254.169.253 fe80::1 febf::1 fe80::10"},
		{"metadata", "169.254.169.254 fd00:ec2::254 fd20:ce::254 169.254.170.2 169.254.170.23 fd00:ec2::23 100.100.100.200"},
		{"metadata", "168.63.129.16 192.0.0.192 169.254.0.23 169.254.10.10 169.254.42.42"},
		{"multicast", "224.0.0.0 224.0.0.251 239.255.255.250 ff00::1 ff02::fb"},
		{"host", "172.16.0.1 fd42:6d73:62::1 192.168.1.10 203.0.114.7 2a00:1::10"},
		{"reserved", "0.0.0.0 0.1.2.3 192.0.0.1 192.0.0.9 192.0.2.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 192.88.99.1 240.0.0.1 255.255.255.255"},
		{"reserved", ":: ::2 ::10.0.0.5 100::1 64:ff9b:1::1 2001:db8::1 2002::1 2001::1 2001:1::4 2001:2::1 2001:10::1 2001:1ff::1 3fff::1 3fff:fff::1"},
		{"reserved", "5f00::1 fec0::1 4000::1 1fff::1 e000::1 fe00::1 64:ff9b:0:1::1"},
		{"reserved", "2606::5efe:a00:5 2606::200:5efe:a00:5 fd00::5efe:a00:5"}, // ISATAP
		{"public", "2606::5eff:a00:5 2606::100:5efe:a00:5"},

		// The mapped form and zones are ignored; NAT64 shows what is inside.
		{"private", "::ffff:10.0.0.5"},
		{"metadata", "::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 2001:db8:64::169.254.169.254 2a00:64:a9fe:a9fe::"},
		{"link-local", "fe80::1%eth0"},
		{"public", "64:ff9b::1.1.1.1 2a00:64:101:101::"},
		{"host", "64:ff9b::172.16.0.1 64:ff9b::192.168.1.10"},
		{"reserved", "64:ff9b::192.0.2.1 2001:db8:65::1"},
	} {
		for _, a := range addrs(row.addrs) {
			if got := testHost.Classify(a).String(); got != row.want {
				t.Errorf("%v is %s, want %s", a, got, row.want)
			}
		}
	}
	if g := testHost.Classify(netip.Addr{}); g != GroupNone {
		t.Errorf("the zero Addr is %v", g)
	}
	var nobody *Host
	for a, want := range map[string]Group{"172.16.0.1": GroupPrivate, "2606::1": GroupPublic, "64:ff9b::10.0.0.5": GroupPrivate} {
		if g := nobody.Classify(netip.MustParseAddr(a)); g != want {
			t.Errorf("without a host %s is %v", a, g)
		}
	}
}

func TestAlwaysDenied(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ want, addrs string }{
		{deniedUnspecified, "0.0.0.0 :: 64:ff9b::0.0.0.0"},
		{deniedThisNetwork, "0.0.0.1 0.255.255.255"},
		{deniedLoopback, "127.0.0.1 ::1 64:ff9b::127.0.0.1"},
		{deniedMapped, "::ffff:1.1.1.1 ::ffff:127.0.0.1"},
		{deniedCompatible, "::1.1.1.1 ::2"},
		{deniedMulticast, "224.0.0.1 ff02::1"},
		{deniedBroadcast, "240.0.0.0 255.255.255.255"},
		{deniedLinkLocal6, "fe80::1 fe80::10 fe80::1%eth0 2606::1%eth0"},
		{deniedOther, "172.16.0.4 172.16.0.5 172.16.0.7 fd42:6d73:62:1::1 64:ff9b::172.16.0.5"},
		{deniedBlockEdge, "172.16.0.0 172.16.0.3 fd42:6d73:62::"},
		{deniedNAT64Host, "64:ff9b::172.16.0.1 64:ff9b::192.168.1.10 2a00:64:ac10:1::"},
		{deniedNAT64None, "64:ff9b::192.0.2.1 64:ff9b::198.18.0.1"},
		{"", "1.1.1.1 10.0.0.5 172.16.0.1 172.16.0.2 172.16.0.8 192.168.1.10 169.254.169.254 169.254.1.1 192.0.2.1 198.18.0.1"},
		{"", "2606::1 fd42:6d73:62::1 fd42:6d73:62::2 fd42:6d73:62::ffff 64:ff9b::1.1.1.1 2001:db8::1 2002::1 fec0::1 64:ff9b:1::1"},
	} {
		for _, a := range addrs(row.addrs) {
			if why, denied := testHost.AlwaysDenied(a); why != row.want || denied != (row.want != "") {
				t.Errorf("%v: %q, want %q", a, why, row.want)
			}
		}
	}
	var nobody *Host
	if why, _ := nobody.AlwaysDenied(netip.MustParseAddr("127.0.0.1")); why != deniedLoopback {
		t.Errorf("loopback without a host: %q", why)
	}
	if why, denied := nobody.AlwaysDenied(netip.MustParseAddr("1.1.1.1")); denied {
		t.Errorf("a public address without a host: %q", why)
	}
	if _, denied := nobody.AlwaysDenied(netip.Addr{}); !denied {
		t.Error("the zero Addr is not denied")
	}
}

// RFC 6052 section 2.4 gives 192.0.2.33 in every form.
func TestEmbedded(t *testing.T) {
	t.Parallel()
	want := netip.MustParseAddr("192.0.2.33")
	for _, row := range []struct{ prefix, addr string }{
		{"2001:db8::/32", "2001:db8:c000:221::"},
		{"2001:db8:100::/40", "2001:db8:1c0:2:21::"},
		{"2001:db8:122::/48", "2001:db8:122:c000:2:2100::"},
		{"2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"},
		{"2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"},
		{"2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"},
	} {
		h := &Host{NAT64: prefixes(row.prefix)}
		if got, ok := h.nat64(netip.MustParseAddr(row.addr)); !ok || got != want {
			t.Errorf("%s in %s: %v %v", row.addr, row.prefix, got, ok)
		}
	}
	odd := &Host{NAT64: prefixes("2001:db8::/33 10.0.0.0/32")}
	for _, a := range addrs("2001:db8::1 10.0.0.0") {
		if got, ok := odd.nat64(a); ok {
			t.Errorf("%v holds %v", a, got)
		}
	}
}

// TestNAT64Liar has a resolver call prefixes NAT64 that hold special addresses:
// these stay what they are.
func TestNAT64Liar(t *testing.T) {
	t.Parallel()
	h := &Host{
		Gateways: addrs("fd42:6d73:62::1"),
		Addrs:    addrs("2a00:1::5054:aa:fe12:3456"),
		NAT64:    prefixes("fe80::/96 ::/96 ff02::/96 2a00:1::/64 fd42:6d73:62::/96 fd20:ce::/32 2a00:64::/96"),
	}
	for _, row := range []struct {
		addr   string
		want   Group
		denied string
	}{
		{"fe80::808:808", GroupLinkLocal, deniedLinkLocal6},
		{"::808:808", GroupNone, deniedCompatible},
		{"ff02::808:808", GroupMulticast, deniedMulticast},
		{"2a00:1::5054:aa:fe12:3456", GroupHost, ""}, // would be 84.0.170.254
		{"fd42:6d73:62::1", GroupHost, ""},
		{"fd20:ce::254", GroupMetadata, ""},
		{"2a00:64::808:808", GroupPublic, ""}, // and an honest one
	} {
		a := netip.MustParseAddr(row.addr)
		if got := h.Classify(a); got != row.want {
			t.Errorf("%s is %v, want %v", row.addr, got, row.want)
		}
		if why, _ := h.AlwaysDenied(a); why != row.denied {
			t.Errorf("%s: %q, want %q", row.addr, why, row.denied)
		}
	}
}

// Every address has the class that the contract's order gives it, at the edges
// of all ranges and at random.
func TestClassifyAgreesWithModel(t *testing.T) {
	t.Parallel()
	var all []netip.Addr
	for p := range classes.All() {
		for _, a := range []netip.Addr{p.Addr(), p.Addr().Prev(), lastAddress(p), lastAddress(p).Next()} {
			if a.IsValid() {
				all = append(all, a)
			}
			if a.Is4() {
				all = append(all, nat64Form(a))
			}
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		var b [16]byte
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		all = append(all, netip.AddrFrom16(b), netip.AddrFrom4([4]byte(b[:4])))
	}
	for _, a := range all {
		if a.Is4In6() {
			continue
		}
		inner, _ := modelInner(testHost, a)
		if got, want := testHost.Classify(a), modelClass(testHost, inner); got != want {
			t.Errorf("%v is %v, want %v", a, got, want)
		}
		if _, got := testHost.AlwaysDenied(a); got != modelAlways(testHost, a) {
			t.Errorf("%v always denied: %v", a, got)
		}
	}
}

// TestHostRanges checks that a prefix that the host answers for as a whole is the
// host, whatever else it would be.
func TestHostRanges(t *testing.T) {
	t.Parallel()
	h := &Host{Ranges: prefixes("1.2.3.0/24 10.5.0.0/16 2a00:5::/64")}
	for _, row := range []struct {
		addr string
		want Group
	}{
		{"1.2.3.77", GroupHost}, {"1.2.4.1", GroupPublic}, {"10.5.0.1", GroupHost}, {"10.6.0.1", GroupPrivate},
		{"2a00:5::9", GroupHost}, {"2a00:6::9", GroupPublic}, {"::ffff:1.2.3.4", GroupHost},
	} {
		if got := h.Classify(netip.MustParseAddr(row.addr)); got != row.want {
			t.Errorf("%s is %v, want %v", row.addr, got, row.want)
		}
	}
	if why, denied := h.AlwaysDenied(netip.MustParseAddr("64:ff9b::1.2.3.4")); !denied {
		t.Errorf("the host inside NAT64 may be allowed: %s", why)
	}
}
