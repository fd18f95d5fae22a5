package dns

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestRoster(t *testing.T) {
	t.Parallel()
	a, b, c := netip.MustParseAddrPort("10.0.0.1:53"), netip.MustParseAddrPort("10.0.0.2:53"), netip.MustParseAddrPort("10.0.0.3:53")
	all := []netip.AddrPort{a, b, c}
	var r roster
	check := func(what string, after time.Duration, want ...netip.AddrPort) {
		t.Helper()
		if got := r.order(all, epoch.Add(after)); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	check("nobody asked yet", 0, a, b, c)
	r.timedOut(a, epoch)
	check("a was silent", 0, b, c, a)
	r.timedOut(b, epoch.Add(10*time.Second))
	check("b too", 10*time.Second, c, a, b)
	check("a's time is over", penalty, a, c, b)
	check("b's too", penalty+10*time.Second, a, b, c)
	r.timedOut(a, epoch)
	r.learn(a, upstreamState{noEDNS: true}, false)
	check("an error is no answer", 0, c, a, b)
	r.learn(a, upstreamState{noEDNS: true}, true)
	check("an answer is", 0, a, c, b)
	if !r.state(a).noEDNS || r.state(b).noEDNS {
		t.Errorf("learnt: got %+v for a, %+v for b", r.state(a), r.state(b))
	}
	r.reset()
	if r.state(a).noEDNS {
		t.Error("reset forgot nothing")
	}
}
