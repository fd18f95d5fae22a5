package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/sluicenet/sluice/policy"
)

func TestLookup(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone("x.example. 60 IN A 93.184.1.1", "x.example. 60 IN AAAA 2606:2800::1", "four.example. 60 IN A 93.184.1.4", "text.example. 60 IN TXT x"))
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}, Policy: rulesOf(t, policy.Deny, "deny evil.example", "allow public")})
	for _, tt := range []struct{ name, want, err string }{
		{"x.example", "[93.184.1.1 2606:2800::1]", ""},
		{"X.Example.", "[93.184.1.1 2606:2800::1]", ""},
		{"four.example", "[93.184.1.4]", ""},
		{"host.docker.internal", "[172.16.0.1 fd42:6d73:62::1]", ""},
		{"text.example", "[]", `look up "text.example": no address`},
		{"none.example", "[]", `look up "none.example": answer is NXDOMAIN`},
		{"evil.example", "[]", `look up "evil.example": answer is NXDOMAIN`},
		{"a..b", "[]", `look up "a..b": dns: bad rdata`},
	} {
		got, err := s.Lookup(t.Context(), tt.name)
		if fmt.Sprint(got) != tt.want || (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
			t.Errorf("%s: got %v, %v, want %s, %s", tt.name, got, err, tt.want, tt.err)
		}
	}
	if names := s.AppendNames(nil, netip.MustParseAddr("93.184.1.4"), time.Now()); !slices.Equal(names, []string{"four.example"}) {
		t.Errorf("names: got %q", names)
	}
}
