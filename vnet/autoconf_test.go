package vnet

import (
	"encoding/binary"
	"errors"
	"maps"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
)

// autoconfOf returns an autoconf, and the guard in front of it.
func autoconfOf(t testing.TB, unusable Families) (*autoconf, *guard, Block) {
	t.Helper()
	pool, err := NewPool(netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("fd42:6d73:62::/48"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pool.Block(0)
	g, b := newGuard(block, 1400), newBuilder(block, 1400)
	return newAutoconf(block, 1400, g, b, func() Families { return unusable }), g, block
}

// lease asks a by DHCPv4 and returns the answer, nil for silence.
func lease(t testing.TB, a *autoconf, m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	t.Helper()
	var out batch
	frame := m.ToBytes()
	if a.answerDHCP4(&out, &packet{frame: frame, end: len(frame)}) != dropNone {
		return nil
	}
	p := gopacket.NewPacket(out.frames[0].Data, layers.LayerTypeEthernet, gopacket.Default)
	reply, err := dhcpv4.FromBytes(p.Layer(layers.LayerTypeUDP).(*layers.UDP).Payload)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

// TestDHCPv4 follows the exchanges of RFC 2131, section 3, with one lease.
func TestDHCPv4(t *testing.T) {
	t.Parallel()
	a, _, block := autoconfOf(t, 0)
	gateway, guest := net.IP(block.Gateway4.AsSlice()), net.IP(block.Guest4.AsSlice())
	message := func(kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
		mods = append(mods, dhcpv4.WithMessageType(kind), dhcpv4.WithHwAddr(block.GuestMAC))
		m, err := dhcpv4.New(mods...)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	asks := func(ip string) dhcpv4.Modifier {
		return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(ip)))
	}
	server := func(ip net.IP) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ip)) }
	stranger := dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 9})
	tests := []struct {
		name string
		in   *dhcpv4.DHCPv4
		want dhcpv4.MessageType
	}{
		{"discover", message(dhcpv4.MessageTypeDiscover), dhcpv4.MessageTypeOffer},
		{"request of the offer", message(dhcpv4.MessageTypeRequest, asks(guest.String()), server(gateway)), dhcpv4.MessageTypeAck},
		{"request after a reboot", message(dhcpv4.MessageTypeRequest, asks(guest.String())), dhcpv4.MessageTypeAck},
		{"renewal", message(dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(guest)), dhcpv4.MessageTypeAck},
		{"request of another address", message(dhcpv4.MessageTypeRequest, asks("10.0.0.7")), dhcpv4.MessageTypeNak},
		{"request of another server's offer", message(dhcpv4.MessageTypeRequest, asks(guest.String()), server(net.IPv4(10, 0, 0, 1))), dhcpv4.MessageTypeNone},
		{"inform", message(dhcpv4.MessageTypeInform, dhcpv4.WithClientIP(guest)), dhcpv4.MessageTypeAck},
		{"release", message(dhcpv4.MessageTypeRelease), dhcpv4.MessageTypeNone},
		{"decline", message(dhcpv4.MessageTypeDecline), dhcpv4.MessageTypeNone},
		{"somebody else's card", message(dhcpv4.MessageTypeDiscover, stranger), dhcpv4.MessageTypeNone},
	}
	for _, tt := range tests {
		m := tt.in
		if tt.name == "somebody else's card" {
			m.ClientHWAddr = net.HardwareAddr{2, 0, 0, 0, 0, 9}
		}
		got := lease(t, a, m)
		switch {
		case (got == nil) != (tt.want == dhcpv4.MessageTypeNone), got != nil && got.MessageType() != tt.want:
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		case tt.want == dhcpv4.MessageTypeAck || tt.want == dhcpv4.MessageTypeOffer:
			if tt.name != "inform" && !got.YourIPAddr.Equal(guest) {
				t.Errorf("%s: address %v", tt.name, got.YourIPAddr)
			}
			ones, _ := got.SubnetMask().Size()
			if ones != 30 || !got.Router()[0].Equal(gateway) || !got.DNS()[0].Equal(gateway) {
				t.Errorf("%s: mask %d, router %v, DNS %v", tt.name, ones, got.Router(), got.DNS())
			}
			if mtu := got.Options.Get(dhcpv4.OptionInterfaceMTU); len(mtu) != 2 || int(mtu[0])<<8|int(mtu[1]) != 1400 {
				t.Errorf("%s: MTU %v", tt.name, mtu)
			}
		}
	}
	a, _, _ = autoconfOf(t, FamilyIPv4)
	if got := lease(t, a, message(dhcpv4.MessageTypeDiscover)); len(got.Router()) != 0 {
		t.Errorf("a default route where the host has none: %v", got.Router())
	}
}

// TestRouterAdvert parses an advertisement with another library.
func TestRouterAdvert(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		unusable Families
		lifetime uint16
	}{{0, routerLifetime}, {FamilyIPv4, routerLifetime}, {FamilyIPv6, 0}} {
		a, g, block := autoconfOf(t, tt.unusable)
		var out batch
		a.appendAdvert(&out, netip.IPv6Unspecified())
		p := gopacket.NewPacket(out.frames[0].Data, layers.LayerTypeEthernet, gopacket.Default)
		ip, ra := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6), p.Layer(layers.LayerTypeICMPv6RouterAdvertisement).(*layers.ICMPv6RouterAdvertisement)
		if ip.HopLimit != 255 || ip.SrcIP.String() != g.gatewayLocal.String() || ip.DstIP.String() != "ff02::1" {
			t.Errorf("from %v to %v with hop limit %d", ip.SrcIP, ip.DstIP, ip.HopLimit)
		}
		if ra.RouterLifetime != tt.lifetime || ra.Flags != 0x40 {
			t.Errorf("unusable %b: lifetime %d, flags %#x", tt.unusable, ra.RouterLifetime, ra.Flags)
		}
		seen := make(map[layers.ICMPv6Opt][]byte)
		flags := make(map[netip.Prefix]byte)
		for _, o := range ra.Options {
			seen[o.Type] = o.Data
			if d := o.Data; o.Type == layers.ICMPv6OptPrefixInfo && len(d) == 30 {
				flags[netip.PrefixFrom(netip.AddrFrom16([16]byte(d[14:])), int(d[0]))] = d[1]
			}
		}
		// A for the block; L for the gateway, whom a guest without a default route reaches.
		want := map[netip.Prefix]byte{block.Prefix6: 0x40, netip.PrefixFrom(block.Gateway6, 128): 0x80}
		if !maps.Equal(flags, want) {
			t.Errorf("prefixes with flags %v, want %v", flags, want)
		}
		if d := seen[layers.ICMPv6OptMTU]; len(d) != 6 || int(d[4])<<8|int(d[5]) != 1400 {
			t.Errorf("MTU %x", d)
		}
		if d := seen[ndpRDNSS]; len(d) != 22 || netip.AddrFrom16([16]byte(d[6:])) != block.Gateway6 {
			t.Errorf("RDNSS %x", d)
		}
	}
}

// TestAdvertise renews the default route of a guest that has solicited one, and
// leaves others alone.
func TestAdvertise(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public")
	tick := make(chan time.Time)
	var loop sync.WaitGroup
	loop.Go(func() { n.advertise(tick) })
	tick <- time.Time{}
	tick <- time.Time{} // the first is dealt with
	if len(n.icmpSeen) != 0 {
		t.Error("an advertisement that nobody asked for")
	}
	n.write(icmp("fe80::2", "ff02::2", ndpRouterSolicit, 0, "", hops(255), to("33:33:00:00:00:02")))
	<-n.icmpSeen
	tick <- time.Time{}
	if m := <-n.icmpSeen; m[etherLen+ipv6Len] != ndpRouterAdvert {
		t.Errorf("got ICMPv6 %d", m[etherLen+ipv6Len])
	}
	n.Close()
	loop.Wait()
}

// TestSetUnusable takes the default route of a family from the guest, once, and says
// so when the guest is gone.
func TestSetUnusable(t *testing.T) {
	t.Parallel()
	n := startNet(t, "allow egress public")
	for _, r := range []struct {
		unusable Families
		frames   uint64
		lifetime uint16 // of the default route, in seconds
	}{{FamilyIPv6, 1, 0}, {FamilyIPv6, 0, 0}, {0, 1, 9000}} {
		before := n.Stats().FramesToGuest
		if err := n.SetUnusable(r.unusable); err != nil {
			t.Fatal(err)
		}
		if got := n.Stats().FramesToGuest - before; got != r.frames {
			t.Fatalf("%v: %d frames, want %d", r.unusable, got, r.frames)
		}
		if r.frames == 0 {
			continue // as it was
		}
		m := (<-n.icmpSeen)[etherLen+ipv6Len:]
		if got := binary.BigEndian.Uint16(m[6:]); m[0] != ndpRouterAdvert || got != r.lifetime {
			t.Errorf("%v: ICMPv6 %d with a lifetime of %d s", r.unusable, m[0], got)
		}
	}
	n.Close()
	before := n.Stats().Drops[dropLinkClosed.String()]
	if err := n.SetUnusable(FamilyIPv4); !errors.Is(err, net.ErrClosed) {
		t.Errorf("without a link: %v", err)
	}
	if got := n.Stats().Drops[dropLinkClosed.String()] - before; got != 1 {
		t.Errorf("%d frames are lost, want 1", got)
	}
}

// TestDHCPv6 asks for everything but an address.
func TestDHCPv6(t *testing.T) {
	t.Parallel()
	a, _, block := autoconfOf(t, 0)
	m, err := dhcpv6.NewMessage()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(kind dhcpv6.MessageType) []byte {
		m.MessageType = kind
		var out batch
		frame := m.ToBytes()
		if a.answerDHCP6(&out, &packet{frame: frame, end: len(frame), src: netip.MustParseAddr("fe80::1")}) != dropNone {
			return nil
		}
		p := gopacket.NewPacket(out.frames[0].Data, layers.LayerTypeEthernet, gopacket.Default)
		return p.Layer(layers.LayerTypeUDP).(*layers.UDP).Payload
	}
	reply, err := dhcpv6.MessageFromBytes(ask(dhcpv6.MessageTypeInformationRequest))
	if err != nil || reply.MessageType != dhcpv6.MessageTypeReply || !reply.Options.DNS()[0].Equal(block.Gateway6.AsSlice()) {
		t.Errorf("got %v, %v", reply, err)
	}
	if b := ask(dhcpv6.MessageTypeSolicit); b != nil {
		t.Errorf("an address by DHCPv6: %x", b)
	}
}

// TestAutoconfRate stops answering a guest that asks in a loop.
func TestAutoconfRate(t *testing.T) {
	t.Parallel()
	a, _, _ := autoconfOf(t, 0)
	now, answered := time.Unix(0, 0), 0
	p := &packet{kind: kindNDP, src: netip.IPv6Unspecified()}
	for range 1000 {
		var out batch
		if a.answer(&out, p, now) == dropNone {
			answered++
		}
	}
	if answered != autoconfPerSecond {
		t.Errorf("answered %d at once, want %d", answered, autoconfPerSecond)
	}
}

// FuzzDHCP gives the guest's messages to both servers: whatever comes, they
// answer nothing or a sound frame.
func FuzzDHCP(f *testing.F) {
	a, _, block := autoconfOf(f, 0)
	if m, err := dhcpv4.NewDiscovery(block.GuestMAC); err == nil {
		f.Add(m.ToBytes())
	}
	if m, err := dhcpv6.NewMessage(); err == nil {
		m.MessageType = dhcpv6.MessageTypeInformationRequest
		f.Add(m.ToBytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := &packet{frame: b, end: len(b), src: netip.MustParseAddr("fe80::1")}
		for _, answer := range []func(*batch, *packet) drop{a.answerDHCP4, a.answerDHCP6} {
			var out batch
			if answer(&out, p) != dropNone {
				continue
			}
			for _, fr := range out.frames {
				if e := gopacket.NewPacket(fr.Data, layers.LayerTypeEthernet, gopacket.Default).ErrorLayer(); e != nil && e.LayerType() != gopacket.LayerTypeDecodeFailure {
					t.Errorf("answer %x: %v", fr.Data, e)
				}
			}
		}
	})
}
