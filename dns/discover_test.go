package dns

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/sluicenet/sluice/policy"
)

func TestNAT64Prefixes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ addr, want string }{
		{"64:ff9b::192.0.0.170", "[64:ff9b::/96]"},
		{"64:ff9b::192.0.0.171", "[64:ff9b::/96]"},
		// RFC 6052, section 2.4, with 192.0.0.170 for 192.0.2.33.
		{"2001:db8:c000:aa::", "[2001:db8::/32]"},
		{"2001:db8:1c0:0:aa::", "[2001:db8:100::/40]"},
		{"2001:db8:122:c000:0:aa00::", "[2001:db8:122::/48]"},
		{"2001:db8:122:3c0:0:aa::", "[2001:db8:122:300::/56]"},
		{"2001:db8:122:344:c0:0:aa00::", "[2001:db8:122:344::/64]"},
		{"2001:db8:122:344::192.0.0.170", "[2001:db8:122:344::/96]"},
		{"2001:db8:122:344:ff00::192.0.0.170", "[2001:db8:122:344:ff00::/96]"}, // no octet of zeros there
		{"2001:db8:122:344:ffc0:0:aa00::", "[]"},                               // but here
		{"2001:db8::192.0.0.169", "[]"},
		{"192.0.0.170", "[]"},
	} {
		if got := fmt.Sprint(nat64Prefixes(netip.MustParseAddr(tt.addr))); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.addr, got, tt.want)
		}
	}
}

func TestDiscover(t *testing.T) {
	t.Parallel()
	const a4 = "ipv4only.arpa. 60 IN A 192.0.0.170"
	for _, tt := range []struct {
		name  string
		lines []string
		want  string
		err   bool
	}{
		{"nothing special", []string{a4}, "{[] false}", false},
		{"NAT64", []string{a4, "ipv4only.arpa. 60 IN AAAA 2001:67c:27e4::192.0.0.170", "ipv4only.arpa. 60 IN AAAA 2001:67c:27e4::192.0.0.171"}, "{[2001:67c:27e4::/96] false}", false},
		{"two prefixes", []string{a4, "ipv4only.arpa. 60 IN AAAA 2001:67c:27e4::192.0.0.170", "ipv4only.arpa. 60 IN AAAA 2001:67c:27e5::192.0.0.170"}, "{[2001:67c:27e4::/96 2001:67c:27e5::/96] false}", false},
		{"proxy", []string{"ipv4only.arpa. 60 IN A 198.18.0.42"}, "{[] true}", false},
		{"name unknown", nil, "{[] false}", false},
	} {
		up := newAuthority(t, zone(tt.lines...))
		// Policy doesn't apply: it is we who ask.
		s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}, Policy: rulesOf(t, policy.Deny, "allow example.com")})
		got, err := s.Discover(t.Context())
		if fmt.Sprint(got) != tt.want || (err != nil) != tt.err {
			t.Errorf("%s: got %v, %v, want %s", tt.name, got, err, tt.want)
		}
	}
	s := newServer(t, Config{Nameservers: []Nameserver{{Addr: netip.MustParseAddr("127.0.0.1"), Port: 1}}})
	if got, err := s.Discover(t.Context()); err == nil {
		t.Errorf("nobody there: got %v, want an error", got)
	}
}
