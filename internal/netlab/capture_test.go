package netlab

import (
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

const (
	eth4 = "020000000001 020000000002 0800 "
	eth6 = "020000000001 020000000002 86dd "
	// Headers from 10.0.0.1 to 93.184.216.34 and from fd00::1 to fd00::2; the
	// protocol is to be filled in.
	ip4 = "4500 0028 0001 0000 40PP 0000 0a000001 5db8d822 "
	ip6 = "60000000 0010 PP40 fd000000000000000000000000000001 fd000000000000000000000000000002 "
)

func packet(proto uint8, src, dst string) Packet {
	return Packet{Protocol: proto, Src: netip.MustParseAddr(src), Dst: netip.MustParseAddrPort(dst)}
}

func TestParsePacket(t *testing.T) {
	t.Parallel()
	v4, v6 := "93.184.216.34:", "[fd00::2]:"
	for _, row := range []struct {
		name, frame string
		want        Packet // the zero Packet: none
	}{
		{"TCP", eth4 + proto(ip4, 6) + "c000 0050 00000000", packet(6, "10.0.0.1", v4+"80")},
		{"UDP", eth4 + proto(ip4, 17) + "c000 0035 0008 0000", packet(17, "10.0.0.1", v4+"53")},
		{"ICMP", eth4 + proto(ip4, 1) + "0800 0000 0001 0001", packet(1, "10.0.0.1", v4+"0")},
		{"GRE", eth4 + proto(ip4, 47) + "0000 0000 0001 0001", packet(47, "10.0.0.1", v4+"0")},
		{"options", eth4 + strings.Replace(proto(ip4, 6), "45", "46", 1) + "01010100 c000 0050", packet(6, "10.0.0.1", v4+"80")},
		{"first fragment", eth4 + strings.Replace(proto(ip4, 17), "0001 0000", "0001 2000", 1) + "c000 0035 0008 0000", packet(17, "10.0.0.1", v4+"53")},
		{"later fragment", eth4 + strings.Replace(proto(ip4, 17), "0001 0000", "0001 0001", 1) + "c000 0035 0008 0000", packet(17, "10.0.0.1", v4+"0")},
		{"header only", eth4 + proto(ip4, 6), packet(6, "10.0.0.1", v4+"0")},
		{"header cut", eth4 + "4500 0028", Packet{}},
		{"TCP6", eth6 + proto(ip6, 6) + "c000 0050 00000000", packet(6, "fd00::1", v6+"80")},
		{"ICMP6", eth6 + proto(ip6, 58) + "8000 0000 0001 0001", packet(58, "fd00::1", v6+"0")},
		{"hop-by-hop, UDP", eth6 + proto(ip6, 0) + "11 00 000000000000 c000 0035 0008 0000", packet(17, "fd00::1", v6+"53")},
		{"destination options of 16 bytes", eth6 + proto(ip6, 60) + "06 01 000000000000 0000000000000000 c000 0050", packet(6, "fd00::1", v6+"80")},
		{"first fragment, UDP6", eth6 + proto(ip6, 44) + "11 00 0001 00000001 c000 0035 0008 0000", packet(17, "fd00::1", v6+"53")},
		{"later fragment, UDP6", eth6 + proto(ip6, 44) + "11 00 0009 00000001 c000 0035 0008 0000", packet(17, "fd00::1", v6+"0")},
		{"IPv6 header cut", eth6 + "60000000 0010 0640 fd000000000000000000000000000001", Packet{}},
		{"ARP", "ffffffffffff 020000000002 0806 0001 0800 0604 0001 020000000002 0a000001 000000000000 0a000002", Packet{}},
		{"runt", "0200", Packet{}},
		{"empty", "", Packet{}},
	} {
		got, ok := parsePacket(unhex(row.frame))
		if got != row.want || ok != (row.want != Packet{}) {
			t.Errorf("%s: %v, %t, want %v", row.name, got, ok, row.want)
		}
	}
}

func proto(header string, p uint8) string {
	return strings.Replace(header, "PP", hex.EncodeToString([]byte{p}), 1)
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// FuzzParsePacket compares with gopacket, where that takes the frame to be TCP or
// UDP.
func FuzzParsePacket(f *testing.F) {
	for _, frame := range []string{
		eth4 + proto(ip4, 6) + "c000 0050 00000000 00000000 5002 0000 0000 0000",
		eth4 + proto(ip4, 17) + "c000 0035 0014 0000 000000000000000000000000",
		eth6 + proto(ip6, 17) + "c000 0035 0010 0000 0000000000000000",
		eth6 + proto(ip6, 0) + "11 00 000000000000 c000 0035 0008 0000",
	} {
		f.Add(unhex(frame))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		got, ok := parsePacket(frame)
		p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
		if p.ErrorLayer() != nil || len(p.Layers()) < 3 {
			return
		}
		network, transport := p.Layers()[1], p.Layers()[2]
		ip, isIP := network.(gopacket.NetworkLayer)
		if _, isTransport := transport.(gopacket.TransportLayer); !isIP || !isTransport {
			return
		}
		want := Packet{}
		src, dst := ip.NetworkFlow().Endpoints()
		want.Src, _ = netip.AddrFromSlice(src.Raw())
		addr, _ := netip.AddrFromSlice(dst.Raw())
		switch l := transport.(type) {
		case *layers.TCP:
			want.Protocol, want.Dst = 6, netip.AddrPortFrom(addr, uint16(l.DstPort))
		case *layers.UDP:
			want.Protocol, want.Dst = 17, netip.AddrPortFrom(addr, uint16(l.DstPort))
		default:
			return
		}
		if !ok || got != want {
			t.Errorf("%x: %v, %t, gopacket %v", frame, got, ok, want)
		}
	})
}

func TestMatchers(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		match func(Packet) bool
		p     Packet
		want  bool
	}{
		{To("93.184.216.34"), packet(6, "10.0.0.1", "93.184.216.34:80"), true},
		{To("93.184.216.34"), packet(6, "10.0.0.1", "93.184.216.35:80"), false},
		{To("10.0.0.0/8", "fd00::/8"), packet(6, "fd00::1", "[fd12::1]:80"), true},
		{To("10.0.0.0/8"), packet(6, "10.0.0.1", "11.0.0.1:80"), false},
		{To(), packet(6, "10.0.0.1", "11.0.0.1:80"), false},
		{ToPort(53), packet(17, "10.0.0.1", "11.0.0.1:53"), true},
		{ToPort(53), packet(17, "10.0.0.1", "11.0.0.1:54"), false},
	} {
		if got := row.match(row.p); got != row.want {
			t.Errorf("%v: %t, want %t", row.p, got, row.want)
		}
	}
}

// TestWatch counts what is sent here, each packet once, and nothing else.
func TestWatch(t *testing.T) {
	t.Parallel()
	lab := New(t)
	h, other := lab.Host(t, "watched.example"), lab.Host(t, "other.example")
	h.UDP(53, func([]byte, net.Addr) []byte { return nil })
	early := lab.Watch(t)
	for _, to := range []string{h.Endpoint(4, 53), h.Endpoint(6, 53), other.Endpoint(4, 53)} {
		sendDatagrams(t, to, 10)
	}
	late := lab.Watch(t)
	sendDatagrams(t, h.Endpoint(4, 54), 1)
	late.None(t, ToPort(53))
	for _, row := range []struct {
		name  string
		watch *Watch
		match func(Packet) bool
		want  int
	}{
		{"early, host", early, h.To(), 21},
		{"early, host's IPv6", early, To(h.IP6.String()), 10},
		{"early, other", early, other.To(), 10},
		{"late, host", late, h.To(), 1},
		{"late, other", late, other.To(), 0},
	} {
		if got := row.watch.Count(t, row.match); got != row.want {
			t.Errorf("%s: %d packets, want %d", row.name, got, row.want)
		}
	}
	want := map[Packet]int{packet(17, Here4.String(), h.Endpoint(4, 54)): 1}
	mine := func(p Packet, _ int) bool { return !h.To()(p) }
	if diff := cmp.Diff(want, late.Packets(t), cmpopts.IgnoreMapEntries(mine), cmp.Comparer(func(a, b Packet) bool { return a == b })); diff != "" {
		t.Errorf("late packets (-want +got):\n%s", diff)
	}
}

// TestWatchNoHost counts what goes to an address that nobody has: the proof must
// not need a target.
func TestWatchNoHost(t *testing.T) {
	t.Parallel()
	lab := New(t)
	w := lab.Watch(t)
	sendDatagrams(t, "203.0.113.9:53", 3)
	sendDatagrams(t, "[2001:db8::9]:53", 3)
	if got := w.Count(t, To("203.0.113.9", "2001:db8::9")); got != 6 {
		t.Errorf("%d packets, want 6", got)
	}
	f := new(errorTB)
	w.None(f, To("203.0.113.9"))
	if f.errors != 1 {
		t.Errorf("None reported %d errors, want 1", f.errors)
	}
}

// An errorTB counts the errors that a helper reports.
type errorTB struct {
	testing.TB
	errors int
}

func (f *errorTB) Helper()               {}
func (f *errorTB) Errorf(string, ...any) { f.errors++ }

func TestWatchLoopback(t *testing.T) {
	t.Parallel()
	lab := New(t)
	w := lab.WatchLoopback(t)
	sendDatagrams(t, "127.8.8.8:5353", 2)
	if got := w.Count(t, To("127.8.8.8")); got != 2 {
		t.Errorf("%d packets, want 2", got)
	}
}

// sendDatagrams sends datagrams from here.
func sendDatagrams(t *testing.T, to string, n int) {
	t.Helper()
	for range n {
		c, err := net.Dial("udp", to)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("datagram")); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}
