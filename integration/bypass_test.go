package integration

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// friendHost returns the host that every policy of these tests allows.
func friendHost(t *testing.T, lab *netlab.Lab) *netlab.Host {
	t.Helper()
	h := lab.Host(t, "friend.example")
	h.TCP(7, netlab.Echo)
	h.UDP(7, netlab.EchoDatagram)
	return h
}

// TestBypassAddresses is the table of address games: a SYN, a datagram and an echo
// request to each address, which none may pass.
func TestBypassAddresses(t *testing.T) {
	lab := netlab.New(t)
	friend := friendHost(t, lab)
	for _, row := range []struct {
		name   string
		policy m.NetworkPolicyPreset
		dst    string // addresses
		also   string // addresses that must see nothing either
	}{
		{"N-01 mapped", m.NetworkPolicyPresetAllowAll, "::ffff:10.0.0.5 ::ffff:169.254.169.254 ::ffff:127.0.0.1", "10.0.0.5 169.254.169.254"},
		{"N-02 compatible", m.NetworkPolicyPresetAllowAll, "::10.0.0.5 ::127.0.0.1 ::2", "10.0.0.5"},
		{"N-03 NAT64", m.NetworkPolicyPresetNonLocal, "64:ff9b::a9fe:a9fe 64:ff9b::6464:64c8", "169.254.169.254 100.100.100.200"},
		{"N-03 NAT64 to private", m.NetworkPolicyPresetPublicOnly, "64:ff9b::a00:5", "10.0.0.5"},
		{"N-03 NAT64 to the host", m.NetworkPolicyPresetAllowAll, "64:ff9b::7f00:1 64:ff9b::c0a8:3202", "127.0.0.1"},
		{"N-04 local NAT64", m.NetworkPolicyPresetPublicOnly, "64:ff9b:1::a9fe:a9fe", "169.254.169.254"},
		{"N-06 Teredo, 6to4", m.NetworkPolicyPresetPublicOnly, "2001:0:4136:e378:8000:63bf:3fff:fdd2 2002:a00:5::1", "10.0.0.5"},
		{"N-07 unspecified", m.NetworkPolicyPresetAllowAll, "0.0.0.0 0.1.2.3 ::", "127.0.0.1 ::1"},
		{"N-08 loopback", m.NetworkPolicyPresetAllowAll, "127.0.0.1 127.8.8.8 ::1", ""},
		{"N-09 metadata", m.NetworkPolicyPresetNonLocal, "169.254.169.254", ""},
		{"N-10 metadata, IPv6", m.NetworkPolicyPresetNonLocal, "fd00:ec2::254 fd20:ce::254", ""},
		{"N-11 metadata in CGNAT", m.NetworkPolicyPresetNonLocal, "100.100.100.200", ""},
		{"N-13 metadata of others", m.NetworkPolicyPresetNonLocal, "169.254.170.2 169.254.170.23 fd00:ec2::23 192.0.0.192 169.254.0.23 169.254.10.10 169.254.42.42 168.63.129.16", ""},
		{"N-15 link-local", m.NetworkPolicyPresetAllowAll, "fe80::1 fe80::2 fe80::5efe:a00:5", ""},
		{"N-17 multicast", m.NetworkPolicyPresetAllowAll, "224.0.0.251 239.255.255.250 ff02::fb ff05::2 255.255.255.255", ""},
		{"N-18 reserved", m.NetworkPolicyPresetPublicOnly, "192.0.0.9 198.18.0.1 192.0.2.1 198.51.100.1 203.0.113.1 240.0.0.1 100::1 fec0::1 2001:db8::1 3fff::1 5f00::1", ""},
		{"N-20 own block", m.NetworkPolicyPresetAllowAll, "172.16.0.0 172.16.0.3", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := startInsider(t, lab, friend, &m.NetworkConfig{Policy: row.policy})
			wire, loopback := lab.Watch(t), lab.WatchLoopback(t)
			g.received()
			for dst := range strings.FieldsSeq(row.dst) {
				g.send(g.tcp(dst, 80, nil), g.udp(dst, 5353, "x"), g.udp(dst, 1900, "x"), g.echo(dst, 8))
			}
			g.next()
			came := g.received()
			for dst := range strings.FieldsSeq(row.dst) {
				if heard := heardFrom(came, netip.MustParseAddr(dst)); len(heard) > 0 {
					t.Errorf("the guest heard from %s: %v", dst, heard[0])
				}
			}
			// The kernel's own neighbour discovery is ICMPv6 too, but to none of these.
			to := netlab.To(strings.Fields(row.dst + " " + row.also)...)
			wire.None(t, to)
			for _, port := range []uint16{80, 5353, 1900} {
				loopback.None(t, netlab.ToPort(port))
			}
		})
	}
}

// TestBypassN14MetadataByName looks up a metadata server by its name.
func TestBypassN14MetadataByName(t *testing.T) {
	lab := netlab.New(t)
	friend := friendHost(t, lab)
	lab.DNS.A(t, "metadata.google.internal", "169.254.169.254")
	g := startInsider(t, lab, friend, &m.NetworkConfig{Policy: m.NetworkPolicyPresetNonLocal})
	w := lab.Watch(t)
	if got := g.lookup("metadata.google.internal."); got.RCode != dnsmessage.RCodeNameError || len(got.Answers) > 0 {
		t.Errorf("%v with %d answers, want %v", got.RCode, len(got.Answers), dnsmessage.RCodeNameError)
	}
	g.send(g.tcp("169.254.169.254", 80, nil))
	g.next()
	w.None(t, netlab.To("169.254.169.254"))
}

// lookup asks the gateway for a name's A records.
func (g *insider) lookup(name string) dnsmessage.Message {
	g.t.Helper()
	c, err := g.Dial(g.t.Context(), "udp", netip.AddrPortFrom(g.gateways[0], 53).String())
	if err != nil {
		g.t.Fatal(err)
	}
	defer c.Close()
	query := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	packed, err := query.Pack()
	if err != nil {
		g.t.Fatal(err)
	}
	c.SetDeadline(deadline())
	if _, err := c.Write(packed); err != nil {
		g.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	if err != nil {
		g.t.Fatal(err)
	}
	var reply dnsmessage.Message
	if err := reply.Unpack(buf[:n]); err != nil {
		g.t.Fatal(err)
	}
	return reply
}

// TestBypassN20OtherSandbox tries to reach a second sandbox by its block.
func TestBypassN20OtherSandbox(t *testing.T) {
	lab := netlab.New(t)
	friend := friendHost(t, lab)
	g := startInsider(t, lab, friend, &m.NetworkConfig{Policy: m.NetworkPolicyPresetAllowAll})
	other := startAnother(t, lab, friend, "other", &m.NetworkConfig{Policy: m.NetworkPolicyPresetAllowAll})
	blocks := netlab.To("172.16.0.0/12", "fd42:6d73:62::/48")
	// A sandbox hears of later ones by way of the file system, soon but not at once.
	// One silent try may have been a slow one.
	silent := 0
	for end := deadline(); silent < 5; time.Sleep(20 * time.Millisecond) {
		w := lab.Watch(t)
		g.send(g.udp(other.addrs[0].Addr().String(), 9, "x"))
		g.next()
		if silent++; w.Count(t, blocks) > 0 {
			silent = 0
		}
		if time.Now().After(end) {
			t.Fatal("the first sandbox doesn't hear of the second")
		}
	}
	other.received()
	w := lab.Watch(t)
	for _, p := range other.addrs {
		dst := p.Addr().String()
		g.send(g.tcp(dst, 80, nil), g.udp(dst, 9, "x"), g.echo(dst, 8))
	}
	for _, gateway := range other.gateways {
		dst := gateway.String()
		g.send(g.tcp(dst, 80, nil), g.udp(dst, 9, "x"), g.echo(dst, 8))
	}
	g.next()
	for _, p := range other.received() {
		t.Errorf("the other guest got %v", p)
	}
	w.None(t, blocks)
	other.next()
}

// TestBypassN23NoListener shows that a sandbox listens nowhere.
func TestBypassN23NoListener(t *testing.T) {
	lab := netlab.New(t)
	friend := friendHost(t, lab)
	before := listeners(t)
	startInsider(t, lab, friend, &m.NetworkConfig{Rules: []m.PolicyRule{{Action: m.PolicyActionAllow}}})
	if diff := cmp.Diff(before, listeners(t)); diff != "" {
		t.Errorf("TCP listeners of this machine (-without +with a sandbox):\n%s", diff)
	}
}

// TestBypassN24TextForms gives addresses in the forms of inet_aton.
func TestBypassN24TextForms(t *testing.T) {
	t.Parallel()
	netlab.New(t)
	for _, text := range []string{"0x7f.1", "0177.0.0.1", "2130706433", "127.1", "0x7f000001", "127.0.0.01", "1.2.3.4.5"} {
		rule := fmt.Sprintf("allow egress %s tcp 80", text)
		if out, code := runSluice(t, "run", "--backend", "namespace", "--rule", rule, "--", "true"); code != 125 {
			t.Errorf("--rule %q: exit code %d, want 125\n%s", rule, code, out)
		}
	}
}

// TestBypassFrames is the table of the link, IP, TCP, UDP and ICMP rows whose frames
// must vanish: the friend, whom the policy allows, sees nothing of them.
func TestBypassFrames(t *testing.T) {
	lab := netlab.New(t)
	friend := friendHost(t, lab)
	g := startInsider(t, lab, friend, &m.NetworkConfig{Policy: m.NetworkPolicyPresetAllowAll})
	four, six := friend.IP4.String(), friend.IP6.String()
	syn := func(change func(*layers.TCP)) [][]byte {
		return [][]byte{g.tcp(four, 81, change), g.tcp(six, 81, change)}
	}
	// What is well formed does pass, or the rows below would show nothing.
	control := lab.Watch(t)
	g.send(append(syn(nil), g.udp(four, 81, "x"), g.udp(six, 81, "x"), g.echo(four, 8), g.echo(six, 8))...)
	g.next()
	if got := control.Count(t, func(p netlab.Packet) bool { return friend.To()(p) && p.Dst.Port() != 7 }); got < 6 {
		t.Fatalf("%d packets of the control left, want 6", got)
	}
	for _, row := range []struct {
		name   string
		frames [][]byte
	}{
		{"L-02 another source MAC", alter(syn(nil), func(f []byte) { f[11]++ })},
		{"L-08 fragment past 65535", [][]byte{g.fragment(8184, false, 40), g.fragment(8190, true, 40)}},
		{"L-08 fragment without payload", [][]byte{g.fragment(1, true, 0), g.fragment(0, true, 0)}},
		{"L-10 a hundred extension headers", [][]byte{g.extended(six, 100, 60)}},
		{"L-10 hop-by-hop not first", [][]byte{g.extended(six, 1, 60, 0)}},
		{"L-10 routing type 0", [][]byte{g.extended(six, 1, 43)}},
		{"L-10 AH, ESP", [][]byte{g.raw(six, 51, strings.Repeat("\x00", 24)), g.raw(six, 50, strings.Repeat("\x00", 24))}},
		{"L-11 SCTP, GRE, IPIP, 6in4, ESP, IGMP, OSPF", g.protocols(four, 132, 47, 4, 41, 50, 2, 89)},
		{"L-11 SCTP, GRE, IPIP over IPv6", g.protocols(six, 132, 47, 4, 41)},
		{"L-12 IP header checksum", alter([][]byte{g.udp(four, 81, "x")}, func(f []byte) { f[14+10]++ })},
		{"L-12 TCP checksum", alter(syn(nil), func(f []byte) { f[transport(f)+16]++ })},
		{"L-12 UDP checksum", alter([][]byte{g.udp(four, 81, "x"), g.udp(six, 81, "x")}, func(f []byte) { f[transport(f)+6]++ })},
		{"L-12 short IHL", alter([][]byte{g.udp(four, 81, "x")}, func(f []byte) { f[14] = 0x44; withSum(f[:14+20], 14, 10) })},
		{"L-12 version 5", alter([][]byte{g.udp(four, 81, "x")}, func(f []byte) { f[14] = 0x55; withSum(f[:14+20], 14, 10) })},
		{"L-12 total length past the frame", alter([][]byte{g.udp(four, 81, "x")}, func(f []byte) { f[16] = 9; withSum(f[:14+20], 14, 10) })},
		{"L-12 payload length past the frame", alter([][]byte{g.udp(six, 81, "x")}, func(f []byte) { f[18] = 9 })},
		{"L-12 UDP length past the packet", alter([][]byte{g.udp(four, 81, "x")}, func(f []byte) { f[14+20+4] = 9 })},
		{"L-13 TTL 0", alter([][]byte{g.udp(four, 81, "x"), g.echo(four, 8)}, func(f []byte) { f[14+8] = 0; withSum(f[:14+20], 14, 10) })},
		{"L-13 hop limit 0", alter([][]byte{g.udp(six, 81, "x"), g.echo(six, 8)}, func(f []byte) { f[14+7] = 0 })},
		{"L-13 TTL 1", alter([][]byte{g.udp(four, 81, "x"), g.echo(four, 8)}, func(f []byte) { f[14+8] = 1; withSum(f[:14+20], 14, 10) })},
		{"L-14 802.1Q, QinQ", alter(append(syn(nil), syn(nil)...), func(f []byte) { f[12], f[13] = 0x81, 0 })},
		{"L-14 unknown EtherType, LLC, LLDP, STP", [][]byte{g.ethernet(0x88b5), g.ethernet(0x0026), g.ethernet(0x88cc), g.ethernet(0x0042)}},
		{"L-14 runts", runts(g.tcp(four, 81, nil))},
		{"L-14 over the MTU", [][]byte{g.udp(four, 81, strings.Repeat("x", 2000)), g.udp(four, 81, strings.Repeat("x", 60000)), g.udp(six, 81, strings.Repeat("x", 9000))}},
		{"L-20 SYN+FIN", syn(func(h *layers.TCP) { h.FIN = true })},
		{"L-20 SYN+RST", syn(func(h *layers.TCP) { h.RST = true })},
		{"L-20 XMAS", syn(func(h *layers.TCP) { h.SYN, h.FIN, h.PSH, h.URG = false, true, true, true })},
		{"L-20 NULL", syn(func(h *layers.TCP) { h.SYN = false })},
		{"L-20 ACK out of nowhere", syn(func(h *layers.TCP) { h.SYN, h.ACK = false, true })},
		{"L-30 redirect, timestamp, mask, router", [][]byte{g.icmp(four, 5, 1, rest()), g.icmp(four, 13, 0, rest()), g.icmp(four, 17, 0, rest()), g.icmp(four, 10, 0, rest())}},
		{"L-30 echo reply out of nowhere", [][]byte{g.icmp(four, 0, 0, rest()), g.icmp(six, 129, 0, rest())}},
		{"L-32 forged errors", [][]byte{g.icmp(four, 3, 4, rest()), g.icmp(four, 3, 1, rest()), g.icmp(six, 2, 0, rest()), g.icmp(six, 1, 0, rest())}},
		{"another source address", alter([][]byte{g.udp(four, 81, "x")}, func(f []byte) { f[14+15] ^= 1; withSum(f[:14+20], 14, 10) })},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := *g
			g.t = t
			w := lab.Watch(t)
			g.received()
			g.send(row.frames...)
			g.next()
			others := func(p netlab.Packet) bool { return friend.To()(p) && p.Dst.Port() != 7 }
			w.None(t, others)
			for _, p := range g.received() {
				// A reset for what belongs to no flow is right; an answer isn't.
				if tcp, ok := p.TransportLayer().(*layers.TCP); ok && tcp.SrcPort != 7 && !tcp.RST {
					t.Errorf("the guest got %v", p)
				}
				if udp, ok := p.TransportLayer().(*layers.UDP); ok {
					t.Errorf("the guest got %v", udp)
				}
			}
		})
	}
}

// rest is the rest of an ICMP message that quotes nothing.
func rest() string { return "\x00\x00\x05\x00" + strings.Repeat("\x00", 28) }

// alter changes each frame.
func alter(frames [][]byte, change func([]byte)) [][]byte {
	for _, f := range frames {
		change(f)
	}
	return frames
}

// transport returns where the transport header begins in a frame of ours.
func transport(frame []byte) int {
	if frame[12] == 0x08 {
		return 14 + 20
	}
	return 14 + 40
}

// runts returns the frame's beginnings, shorter than a header of Ethernet.
func runts(frame []byte) [][]byte {
	var all [][]byte
	for n := 1; n < 14; n++ {
		all = append(all, frame[:n])
	}
	return append(all, frame[:14], frame[:20], frame[:33], frame[:53])
}

// ethernet returns a frame of another EtherType, or length.
func (g *insider) ethernet(t uint16) []byte {
	return serialize(g.ether(layers.EthernetType(t)), gopacket.Payload(strings.Repeat("x", 64)))
}

// raw returns a packet of a protocol.
func (g *insider) raw(dst string, proto layers.IPProtocol, payload string) []byte {
	return serialize(append(g.ip(dst, proto), gopacket.Payload(payload))...)
}

func (g *insider) protocols(dst string, protos ...layers.IPProtocol) [][]byte {
	var all [][]byte
	for _, p := range protos {
		all = append(all, g.raw(dst, p, strings.Repeat("x", 64)))
	}
	return all
}

// fragment returns a fragment of a datagram to the friend.
func (g *insider) fragment(offset uint16, more bool, size int) []byte {
	all := g.ip(g.friend.IP4.String(), layers.IPProtocolUDP)
	ip := all[1].(*layers.IPv4)
	ip.Id, ip.FragOffset = 77, offset
	if more {
		ip.Flags = layers.IPv4MoreFragments
	}
	return serialize(append(all, gopacket.Payload(strings.Repeat("x", size)))...)
}

// extended returns a datagram behind n times the given extension headers, of eight
// bytes each: the first two say what follows and how long they are.
func (g *insider) extended(dst string, n int, headers ...layers.IPProtocol) []byte {
	var chain []layers.IPProtocol
	for range n {
		chain = append(chain, headers...)
	}
	inner := g.udp(dst, 81, "x")[14+40:]
	var payload strings.Builder
	for i := range chain {
		next := layers.IPProtocolUDP
		if i+1 < len(chain) {
			next = chain[i+1]
		}
		// PadN of four bytes as an option, or type 0 with one segment left.
		payload.Write([]byte{byte(next), 0, 0, 1, 0, 0, 0, 0})
	}
	payload.Write(inner)
	return g.raw(dst, chain[0], payload.String())
}
