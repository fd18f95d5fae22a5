package dns

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/policy"
)

// TestEvents looks at what the record is told.
func TestEvents(t *testing.T) {
	t.Parallel()
	up := newAuthority(t, zone("x.example. 60 IN A 93.184.1.1", "lan.example. 60 IN A 10.0.0.1"))
	events := newRecorder()
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}, Events: events.add, Policy: rulesOf(t, policy.Deny, "deny .evil.io", "allow public")})
	for _, text := range []string{"X.example A", "x.example A", "a.evil.io TXT", "lan.example A", "none.example A", "host.docker.internal A", `a\.b.example A`, "example AXFR", "x.example NULL"} {
		ask(t, s, question(text))
	}
	s.SetPolicy(rulesOf(t, policy.Deny, "allow public"))
	ask(t, s, question("x.example A"))
	var got []string
	for _, e := range events.all(EventQuery) {
		if e.Time.IsZero() || e.Protocol != policy.UDP || e.Duration < 0 || e.Upstream.IsValid() != (e.Reason == "" || e.Name == "lan.example") {
			t.Errorf("event: %+v", e)
		}
		got = append(got, fmt.Sprintf("%s %s %s %v cached=%t gen=%d rule=%d %s", e.Name, e.QType, e.RCode, e.Addrs, e.Cached, e.Generation, e.Verdict.Rule, e.Reason))
	}
	want := []string{
		"x.example A NOERROR [93.184.1.1] cached=false gen=1 rule=1 ",
		"x.example A NOERROR [93.184.1.1] cached=true gen=1 rule=1 ",
		"a.evil.io TXT NXDOMAIN [] cached=false gen=1 rule=0 denied by Rules[0]: deny egress .evil.io",
		"lan.example A NXDOMAIN [] cached=false gen=1 rule=-1 rebind protection: 10.0.0.1 is private",
		"none.example A NXDOMAIN [] cached=false gen=1 rule=1 ",
		"host.docker.internal A NOERROR [172.16.0.1] cached=false gen=1 rule=-1 a host alias is always answered",
		" A NXDOMAIN [] cached=false gen=1 rule=-1 malformed name: no rule can be about it",
		"example AXFR REFUSED [] cached=false gen=1 rule=-1 no zone transfer through a forwarder",
		"x.example NULL NOERROR [] cached=false gen=1 rule=1 ",
		"x.example A NOERROR [93.184.1.1] cached=true gen=2 rule=0 ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
