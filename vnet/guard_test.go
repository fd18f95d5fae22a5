package vnet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/sluicenet/sluice/vnet/link"
)

// partial is what a card's driver says of a frame whose checksum it left open.
func partial(start, offset uint16) link.Offload {
	return link.Offload{NeedsChecksum: true, ChecksumStart: start, ChecksumOffset: offset}
}

// segmented is what it says of a frame that stands for many.
func segmented(start, offset uint16, gso link.GSOType, size uint16) link.Offload {
	o := partial(start, offset)
	o.GSO, o.SegmentSize = gso, size
	return o
}

func ecn(o link.Offload) link.Offload { o.ECN = true; return o }

// TestGuard is what a guest may send and what not. Names that begin with a
// letter and a number are rows of the threat model.
func TestGuard(t *testing.T) {
	t.Parallel()
	const (
		g4, r4 = guest4 + ":1000", remote4 + ":80"
		g6, r6 = "[" + guest6 + "]:1000", "[" + remote6 + "]:80"
		local  = "fe80::73ff:feac:1000" // some link-local address
		any6   = "ff:ff:ff:ff:ff:ff"
	)
	group6 := to("33:33:00:00:00:01")
	big := strings.Repeat("x", 60000)
	vouched := offload(link.Offload{ChecksumValid: true})
	rows := []struct {
		name   string
		frame  link.Frame
		reason drop
		kind   kind
	}{
		// What works.
		{"SYN", tcpSegment(g4, r4, "S"), dropNone, kindTCP},
		{"SYN, IPv6", tcpSegment(g6, r6, "S"), dropNone, kindTCP},
		{"data", tcpSegment(g4, r4, "PA"), dropNone, kindTCP},
		{"L-22 urgent data is plain data", tcpSegment(g4, r4, "AU"), dropNone, kindTCP},
		{"reset", tcpSegment(g4, r4, "R"), dropNone, kindTCP},
		{"datagram", udp(g4, r4, "x"), dropNone, kindUDP},
		{"datagram, IPv6", udp(g6, r6, "x"), dropNone, kindUDP},
		{"empty datagram", udp(g4, r4, ""), dropNone, kindUDP},
		{"datagram without checksum", udp(g4, r4, "x", poke(40, 0, 0)), dropNone, kindUDP},
		{"padded", udp(g4, r4, "x", pad(17)), dropNone, kindUDP},
		{"padded, IPv6", udp(g6, r6, "x", pad(17)), dropNone, kindUDP},
		{"full frame", udp(g4, r4, big[:1472]), dropNone, kindUDP},
		{"another address of the guest's /64", udp("[fd42:6d73:62::abcd]:1", r6, "x"), dropNone, kindUDP},
		{"the gateway", tcpSegment(g4, gateway4+":80", "S"), dropNone, kindTCP},
		{"the gateway, IPv6", tcpSegment(g6, "["+gateway6+"]:80", "S"), dropNone, kindTCP},
		{"private address: the policy's question", tcpSegment(g4, "10.0.0.5:80", "S"), dropNone, kindTCP},
		{"metadata: the policy's question", tcpSegment(g4, "169.254.169.254:80", "S"), dropNone, kindTCP},
		{"N-03 NAT64: the policy's question", tcpSegment(g6, "[64:ff9b::a9fe:a9fe]:80", "S"), dropNone, kindTCP},
		{"N-20 another block: the policy's question", tcpSegment(g4, "172.16.0.6:80", "S"), dropNone, kindTCP},
		{"echo request", echo(guest4, remote4, 7, 1, "abc"), dropNone, kindEcho},
		{"echo request, IPv6", echo(guest6, remote6, 7, 1, "abc"), dropNone, kindEcho},
		{"L-13 TTL 1", udp(g4, r4, "x", hops(1)), dropNone, kindUDP},
		{"fragment", udp(g4, r4, "12345678", part(1, 0, true)), dropNone, kindFragment},
		{"fragment, IPv6", udp(g6, r6, "12345678", part(1, 0, true)), dropNone, kindFragment},
		{"last fragment", rawIP(guest4, remote4, 17, "x", part(1, 1480, false)), dropNone, kindFragment},
		{"echo fragment", rawIP(guest6, remote6, 58, "12345678", part(1, 8, true)), dropNone, kindFragment},
		{"DHCP without address", udp("0.0.0.0:68", "255.255.255.255:67", "x", to(any6)), dropNone, kindDHCP4},
		{"DHCP rebinding", udp(guest4+":68", "255.255.255.255:67", "x", to(any6)), dropNone, kindDHCP4},
		{"DHCP renewal", udp(guest4+":68", gateway4+":67", "x"), dropNone, kindDHCP4},
		{"DHCPv6", udp("["+local+"]:546", "[ff02::1:2]:547", "x", group6), dropNone, kindDHCP6},
		{"ARP", arp(1, guestMAC, guest4, gateway4), dropNone, kindARP},
		{"ARP probe", arp(1, guestMAC, "0.0.0.0", gateway4), dropNone, kindARP},
		{"ARP, padded", arp(1, guestMAC, guest4, gateway4, pad(18)), dropNone, kindARP},
		{"neighbour solicitation", solicit(guest6, "ff02::1:ff00:1", gateway6, "", group6), dropNone, kindNDP},
		{"DAD", solicit("::", "ff02::1:ff00:2", guest6, "", group6), dropNone, kindNDP},
		{"router solicitation", icmp(local, "ff02::2", 133, 0, "", hops(255), group6), dropNone, kindNDP},

		// Offload.
		{"checksum left open", tcpSegment(g4, r4, "S", offload(partial(34, 16)), poke(50, 1, 2)), dropNone, kindTCP},
		{"checksum left open, IPv6", udp(g6, r6, "x", offload(partial(54, 6)), poke(60, 1, 2)), dropNone, kindUDP},
		{"checksum vouched for", udp(g4, r4, "x", vouched, poke(40, 1, 2)), dropNone, kindUDP},
		{"checksum of an echo vouched for", echo(guest4, remote4, 1, 1, "", vouched, poke(36, 1, 2)), dropNone, kindEcho},
		{"segments", tcpSegment(g4, r4, "A", offload(segmented(34, 16, link.GSOTCPv4, 1460)), payload(big)), dropNone, kindTCP},
		{"segments, IPv6", tcpSegment(g6, r6, "A", offload(segmented(54, 16, link.GSOTCPv6, 1440)), payload(big)), dropNone, kindTCP},
		{"segments with ECN", tcpSegment(g4, r4, "A", offload(ecn(segmented(34, 16, link.GSOTCPv4, 1460))), payload(big)), dropNone, kindTCP},
		{"datagrams", udp(g4, r4, big, offload(segmented(34, 6, link.GSOUDP, 1472))), dropNone, kindUDP},
		{"datagrams, IPv6", udp(g6, r6, big, offload(segmented(54, 6, link.GSOUDP, 1452))), dropNone, kindUDP},
		{"as many as Linux allows", udp(g4, r4, big[:128], offload(segmented(34, 6, link.GSOUDP, 1))), dropNone, kindUDP},
		{"L-27 more datagrams than that", udp(g4, r4, big[:129], offload(segmented(34, 6, link.GSOUDP, 1))), dropOffload, 0},
		{"segments of the other family", tcpSegment(g4, r4, "A", offload(segmented(34, 16, link.GSOTCPv6, 1460))), dropOffload, 0},
		{"segments of the other protocol", udp(g4, r4, "x", offload(segmented(34, 6, link.GSOTCPv4, 1460))), dropOffload, 0},
		{"TCP as datagrams", tcpSegment(g4, r4, "A", offload(segmented(34, 16, link.GSOUDP, 1460))), dropOffload, 0},
		{"UDP fragmentation offload", udp(g4, r4, "x", offload(segmented(34, 6, 3, 1460))), dropOffload, 0},
		{"segments of no size", tcpSegment(g4, r4, "A", offload(segmented(34, 16, link.GSOTCPv4, 0))), dropOffload, 0},
		{"segments above the MTU", tcpSegment(g4, r4, "A", offload(segmented(34, 16, link.GSOTCPv4, 1461)), payload(big)), dropOffload, 0},
		{"segments with finished checksum", tcpSegment(g4, r4, "A", offload(link.Offload{GSO: link.GSOTCPv4, SegmentSize: 1000})), dropOffload, 0},
		{"ECN without segments", tcpSegment(g4, r4, "A", offload(ecn(partial(34, 16)))), dropOffload, 0},
		{"ECN on datagrams", udp(g4, r4, "x", offload(ecn(segmented(34, 6, link.GSOUDP, 1000)))), dropOffload, 0},
		{"checksum starts elsewhere", tcpSegment(g4, r4, "S", offload(partial(33, 16))), dropOffload, 0},
		{"checksum starts behind the frame", tcpSegment(g4, r4, "S", offload(partial(65535, 16))), dropOffload, 0},
		{"checksum goes elsewhere", tcpSegment(g4, r4, "S", offload(partial(34, 6))), dropOffload, 0},
		{"checksum of an echo left open", echo(guest4, remote4, 1, 1, "", offload(partial(34, 2))), dropOffload, 0},
		{"checksum of NDP left open", solicit(guest6, gateway6, gateway6, "", offload(partial(54, 2))), dropOffload, 0},
		{"echo in segments", echo(guest4, remote4, 1, 1, "", offload(segmented(34, 2, link.GSOTCPv4, 8))), dropOffload, 0},
		{"fragment with open checksum", udp(g4, r4, "12345678", part(1, 0, true), offload(partial(34, 6))), dropOffload, 0},
		{"fragment in segments", udp(g4, r4, "12345678", part(1, 0, true), offload(segmented(34, 6, link.GSOUDP, 8))), dropOffload, 0},
		{"ARP in segments", arp(1, guestMAC, guest4, gateway4, offload(segmented(0, 0, link.GSOTCPv4, 8))), dropOffload, 0},
		{"DHCP in segments", udp("0.0.0.0:68", "255.255.255.255:67", "xx", to(any6), offload(segmented(34, 6, link.GSOUDP, 1))), dropMulticast, 0},

		// Ethernet.
		{"L-14 no bytes", link.Frame{}, dropRunt, 0},
		{"L-14 runt", tcpSegment(g4, r4, "S", cut(13)), dropRunt, 0},
		{"L-14 header only", tcpSegment(g4, r4, "S", cut(14)), dropRunt, 0},
		{"L-14 above the MTU", udp(g4, r4, big[:1473]), dropOversize, 0},
		{"L-14 jumbo", udp(g4, r4, big), dropOversize, 0},
		{"L-14 802.1Q", udp(g4, r4, "x", etherType(0x8100)), dropEtherType, 0},
		{"L-14 QinQ", udp(g4, r4, "x", etherType(0x88a8)), dropEtherType, 0},
		{"L-14 LLC", udp(g4, r4, "x", etherType(0x0026)), dropEtherType, 0},
		{"L-14 LLDP", udp(g4, r4, "x", etherType(0x88cc), to("01:80:c2:00:00:0e")), dropEtherType, 0},
		{"L-14 spanning tree", udp(g4, r4, "x", etherType(0x0027), to("01:80:c2:00:00:00")), dropEtherType, 0},
		{"L-02 another source MAC", udp(g4, r4, "x", from("02:73:ac:10:00:03")), dropMACSource, 0},
		{"L-02 the gateway's MAC", udp(g4, r4, "x", from(gatewayMAC)), dropMACSource, 0},
		{"another destination MAC", udp(g4, r4, "x", to("02:73:ac:10:00:05")), dropMACDest, 0},
		{"unicast in a broadcast frame", udp(g4, r4, "x", to(any6)), dropMACDest, 0},
		{"unicast in a multicast frame", udp(g6, r6, "x", group6), dropMACDest, 0},

		// ARP and NDP.
		{"L-03 ARP too short", arp(1, guestMAC, guest4, gateway4, cut(41)), dropARP, 0},
		{"L-03 ARP for another hardware", arp(1, guestMAC, guest4, gateway4, poke(15, 6)), dropARP, 0},
		{"L-03 ARP with long addresses", arp(1, guestMAC, guest4, gateway4, poke(18, 8)), dropARP, 0},
		{"L-05 router advertisement", icmp(local, "ff02::1", 134, 0, "", hops(255), group6), dropNDP, 0},
		{"L-05 neighbour advertisement", icmp(guest6, gateway6, 136, 0, "", hops(255)), dropNDP, 0},
		{"L-05 redirect", icmp(guest6, gateway6, 137, 0, "", hops(255)), dropNDP, 0},
		{"L-05 solicitation from afar", solicit(guest6, gateway6, gateway6, "", hops(254)), dropNDP, 0},
		{"L-05 solicitation with a code", icmp(guest6, gateway6, 135, 1, "", hops(255)), dropNDP, 0},
		{"L-05 solicitation from nowhere of ours", solicit("2001:db8::1", gateway6, gateway6, ""), dropSource, 0},
		{"L-05 solicitation from the gateway", solicit(gateway6, gateway6, gateway6, ""), dropSource, 0},
		{"L-05 solicitation from the gateway's link-local", solicit("fe80::73:acff:fe10:1", gateway6, gateway6, ""), dropSource, 0},
		{"solicitation with a bad checksum", solicit(guest6, gateway6, gateway6, "", poke(56, 1, 2)), dropChecksum, 0},
		{"L-05 MLD report", rawIP(local, "ff02::16", 0, "\x3a\x00\x05\x02\x00\x00\x01\x00\x8f\x00\x00\x00\x00\x00\x00\x00", group6), dropMulticast, 0},

		// IPv4.
		{"L-12 version 5", udp(g4, r4, "x", pokeIP(0, 0x55)), dropIPHeader, 0},
		{"L-12 version 6 in an IPv4 frame", udp(g6, r6, "x", etherType(0x0800)), dropIPHeader, 0},
		{"L-12 IHL 4", udp(g4, r4, "x", pokeIP(0, 0x44)), dropIPHeader, 0},
		{"L-12 IHL 0", udp(g4, r4, "x", pokeIP(0, 0x40)), dropIPHeader, 0},
		{"L-12 total length 0", udp(g4, r4, "x", pokeIP(2, 0, 0)), dropIPHeader, 0},
		{"L-12 total length above the frame's", udp(g4, r4, "x", pokeIP(2, 0, 100)), dropIPHeader, 0},
		{"L-12 cut header", udp(g4, r4, "x", cut(33)), dropRunt, 0},
		{"L-12 header checksum", udp(g4, r4, "x", poke(24, 1, 2)), dropIPChecksum, 0},
		{"reserved bit", udp(g4, r4, "x", pokeIP(6, 0x80)), dropIPHeader, 0},
		{"options", rawIP(guest4, remote4, 17, "x", pokeIP(0, 0x46), pad(4)), dropIPOptions, 0},
		{"IGMP with router alert", rawIP(guest4, "224.0.0.22", 2, "xxxx", pokeIP(0, 0x46)), dropMulticast, 0},
		{"L-13 TTL 0", udp(g4, r4, "x", hops(0)), dropTTL, 0},
		{"another source", udp("172.16.0.3:1", r4, "x"), dropSource, 0},
		{"the gateway as source", udp(gateway4+":1", r4, "x"), dropSource, 0},
		{"loopback as source", udp("127.0.0.1:1", r4, "x"), dropSource, 0},
		{"no source", udp("0.0.0.0:68", r4, "x"), dropSource, 0},
		{"N-07 unspecified", tcpSegment(g4, "0.0.0.0:80", "S"), dropDestination, 0},
		{"N-07 0/8", tcpSegment(g4, "0.1.2.3:80", "S"), dropDestination, 0},
		{"N-08 loopback", tcpSegment(g4, "127.0.0.1:80", "S"), dropDestination, 0},
		{"N-08 all of loopback", tcpSegment(g4, "127.8.8.8:80", "S"), dropDestination, 0},
		{"itself", tcpSegment(g4, guest4+":80", "S"), dropDestination, 0},
		{"N-20 network address of its block", tcpSegment(g4, "172.16.0.0:80", "S"), dropDestination, 0},
		{"N-20 broadcast address of its block", udp(g4, "172.16.0.3:80", "x"), dropDestination, 0},
		{"limited broadcast", udp(g4, "255.255.255.255:9", "x", to(any6)), dropMulticast, 0},
		{"limited broadcast, TCP", tcpSegment(g4, "255.255.255.255:67", "S", to(any6)), dropMulticast, 0},
		{"DHCP to elsewhere", udp("0.0.0.0:68", remote4+":67", "x"), dropSource, 0},
		{"DHCP fragment", udp("0.0.0.0:68", "255.255.255.255:67", "12345678", to(any6), part(1, 0, true)), dropMulticast, 0},
		{"N-17 mDNS", udp(g4, "224.0.0.251:5353", "x", to("01:00:5e:00:00:fb")), dropMulticast, 0},
		{"N-17 SSDP", udp(g4, "239.255.255.250:1900", "x", to("01:00:5e:7f:ff:fa")), dropMulticast, 0},

		// IPv6.
		{"L-12 version 4 in an IPv6 frame", udp(g4, r4, big[:60], etherType(0x86dd)), dropIPHeader, 0},
		{"L-12 cut IPv6 header", udp(g6, r6, "x", cut(53)), dropRunt, 0},
		{"L-12 payload length above the frame's", udp(g6, r6, "x", poke(18, 0, 10)), dropIPHeader, 0},
		{"L-10 payload length 0, as jumbograms have", udp(g6, r6, "x", poke(18, 0, 0)), dropIPHeader, 0},
		{"L-13 hop limit 0", udp(g6, r6, "x", hops(0)), dropTTL, 0},
		{"another source, IPv6", udp("[2001:db8::2]:1", r6, "x"), dropSource, 0},
		{"the gateway as source, IPv6", udp("["+gateway6+"]:1", r6, "x"), dropSource, 0},
		{"link-local source", udp("["+local+"]:1", r6, "x"), dropSource, 0},
		{"no source, IPv6", udp("[::]:1", r6, "x"), dropSource, 0},
		{"N-01 mapped", tcpSegment(g6, "[::ffff:10.0.0.5]:80", "S"), dropDestination, 0},
		{"N-01 mapped source", tcpSegment("[::ffff:172.16.0.2]:80", r6, "S"), dropSource, 0},
		{"N-01 mapped metadata", tcpSegment(g6, "[::ffff:169.254.169.254]:80", "S"), dropDestination, 0},
		{"N-02 compatible", tcpSegment(g6, "[::10.0.0.5]:80", "S"), dropDestination, 0},
		{"N-07 unspecified, IPv6", tcpSegment(g6, "[::]:80", "S"), dropDestination, 0},
		{"N-08 loopback, IPv6", tcpSegment(g6, "[::1]:80", "S"), dropDestination, 0},
		{"N-15 link-local", tcpSegment(g6, "[fe80::1]:80", "S"), dropDestination, 0},
		{"N-17 multicast", udp(g6, "[ff02::fb]:5353", "x", group6), dropMulticast, 0},
		{"N-20 another address of its own /64", tcpSegment(g6, "[fd42:6d73:62::9]:80", "S"), dropDestination, 0},
		{"DHCPv6 from a global address", udp("["+guest6+"]:546", "[ff02::1:2]:547", "x", group6), dropSource, 0},
		{"DHCPv6's group, another port", udp("["+local+"]:546", "[ff02::1:2]:548", "x", group6), dropMulticast, 0},
		{"DHCPv6's group, TCP", tcpSegment("["+local+"]:546", "[ff02::1:2]:547", "S", group6), dropMulticast, 0},
		{"L-10 hop-by-hop", rawIP(guest6, remote6, 0, "\x11\x00\x01\x04\x00\x00\x00\x00"), dropExtension, 0},
		{"L-10 routing header 0", rawIP(guest6, remote6, 43, "\x11\x00\x00\x00\x00\x00\x00\x00"), dropExtension, 0},
		{"L-10 destination options", rawIP(guest6, remote6, 60, "\x11\x00\x01\x04\x00\x00\x00\x00"), dropExtension, 0},
		{"L-10 ESP", rawIP(guest6, remote6, 50, "xxxxxxxx"), dropExtension, 0},
		{"L-10 AH", rawIP(guest6, remote6, 51, "xxxxxxxx"), dropExtension, 0},
		{"L-10 extension in a fragment", rawIP(guest6, remote6, 60, "12345678", part(1, 0, true)), dropFragment, 0},
		{"no next header", rawIP(guest6, remote6, 59, "x"), dropExtension, 0},

		// Fragments.
		{"TCP fragment", tcpSegment(g4, r4, "S", part(1, 0, true), payload("1234")), dropFragment, 0},
		{"TCP fragment, IPv6", tcpSegment(g6, r6, "S", part(1, 0, true), payload("1234")), dropFragment, 0},
		{"later TCP fragment", rawIP(guest4, remote4, 6, "12345678", part(1, 8, true)), dropFragment, 0},
		{"L-08 ping of death", rawIP(guest4, remote4, 1, big[:32], part(1, 65512, false)), dropFragment, 0},
		{"L-08 ping of death, IPv6", rawIP(guest6, remote6, 58, big[:32], part(1, 65512, false)), dropFragment, 0},
		{"L-08 largest that fits", rawIP(guest6, remote6, 58, big[:23], part(1, 65512, false)), dropNone, kindFragment},
		{"L-08 empty fragment", rawIP(guest4, remote4, 17, "", part(1, 8, false)), dropFragment, 0},
		{"L-08 atomic fragment", udp(g6, r6, "x", part(1, 0, false)), dropFragment, 0},
		{"L-08 odd fragment that is not the last", rawIP(guest4, remote4, 17, "123456789", part(1, 8, true)), dropFragment, 0},
		{"cut fragment header", rawIP(guest6, remote6, 44, "1234567"), dropFragment, 0},
		{"ICMPv6 fragment in IPv4", rawIP(guest4, remote4, 58, "12345678", part(1, 8, true)), dropFragment, 0},

		// Protocols.
		{"L-11 SCTP", rawIP(guest4, remote4, 132, "xxxxxxxxxxxx"), dropProtocol, 0},
		{"L-11 GRE", rawIP(guest4, remote4, 47, "xxxx"), dropProtocol, 0},
		{"L-11 IPIP", rawIP(guest4, remote4, 4, "xxxx"), dropProtocol, 0},
		{"L-11 6in4", rawIP(guest4, remote4, 41, "xxxx"), dropProtocol, 0},
		{"L-11 4in6", rawIP(guest6, remote6, 4, "xxxx"), dropProtocol, 0},
		{"L-11 ESP", rawIP(guest4, remote4, 50, "xxxxxxxx"), dropProtocol, 0},
		{"L-11 IGMP", rawIP(guest4, remote4, 2, "xxxxxxxx"), dropProtocol, 0},
		{"ICMPv6 in IPv4", rawIP(guest4, remote4, 58, "\x80\x00\x00\x00\x00\x00\x00\x00"), dropProtocol, 0},
		{"ICMPv4 in IPv6", rawIP(guest6, remote6, 1, "\x08\x00\x00\x00\x00\x00\x00\x00"), dropProtocol, 0},

		// TCP.
		{"TCP cut", tcpSegment(g4, r4, "S", pokeIP(2, 0, 39)), dropTCPHeader, 0},
		{"TCP data offset 4", tcpSegment(g4, r4, "S", poke(46, 0x40)), dropTCPHeader, 0},
		{"TCP data offset behind the end", tcpSegment(g4, r4, "S", poke(46, 0x60)), dropTCPHeader, 0},
		{"TCP from port 0", tcpSegment(guest4+":0", r4, "S"), dropTCPHeader, 0},
		{"TCP to port 0", tcpSegment(g4, remote4+":0", "S"), dropTCPHeader, 0},
		{"L-20 SYN+FIN", tcpSegment(g4, r4, "SF"), dropTCPFlags, 0},
		{"L-20 SYN+RST", tcpSegment(g4, r4, "SR"), dropTCPFlags, 0},
		{"L-20 null", tcpSegment(g4, r4, ""), dropTCPFlags, 0},
		{"L-20 xmas", tcpSegment(g4, r4, "FPU"), dropTCPFlags, 0},
		{"L-20 FIN alone", tcpSegment(g4, r4, "F"), dropTCPFlags, 0},
		{"L-12 TCP checksum", tcpSegment(g4, r4, "S", poke(50, 1, 2)), dropChecksum, 0},
		{"L-12 TCP checksum, IPv6", tcpSegment(g6, r6, "S", poke(70, 1, 2)), dropChecksum, 0},

		// UDP.
		{"UDP cut", udp(g4, r4, "", pokeIP(2, 0, 27)), dropUDPHeader, 0},
		{"UDP length below the packet's", udp(g4, r4, "x", poke(38, 0, 8)), dropUDPHeader, 0},
		{"UDP length above the packet's", udp(g4, r4, "x", poke(38, 0, 10)), dropUDPHeader, 0},
		{"UDP from port 0", udp(guest4+":0", r4, "x"), dropUDPHeader, 0},
		{"UDP to port 0", udp(g4, remote4+":0", "x"), dropUDPHeader, 0},
		{"IPv6 UDP without checksum", udp(g6, r6, "x", poke(60, 0, 0)), dropUDPHeader, 0},
		{"L-12 UDP checksum", udp(g4, r4, "x", poke(40, 1, 2)), dropChecksum, 0},

		// ICMP.
		{"ICMP cut", icmp(guest4, remote4, 8, 0, "", pokeIP(2, 0, 27)), dropICMPHeader, 0},
		{"echo request with a code", icmp(guest4, remote4, 8, 1, ""), dropICMPType, 0},
		{"echo reply", icmp(guest4, remote4, 0, 0, ""), dropICMPType, 0},
		{"L-32 port unreachable for what we never sent", icmp(guest4, remote4, 3, 3, "\x00\x00\x00\x00"+strings.Repeat("x", 28)), dropICMPType, 0},
		{"L-32 port unreachable, cut", icmp(guest6, remote6, 1, 4, "\x00\x00\x00\x00xxxx"), dropICMPType, 0},
		{"L-30 redirect", icmp(guest4, remote4, 5, 1, "xxxxxxxx"), dropICMPType, 0},
		{"L-30 timestamp", icmp(guest4, remote4, 13, 0, "xxxxxxxx"), dropICMPType, 0},
		{"L-30 mask", icmp(guest4, remote4, 17, 0, "xxxxxxxx"), dropICMPType, 0},
		{"L-32 forged frag needed", icmp(guest4, remote4, 3, 4, "\x00\x00\x00\x44xxxxxxxxxxxxxxxxxxxxxxxxxxxx"), dropICMPType, 0},
		{"L-32 forged packet too big", icmp(guest6, remote6, 2, 0, "\x00\x00\x00\x44"), dropICMPType, 0},
		{"L-12 echo checksum", echo(guest4, remote4, 1, 1, "x", poke(36, 1, 2)), dropChecksum, 0},
		{"L-12 echo checksum, IPv6", echo(guest6, remote6, 1, 1, "x", poke(56, 1, 2)), dropChecksum, 0},
	}
	g := newGuard(testBlock(t), 1500)
	for _, r := range rows {
		var p packet
		before := bytes.Clone(r.frame.Data)
		got := g.check(&r.frame, &p)
		if got != r.reason || got == dropNone && p.kind != r.kind {
			t.Errorf("%s: got %v, kind %d; want %v, kind %d", r.name, got, p.kind, r.reason, r.kind)
		}
		if !bytes.Equal(before, r.frame.Data) {
			t.Errorf("%s: the guard changed the frame", r.name)
		}
		if got == dropNone {
			checkByOracle(t, r.name, &r.frame, &p)
		}
	}
}

// payload sets what follows the transport header.
func payload(s string) change { return func(w *wire) { w.payload = []byte(s) } }

// checkByOracle holds what the guard says of a frame that passed against what
// gopacket reads in it.
func checkByOracle(t testing.TB, name string, f *link.Frame, p *packet) {
	t.Helper()
	if p.end < etherLen || p.end > len(f.Data) {
		t.Fatalf("%s: packet ends at %d of %d bytes", name, p.end, len(f.Data))
	}
	// Of a datagram that is not whole gopacket reads the headers only.
	o := gopacket.NewPacket(f.Data[:p.end], layers.LayerTypeEthernet, gopacket.DecodeOptions{NoCopy: true})
	if p.kind == kindARP {
		if o.Layer(layers.LayerTypeARP) == nil {
			t.Errorf("%s: gopacket sees no ARP: %v", name, o)
		}
		return
	}
	var src, dst netip.Addr
	var ttl, proto uint8
	var v6 bool
	switch ip := o.NetworkLayer().(type) {
	case *layers.IPv4:
		src, dst = addrOf(ip.SrcIP), addrOf(ip.DstIP)
		ttl, proto = ip.TTL, uint8(ip.Protocol)
		if more := ip.Flags&layers.IPv4MoreFragments != 0; more != p.moreFrags || int(ip.FragOffset)*8 != p.fragOffset || p.fragID != uint32(ip.Id) {
			t.Errorf("%s: fragment %d %d %v; gopacket: %v", name, p.fragID, p.fragOffset, p.moreFrags, ip)
		}
		if df := ip.Flags&layers.IPv4DontFragment != 0; df != p.dontFragment {
			t.Errorf("%s: DF is %v, gopacket says %v", name, p.dontFragment, df)
		}
	case *layers.IPv6:
		v6 = true
		src, dst = addrOf(ip.SrcIP), addrOf(ip.DstIP)
		ttl, proto = ip.HopLimit, uint8(ip.NextHeader)
		if frag, ok := o.Layer(layers.LayerTypeIPv6Fragment).(*layers.IPv6Fragment); ok {
			proto = uint8(frag.NextHeader)
			if p.kind != kindFragment || frag.MoreFragments != p.moreFrags || int(frag.FragmentOffset)*8 != p.fragOffset || p.fragID != frag.Identification {
				t.Errorf("%s: fragment %d %d %v; gopacket: %v", name, p.fragID, p.fragOffset, p.moreFrags, frag)
			}
		}
	default:
		t.Fatalf("%s: gopacket sees no IP: %v", name, o)
	}
	if src != p.src || dst != p.dst || ttl != p.ttl || proto != p.proto || v6 != p.v6 {
		t.Errorf("%s: %v>%v ttl %d proto %d; gopacket: %v>%v ttl %d proto %d", name, p.src, p.dst, p.ttl, p.proto, src, dst, ttl, proto)
	}
	if src.Is4In6() || dst.Is4In6() || p.proto == 0 {
		t.Errorf("%s: passed %v > %v", name, src, dst)
	}
	if p.kind == kindFragment {
		return
	}
	checkTransportByOracle(t, name, o, p)
}

func checkTransportByOracle(t testing.TB, name string, o gopacket.Packet, p *packet) {
	t.Helper()
	switch tr := o.TransportLayer().(type) {
	case *layers.TCP:
		if uint16(tr.SrcPort) != p.srcPort || uint16(tr.DstPort) != p.dstPort || !bytes.Equal(tr.Payload, p.data()) {
			t.Errorf("%s: TCP %d>%d, %d bytes; gopacket: %d>%d, %d bytes", name, p.srcPort, p.dstPort, len(p.data()), tr.SrcPort, tr.DstPort, len(tr.Payload))
		}
		if p.kind != kindTCP || tr.SYN != (p.tcpFlags&flagSYN != 0) || tr.RST != (p.tcpFlags&flagRST != 0) {
			t.Errorf("%s: kind %d, flags %#x", name, p.kind, p.tcpFlags)
		}
	case *layers.UDP:
		if uint16(tr.SrcPort) != p.srcPort || uint16(tr.DstPort) != p.dstPort || !bytes.Equal(tr.Payload, p.data()) {
			t.Errorf("%s: UDP %d>%d, %d bytes; gopacket: %d>%d, %d bytes", name, p.srcPort, p.dstPort, len(p.data()), tr.SrcPort, tr.DstPort, len(tr.Payload))
		}
		if p.kind != kindUDP && p.kind != kindDHCP4 && p.kind != kindDHCP6 {
			t.Errorf("%s: kind %d", name, p.kind)
		}
	default:
		if p.kind != kindEcho && p.kind != kindNDP {
			// gopacket gives up on TCP options that are malformed; ours is
			// not to judge them, gVisor does.
			if p.kind == kindTCP && o.ErrorLayer() != nil {
				return
			}
			t.Errorf("%s: kind %d, but gopacket sees %v", name, p.kind, o)
		}
		if p.offload.ChecksumValid {
			return
		}
		var initial uint16
		if p.v6 {
			initial = slowSum(pseudoHeader(p))
		}
		if s := uint32(slowSum(p.frame[p.l4:p.end])) + uint32(initial); s%0xffff != 0 {
			t.Errorf("%s: passed with a wrong checksum", name)
		}
	}
}

// pseudoHeader is IPv6's, written out.
func pseudoHeader(p *packet) []byte {
	b := append(p.src.AsSlice(), p.dst.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(p.end-p.l4))
	return append(b, 0, 0, 0, p.proto)
}

func addrOf(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// TestGuardWhole checks datagrams that were put together from fragments: they
// may exceed the MTU, but may be nothing that nobody sends in fragments.
func TestGuardWhole(t *testing.T) {
	t.Parallel()
	g := newGuard(testBlock(t), 1500)
	rows := []struct {
		name   string
		frame  link.Frame
		reason drop
	}{
		{"large datagram", udp(guest4+":1", remote4+":2", strings.Repeat("x", 65507)), dropNone},
		{"large echo", echo(guest6, remote6, 1, 2, strings.Repeat("x", 65527)), dropNone},
		{"wrong checksum", udp(guest4+":1", remote4+":2", strings.Repeat("x", 2000), poke(40, 1, 2)), dropChecksum},
		{"L-05 NDP in fragments", solicit(guest6, gateway6, gateway6, ""), dropFragment},
		{"DHCP in fragments", udp(guest4+":68", gateway4+":67", "x"), dropFragment},
		{"ICMP error in fragments", icmp(guest4, remote4, 3, 3, strings.Repeat("x", 3000)), dropICMPType},
	}
	for _, r := range rows {
		var p packet
		if got := g.checkWhole(r.frame.Data, &p); got != r.reason {
			t.Errorf("%s: got %v, want %v", r.name, got, r.reason)
		}
		if r.reason == dropNone && p.dontFragment {
			t.Errorf("%s: a datagram that came in fragments may leave in fragments", r.name)
		}
	}
}

func TestGuardAllocatesNothing(t *testing.T) {
	g := newGuard(testBlock(t), 1500)
	frames := []link.Frame{
		tcpSegment(guest4+":1", remote4+":2", "A", payload("data")),
		tcpSegment("["+guest6+"]:1", "["+remote6+"]:2", "A", payload("data")),
		udp(guest4+":1", remote4+":2", "x"),
		echo(guest6, remote6, 1, 2, "x"),
		udp(guest4+":1", remote4+":2", "x", poke(40, 1, 2)), // dropped
	}
	var p packet
	if n := testing.AllocsPerRun(100, func() {
		for i := range frames {
			g.check(&frames[i], &p)
		}
	}); n != 0 {
		t.Errorf("the guard allocates %v times for %d frames", n, len(frames))
	}
}

// TestDropNames: every reason is a counter with a name of its own.
func TestDropNames(t *testing.T) {
	t.Parallel()
	seen := make(map[string]drop)
	for d := range numDrops {
		name := d.String()
		if other, ok := seen[name]; ok || name == "" || name == "unknown" {
			t.Errorf("drop %d is called %q, as is %d", d, name, other)
		}
		seen[name] = d
	}
	if got := numDrops.String(); got != "unknown" {
		t.Errorf("a drop that does not exist is called %q", got)
	}
}

// FuzzGuard: no frame makes the guard panic, and what passes gopacket reads in
// the same way.
func FuzzGuard(f *testing.F) {
	g := newGuard(testBlock(f), 1500)
	seeds := []link.Frame{
		tcpSegment(guest4+":1", remote4+":2", "A", payload("data")),
		tcpSegment("["+guest6+"]:1", "["+remote6+"]:2", "S", offload(segmented(54, 16, link.GSOTCPv6, 100))),
		udp(guest4+":1", remote4+":53", "x", pad(10)),
		udp("["+guest6+"]:1", "["+remote6+"]:2", "12345678", part(7, 8, true)),
		udp("0.0.0.0:68", "255.255.255.255:67", "x", to("ff:ff:ff:ff:ff:ff")),
		echo(guest4, remote4, 1, 2, "x"),
		echo(guest6, remote6, 1, 2, "x"),
		arp(1, guestMAC, guest4, gateway4),
		solicit(guest6, gateway6, gateway6, "\x01\x01\x02\x73\xac\x10\x00\x02"),
	}
	for _, s := range seeds {
		o := s.Offload
		f.Add(s.Data, uint8(0), o.NeedsChecksum, o.ChecksumValid, o.ECN, o.ChecksumStart, o.ChecksumOffset, uint8(o.GSO), o.SegmentSize)
		f.Add(s.Data, uint8(7), o.NeedsChecksum, true, o.ECN, o.ChecksumStart, o.ChecksumOffset, uint8(o.GSO), o.SegmentSize)
	}
	f.Fuzz(func(t *testing.T, data []byte, mend uint8, needs, valid, ecn bool, start, offset uint16, gso uint8, size uint16) {
		// Mending what random changes always break lets the fuzzer go deeper.
		if mend&1 != 0 && len(data) >= etherLen {
			copy(data[6:], mac(guestMAC))
		}
		if mend&2 != 0 && len(data) >= etherLen+ipv4Len {
			copy(data[26:], netip.MustParseAddr(guest4).AsSlice())
		}
		if mend&4 != 0 && len(data) >= etherLen+ipv4Len {
			copy(data[24:], []byte{0, 0})
			binary.BigEndian.PutUint16(data[24:], ^slowSum(data[etherLen:etherLen+ipv4Len]))
		}
		fr := link.Frame{Data: data, Offload: link.Offload{NeedsChecksum: needs, ChecksumValid: valid, ECN: ecn,
			ChecksumStart: start, ChecksumOffset: offset, GSO: link.GSOType(gso), SegmentSize: size}}
		var p packet
		if g.check(&fr, &p) == dropNone {
			checkByOracle(t, "fuzz", &fr, &p)
			if n, size := p.segments(); p.kind == kindUDP && (n < 1 || size < 0 || n > 65535) {
				t.Errorf("%d segments of %d bytes", n, size)
			}
		}
	})
}

func BenchmarkGuard(b *testing.B) {
	g := newGuard(testBlock(b), 1500)
	full := strings.Repeat("x", 1460)
	for _, bb := range []struct {
		name  string
		frame link.Frame
	}{
		{"TCP1460", tcpSegment(guest4+":1", remote4+":2", "A", payload(full))},
		{"TCP1460partial", tcpSegment(guest4+":1", remote4+":2", "A", payload(full), offload(partial(34, 16)))},
		{"UDP64", udp(guest4+":1", remote4+":2", full[:64])},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(bb.frame.Data)))
			var p packet
			for b.Loop() {
				if d := g.check(&bb.frame, &p); d != dropNone {
					b.Fatal(d)
				}
			}
		})
	}
}
