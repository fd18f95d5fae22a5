package vnet

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/sluicenet/sluice/vnet/link"
)

const gatewayLocal = "fe80::73:acff:fe10:1"

func testNeighbour(t testing.TB) *neighbour {
	return &neighbour{guard: newGuard(testBlock(t), 1500), builder: newBuilder(testBlock(t), 1500)}
}

// ask passes a frame through the guard and asks the neighbour.
func (n *neighbour) ask(t testing.TB, f link.Frame) ([]link.Frame, drop) {
	t.Helper()
	var p packet
	if d := n.guard.check(&f, &p); d != dropNone {
		t.Fatalf("the guard dropped it: %v", d)
	}
	var out batch
	d := n.answer(&out, &p)
	if (len(out.frames) == 1) != (d == dropNone) {
		t.Errorf("%d frames, but %v", len(out.frames), d)
	}
	return out.frames, d
}

func TestARP(t *testing.T) {
	t.Parallel()
	n := testNeighbour(t)
	rows := []struct {
		name   string
		frame  link.Frame
		answer bool
	}{
		{"who has the gateway", arp(1, guestMAC, guest4, gateway4), true},
		{"asked again, of the gateway alone", arp(1, guestMAC, guest4, gateway4, to(gatewayMAC)), true},
		{"probe for the gateway's address", arp(1, guestMAC, "0.0.0.0", gateway4), true},
		{"probe of its own address", arp(1, guestMAC, "0.0.0.0", guest4), false},
		{"L-03 gratuitous for its own", arp(1, guestMAC, guest4, guest4), false},
		{"L-03 gratuitous for the gateway's", arp(1, guestMAC, gateway4, gateway4), false},
		{"L-03 reply that claims the gateway's", arp(2, guestMAC, gateway4, guest4), false},
		{"L-03 for another address", arp(1, guestMAC, guest4, "172.16.0.6"), false},
		{"L-03 for a public address", arp(1, guestMAC, guest4, remote4), false},
		{"L-03 from another address", arp(1, guestMAC, "10.0.0.1", gateway4), false},
		{"L-03 for another card", arp(1, "02:00:00:00:00:09", guest4, gateway4), false},
		{"L-03 unknown operation", arp(9, guestMAC, guest4, gateway4), false},
	}
	for _, r := range rows {
		frames, d := n.ask(t, r.frame)
		if (d == dropNone) != r.answer || d != dropNone && d != dropARP {
			t.Errorf("%s: %v", r.name, d)
		}
		for _, f := range frames {
			a := decode(t, f).Layer(layers.LayerTypeARP).(*layers.ARP)
			asked := gopacket.NewPacket(r.frame.Data, layers.LayerTypeEthernet, gopacket.Default).Layer(layers.LayerTypeARP).(*layers.ARP)
			if a.Operation != 2 || !bytes.Equal(a.SourceHwAddress, mac(gatewayMAC)) || addrOf(a.SourceProtAddress).String() != gateway4 ||
				!bytes.Equal(a.DstHwAddress, mac(guestMAC)) || !bytes.Equal(a.DstProtAddress, asked.SourceProtAddress) {
				t.Errorf("%s: answered %+v", r.name, a)
			}
		}
	}
}

func TestNeighborSolicitation(t *testing.T) {
	t.Parallel()
	const sourceOption = "\x01\x01\x02\x73\xac\x10\x00\x02"
	n := testNeighbour(t)
	group6 := to("33:33:ff:00:00:01")
	rows := []struct {
		name   string
		frame  link.Frame
		answer string // whom; "" is nobody
		flags  byte
	}{
		{"who has the gateway", solicit(guest6, "ff02::1:ff00:1", gateway6, sourceOption, group6), guest6, 0xe0},
		{"asked again, of the gateway alone", solicit(guest6, gateway6, gateway6, ""), guest6, 0xe0},
		{"from a link-local address", solicit("fe80::2", "ff02::1:ff00:1", gateway6, sourceOption, group6), "fe80::2", 0xe0},
		{"for the gateway's link-local address", solicit("fe80::2", "ff02::1:ff10:1", gatewayLocal, sourceOption, group6), "fe80::2", 0xe0},
		{"from another address of the /64", solicit("fd42:6d73:62::77", gateway6, gateway6, sourceOption), "fd42:6d73:62::77", 0xe0},
		{"probe for the gateway's address", solicit("::", "ff02::1:ff00:1", gateway6, "", group6), "ff02::1", 0xa0},
		{"probe with a source option", solicit("::", "ff02::1:ff00:1", gateway6, sourceOption, group6), "", 0},
		{"probe to the wrong group", solicit("::", "ff02::1", gateway6, "", group6), "", 0},
		{"probe of its own address", solicit("::", "ff02::1:ff00:2", guest6, "", group6), "", 0},
		{"for another address", solicit(guest6, "ff02::1:ff00:9", "fd42:6d73:62::9", sourceOption, group6), "", 0},
		{"for a public address", solicit(guest6, gateway6, remote6, ""), "", 0},
		{"L-05 option of no length", solicit(guest6, gateway6, gateway6, "\x01\x00\x00\x00\x00\x00\x00\x00"), "", 0},
		{"L-05 option behind the end", solicit(guest6, gateway6, gateway6, "\x01\x02\x00\x00\x00\x00\x00\x00"), "", 0},
		{"L-05 cut option", solicit(guest6, gateway6, gateway6, "\x01\x01\x00\x00"), "", 0},
		{"unknown option", solicit(guest6, gateway6, gateway6, "\xfe\x01\x00\x00\x00\x00\x00\x00"), guest6, 0xe0},
		{"cut target", icmp(guest6, gateway6, 135, 0, "\x00\x00\x00\x00\xfd\x42", hops(255)), "", 0},
		{"router solicitation", icmp("fe80::2", "ff02::2", 133, 0, "", hops(255), group6), "", 0},
	}
	for _, r := range rows {
		frames, d := n.ask(t, r.frame)
		if (d == dropNone) != (r.answer != "") || d != dropNone && d != dropNDP {
			t.Errorf("%s: %v", r.name, d)
		}
		for _, f := range frames {
			o := decode(t, f)
			ip := o.NetworkLayer().(*layers.IPv6)
			na, ok := o.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
			if !ok || ip.HopLimit != 255 || ip.DstIP.String() != r.answer || na.Flags != r.flags {
				t.Errorf("%s: answered %v", r.name, o)
				continue
			}
			if target := addrOf(na.TargetAddress); addrOf(ip.SrcIP) != target || target != netip.MustParseAddr(gateway6) && target != netip.MustParseAddr(gatewayLocal) {
				t.Errorf("%s: %v advertises %v", r.name, ip.SrcIP, target)
			}
			if len(na.Options) != 1 || na.Options[0].Type != layers.ICMPv6OptTargetAddress || !bytes.Equal(na.Options[0].Data, mac(gatewayMAC)) {
				t.Errorf("%s: options %v", r.name, na.Options)
			}
			if dst := o.LinkLayer().(*layers.Ethernet).DstMAC.String(); r.answer == "ff02::1" && dst != "33:33:00:00:00:01" {
				t.Errorf("%s: sent to %s", r.name, dst)
			}
		}
	}
}

func TestNeighbourAllocatesNothing(t *testing.T) {
	n := testNeighbour(t)
	var pa, ps packet
	a, s := arp(1, guestMAC, guest4, gateway4), solicit(guest6, gateway6, gateway6, "")
	n.guard.check(&a, &pa)
	n.guard.check(&s, &ps)
	var out batch
	if k := testing.AllocsPerRun(100, func() {
		out.reset()
		n.answer(&out, &pa)
		n.answer(&out, &ps)
	}); k != 0 {
		t.Errorf("%v allocations", k)
	}
}

// FuzzNeighbour: whatever passes the guard is answered soundly or not at all.
func FuzzNeighbour(f *testing.F) {
	n := testNeighbour(f)
	f.Add(arp(1, guestMAC, guest4, gateway4).Data)
	f.Add(solicit(guest6, gateway6, gateway6, "\x01\x01\x02\x73\xac\x10\x00\x02").Data)
	f.Add(solicit("::", "ff02::1:ff00:1", gateway6, "", to("33:33:ff:00:00:01")).Data)
	f.Fuzz(func(t *testing.T, data []byte) {
		fr := link.Frame{Data: data, Offload: link.Offload{ChecksumValid: true}}
		var p packet
		if n.guard.check(&fr, &p) != dropNone || p.kind != kindARP && p.kind != kindNDP {
			return
		}
		var out batch
		if d := n.answer(&out, &p); (d == dropNone) != (len(out.frames) == 1) {
			t.Errorf("%d frames, but %v", len(out.frames), d)
		}
		for _, f := range out.frames {
			decode(t, f)
		}
	})
}
