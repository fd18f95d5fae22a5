package policy

import (
	"net/netip"
	"testing"
)

func TestSmoke(t *testing.T) {
	for _, s := range []string{"allow egress api.example.com tcp 443", "deny any 10.0.0.0/8 tcp,udp 80,8000-9000", "deny egress meta.", "allow egress .com", "allow egress * 443", "allow egress metadata", "allow egress ::1"} {
		r, err := ParseRule(s)
		if err != nil || r.String() != s {
			t.Errorf("%q: %q %v", s, r, err)
		}
	}
	for _, s := range []string{"", "allow", "allow egress", "allow meta", "allow *.example.com", "allow 127.1", "allow egress localhost", "deny ingress a.b", "allow a.b icmpv4 80"} {
		_, err := ParseRule(s)
		t.Logf("%q: %v", s, err)
	}
	c, _ := Preset(PresetPublicOnly)
	p, _ := New(c)
	h := &Host{Gateways: []netip.Addr{netip.MustParseAddr("172.16.0.1")}}
	for _, s := range []string{"1.1.1.1:443", "10.0.0.5:80", "172.16.0.1:53", "172.16.0.1:80", "169.254.169.254:80", "127.0.0.1:80", "[64:ff9b::a9fe:a9fe]:80"} {
		t.Logf("%s %+v", s, p.Decide(h, Flow{Direction: Egress, Protocol: TCP, Peer: netip.MustParseAddrPort(s)}, Evidence{}))
	}
}
