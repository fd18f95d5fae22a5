package policy

import (
	"fmt"
	"net/netip"
	"testing"
)

// thousand returns 1000 rules by address, with ports and without, none of which
// decides the flows of the benchmarks before the last.
func thousand(tb testing.TB) *Policy {
	c := Config{}
	for i := range 999 {
		text := fmt.Sprintf("deny 10.%d.%d.0/24 tcp %d", i/256, i%256, 1+i*60)
		if i%2 == 0 {
			text = fmt.Sprintf("deny 10.%d.%d.%d", i/256, i%256, i%7)
		}
		r, err := ParseRule(text)
		if err != nil {
			tb.Fatal(err)
		}
		c.Rules = append(c.Rules, r)
	}
	r, _ := ParseRule("allow public")
	c.Rules = append(c.Rules, r)
	p, err := New(c)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func BenchmarkDecideAddress(b *testing.B) {
	p := thousand(b)
	h := &Host{Gateways: []netip.Addr{netip.MustParseAddr("172.16.0.1"), netip.MustParseAddr("fd42:6d73:62::1")}}
	for _, peer := range []string{"93.184.216.34:443", "10.3.230.9:443", "[2606:2800:220:1::1]:443"} {
		f := Flow{Direction: Egress, Protocol: TCP, Peer: netip.MustParseAddrPort(peer)}
		b.Run(peer, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Decide(h, f, Evidence{})
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	c := thousand(b).config
	b.Run("thousand", func(b *testing.B) {
		for b.Loop() {
			New(c)
		}
	})
	c, _ = Preset(PresetPublicOnly)
	b.Run("preset", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			New(c)
		}
	})
}
