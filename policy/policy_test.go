package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// testHost is the machine of the tests: a sandbox with the first block, another
// one beside it, two addresses of its own, and a NAT64 prefix of its network.
var testHost = &Host{
	Gateways: addrs("172.16.0.1 fd42:6d73:62::1"),
	Blocks:   prefixes("172.16.0.0/30 fd42:6d73:62::/64"),
	Others:   prefixes("172.16.0.4/30 fd42:6d73:62:1::/64"),
	Addrs:    addrs("192.168.1.10 203.0.114.7 2a00:1::10 fe80::10 169.254.169.254"),
	NAT64:    prefixes("2001:db8:64::/96 2a00:64::/32"),
}

func addrs(texts string) []netip.Addr {
	var out []netip.Addr
	for _, s := range strings.Fields(texts) {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixes(texts string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range strings.Fields(texts) {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// parseConfig reads rules separated by semicolons; "default allow" sets the
// default for egress, "ingress deny" that for ingress, and other words options.
func parseConfig(tb testing.TB, text string) Config {
	tb.Helper()
	c := Config{DefaultIngress: Allow}
	for i, line := range strings.Split(text, ";") {
		switch line = strings.TrimSpace(line); line {
		case "":
		case "default allow":
			c.DefaultEgress = Allow
		case "ingress deny":
			c.DefaultIngress = Deny
		case "preset allow-all":
			c.Preset, c.DefaultEgress = PresetAllowAll, Allow
		case "rebind off":
			c.DisableRebindProtection = true
		case "quic refuse":
			c.QUIC = QUICRefuse
		case "quic pass":
			c.QUIC = QUICPass
		case "intercept":
			c.InterceptedPorts = []uint16{443, 8443}
		default:
			r, err := ParseRule(line)
			if err != nil {
				tb.Fatalf("rule %q: %v", line, err)
			}
			r.Source = fmt.Sprintf("Rules[%d]", i)
			c.Rules = append(c.Rules, r)
		}
	}
	return c
}

// parsePolicy compiles what parseConfig reads, without judging it.
func parsePolicy(tb testing.TB, text string) *Policy {
	tb.Helper()
	return compile(parseConfig(tb, text))
}

// parseFlow reads "tcp 1.1.1.1:443", "icmpv4 1.1.1.1" or "in tcp 1.1.1.1 8080".
func parseFlow(tb testing.TB, text string) Flow {
	tb.Helper()
	words := strings.Fields(text)
	f := Flow{Direction: Egress}
	if words[0] == "in" {
		f.Direction, words = Ingress, words[1:]
	}
	p, ok := protocolByName(words[0])
	if !ok {
		tb.Fatalf("flow %q: no protocol", text)
	}
	f.Protocol = p
	if f.Direction == Egress && p.HasPorts() {
		f.Peer = netip.MustParseAddrPort(words[1])
		return f
	}
	f.Peer = netip.AddrPortFrom(netip.MustParseAddr(words[1]), 0)
	if f.Direction == Ingress {
		f.Peer = netip.AddrPortFrom(f.Peer.Addr(), 50000)
		fmt.Sscan(words[2], &f.GuestPort)
	}
	return f
}

// parseEvidence reads a stage, the name it shows if any, and behind a bar the
// names of P(A): "name a.test | a.test b.test", "opaque | a.test", "syn |".
func parseEvidence(tb testing.TB, text string) Evidence {
	tb.Helper()
	shown, given, _ := strings.Cut(text, "|")
	ev := Evidence{Names: strings.Fields(given)}
	words := append(strings.Fields(shown), "")
	switch words[0] {
	case "", "syn":
		ev.Stage = StageAddress
	case "opaque":
		ev.Stage = StageNoName
	case "name":
		ev.Stage, ev.Name = StageName, words[1]
	case "malformed":
		ev.Stage = StageMalformed
	default:
		tb.Fatalf("evidence %q: no stage", text)
	}
	return ev
}

// short writes what decides a verdict: the action, with ? while the name is
// needed, and the rule's index, default or always.
func short(v Verdict) string {
	s := v.Action.String()
	if v.NeedsName {
		s += "?"
	}
	switch {
	case v.Rule >= 0:
		return fmt.Sprintf("%s %d", s, v.Rule)
	case v.Source == sourceAlways:
		return s + " always"
	}
	return s + " default"
}

type decideRow struct{ rules, flow, evidence, want string }

func runDecide(t *testing.T, rows []decideRow) {
	t.Helper()
	for _, row := range rows {
		p := parsePolicy(t, row.rules)
		v := p.Decide(testHost, parseFlow(t, row.flow), parseEvidence(t, row.evidence))
		if got := short(v); got != row.want {
			t.Errorf("%s: %s [%s]: %s, want %s (%s)", row.rules, row.flow, row.evidence, got, row.want, v.Reason)
		}
	}
}

func TestDecideByAddress(t *testing.T) {
	t.Parallel()
	runDecide(t, []decideRow{
		// First match wins, else the default.
		{"", "tcp 1.1.1.1:443", "", "deny default"},
		{"default allow", "tcp 1.1.1.1:443", "", "allow default"},
		{"deny 1.1.1.1; allow public", "tcp 1.1.1.1:443", "", "deny 0"},
		{"deny 1.1.1.1; allow public", "tcp 1.1.1.2:443", "", "allow 1"},
		{"allow public; deny 1.1.1.1", "tcp 1.1.1.1:443", "", "allow 0"},
		{"allow 1.0.0.0/8; deny 1.1.0.0/16; deny 1.1.1.1", "tcp 1.1.1.1:443", "", "allow 0"},
		{"deny 1.1.1.1; deny 1.1.0.0/16; allow 1.0.0.0/8", "tcp 1.1.2.1:443", "", "deny 1"},
		{"deny 1.1.1.1; deny 1.1.0.0/16; allow 1.0.0.0/8", "tcp 1.2.1.1:443", "", "allow 2"},

		// Protocols and ports.
		{"allow * tcp 443", "tcp 1.1.1.1:443", "", "allow 0"},
		{"allow * tcp 443", "udp 1.1.1.1:443", "", "deny default"},
		{"allow * tcp 443", "tcp 1.1.1.1:444", "", "deny default"},
		{"allow * 80,8000-9000", "udp 1.1.1.1:8000", "", "allow 0"},
		{"allow * 80,8000-9000", "udp 1.1.1.1:9000", "", "allow 0"},
		{"allow * 80,8000-9000", "udp 1.1.1.1:9001", "", "deny default"},
		{"allow * 80,8000-9000", "udp 1.1.1.1:7999", "", "deny default"},
		{"allow * 65535", "tcp 1.1.1.1:65535", "", "allow 0"},
		{"allow * 1", "tcp 1.1.1.1:1", "", "allow 0"},
		{"allow * 1-65535", "icmpv4 1.1.1.1", "", "deny default"}, // with ports never ICMP
		{"allow * tcp,icmpv4 80", "icmpv4 1.1.1.1", "", "deny default"},
		{"allow * icmpv4", "icmpv4 1.1.1.1", "", "allow 0"},
		{"allow * icmpv4", "icmpv6 2606::1", "", "deny default"},
		{"allow *", "icmpv6 2606::1", "", "allow 0"},

		// Directions: the remote port out, the guest's port in.
		{"allow ingress *; ingress deny", "tcp 1.1.1.1:80", "", "deny default"},
		{"allow ingress * 80; ingress deny", "in tcp 1.1.1.1 80", "", "allow 0"},
		{"allow ingress * 80; ingress deny", "in tcp 1.1.1.1 81", "", "deny default"},
		{"deny any 10.0.0.0/8", "in tcp 10.1.1.1 80", "", "deny 0"},
		{"deny any 10.0.0.0/8", "tcp 10.1.1.1:80", "", "deny 0"},
		{"deny egress *", "in udp 1.1.1.1 80", "", "allow default"},
		{"allow any a.test; ingress deny", "in tcp 1.1.1.1 80", "name a.test | a.test", "deny default"},
		{"deny any a.test", "in tcp 1.1.1.1 80", "malformed | a.test", "allow default"},

		// In ingress the host's loopback and addresses are host.
		{"deny ingress host", "in tcp 127.0.0.1 80", "", "deny 0"},
		{"deny ingress host", "in tcp ::1 80", "", "deny 0"},
		{"deny ingress host", "in tcp ::ffff:127.0.0.1 80", "", "deny 0"},
		{"deny ingress host", "in tcp 192.168.1.10 80", "", "deny 0"},
		{"deny ingress host", "in tcp 192.168.1.11 80", "", "allow default"},
		{"deny ingress loopback", "in tcp 127.0.0.1 80", "", "allow default"},
		{"deny ingress 127.0.0.0/8", "in tcp 127.0.0.1 80", "", "deny 0"},
		{"", "in tcp fe80::1%eth0 80", "", "deny always"},
		{"allow ingress host", "in tcp 64:ff9b::127.0.0.1 80", "", "deny always"}, // a neighbour that calls itself so

		// Groups open only their own.
		{"allow host", "tcp 172.16.0.1:80", "", "allow 0"},
		{"allow host", "tcp 192.168.1.10:80", "", "allow 0"},
		{"allow private", "tcp 172.16.0.1:80", "", "deny default"},
		{"allow private", "tcp 192.168.1.10:80", "", "deny default"},
		{"allow private", "tcp 192.168.1.11:80", "", "allow 0"},
		{"allow private", "tcp 100.100.100.200:80", "", "deny default"},
		{"allow link-local", "tcp 169.254.169.254:80", "", "deny default"},
		{"allow metadata", "tcp 169.254.169.254:80", "", "allow 0"},
		{"allow 169.254.0.0/16", "tcp 169.254.169.254:80", "", "allow 0"},
		{"allow public", "tcp 192.0.2.1:80", "", "deny default"},
		{"allow 192.0.2.0/24", "tcp 192.0.2.1:80", "", "allow 0"},
		{"default allow", "tcp 192.0.2.1:80", "", "allow default"},

		// What no rule opens.
		{"default allow", "tcp 0.0.0.0:80", "", "deny always"},
		{"default allow", "tcp 0.1.2.3:80", "", "deny always"},
		{"default allow", "tcp [::]:80", "", "deny always"},
		{"allow 127.0.0.1", "tcp 127.0.0.1:80", "", "deny always"},
		{"allow loopback", "tcp 127.8.8.8:80", "", "deny always"},
		{"allow loopback", "tcp [::1]:80", "", "deny always"},
		{"default allow", "tcp [::ffff:1.1.1.1]:80", "", "deny always"},
		{"default allow", "tcp [::1.1.1.1]:80", "", "deny always"},
		{"allow multicast", "udp 224.0.0.251:5353", "", "deny always"},
		{"allow multicast", "udp [ff02::fb]:5353", "", "deny always"},
		{"default allow", "udp 255.255.255.255:80", "", "deny always"},
		{"default allow", "udp 240.0.0.1:80", "", "deny always"},
		{"default allow", "tcp [fe80::1]:80", "", "deny always"},
		{"default allow", "tcp [fe80::10]:80", "", "deny always"},
		{"default allow", "tcp 172.16.0.6:80", "", "deny always"},
		{"default allow", "tcp [fd42:6d73:62:1::2]:80", "", "deny always"},
		{"default allow", "tcp 172.16.0.0:80", "", "deny always"},
		{"default allow", "tcp 172.16.0.3:80", "", "deny always"},
		{"default allow", "tcp [fd42:6d73:62::]:80", "", "deny always"},
		{"default allow", "tcp 172.16.0.8:80", "", "allow default"},
		{"default allow", "tcp 1.1.1.1:0", "", "deny always"},
		{"default allow", "in tcp 1.1.1.1 0", "", "deny always"},
		{"default allow", "in icmpv4 1.1.1.1 0", "", "deny always"},
		{"default allow", "icmpv4 2606::1", "", "deny always"},
		{"default allow", "icmpv6 1.1.1.1", "", "deny always"},
	})
}

func TestDecideNAT64(t *testing.T) {
	t.Parallel()
	runDecide(t, []decideRow{
		// Judged by the address inside, whatever the prefix.
		{"allow public", "tcp [64:ff9b::1.1.1.1]:80", "", "allow 0"},
		{"allow public", "tcp [64:ff9b::10.0.0.5]:80", "", "deny default"},
		{"allow private", "tcp [64:ff9b::10.0.0.5]:80", "", "allow 0"},
		{"allow 10.0.0.5", "tcp [64:ff9b::10.0.0.5]:80", "", "allow 0"},
		{"allow public", "tcp [64:ff9b::169.254.169.254]:80", "", "deny default"},
		{"allow metadata", "tcp [64:ff9b::169.254.169.254]:80", "", "allow 0"},
		{"allow 1.1.1.0/24", "tcp [2001:db8:64::1.1.1.1]:80", "", "allow 0"},
		{"allow 1.1.1.0/24", "tcp [2a00:64:0101:0101::]:80", "", "allow 0"},
		{"allow 1.1.1.0/24", "icmpv6 64:ff9b::1.1.1.1", "", "allow 0"},

		// The IPv6 form matches deny rules only.
		{"allow 64:ff9b::/96", "tcp [64:ff9b::1.1.1.1]:80", "", "deny default"},
		{"deny 64:ff9b::/96; default allow", "tcp [64:ff9b::1.1.1.1]:80", "", "deny 0"},
		{"deny 64:ff9b::1.1.1.1; deny 1.1.1.2; default allow", "tcp [64:ff9b::1.1.1.1]:80", "", "deny 0"},
		{"deny 64:ff9b::1.1.1.1; deny 1.1.1.2; default allow", "tcp [64:ff9b::1.1.1.2]:80", "", "deny 1"},
		{"deny 64:ff9b::1.1.1.1; deny 1.1.1.2; default allow", "tcp [64:ff9b::1.1.1.3]:80", "", "allow default"},

		// The host and reserved addresses are never inside.
		{"default allow", "tcp [64:ff9b::172.16.0.1]:80", "", "deny always"},
		{"allow host", "tcp [64:ff9b::192.168.1.10]:80", "", "deny always"},
		{"default allow", "tcp [64:ff9b::192.0.2.1]:80", "", "deny always"},
		{"default allow", "tcp [64:ff9b::127.0.0.1]:80", "", "deny always"},
		{"default allow", "tcp [64:ff9b::0.0.0.0]:80", "", "deny always"},
		{"default allow", "tcp [64:ff9b::172.16.0.6]:80", "", "deny always"},
		{"default allow", "tcp [64:ff9b::172.16.0.3]:80", "", "deny always"},
		{"default allow", "tcp [64:ff9b:1::1.1.1.1]:80", "", "allow default"}, // reserved, no NAT64 prefix of ours
		{"allow public", "tcp [64:ff9b:1::1.1.1.1]:80", "", "deny default"},
	})
}

// The rows of the contract's table.
func TestDecideByName(t *testing.T) {
	t.Parallel()
	runDecide(t, []decideRow{
		// name N, allow D: Yes iff N matches D and N itself is in P(A).
		{"allow a.test", "tcp 1.1.1.1:443", "name a.test | a.test", "allow 0"},
		{"allow a.test", "tcp 1.1.1.1:443", "name a.test | ", "deny default"},
		{"allow a.test", "tcp 1.1.1.1:443", "name a.test | b.test", "deny default"},
		{"allow a.test", "tcp 1.1.1.1:443", "name b.test | a.test", "deny default"},
		{"allow a.test", "tcp 1.1.1.1:443", "name b.test | a.test b.test", "deny default"},
		{"allow a.test", "tcp 1.1.1.1:443", "name a.test | b.test a.test", "allow 0"},
		{"allow .a.test", "tcp 1.1.1.1:443", "name x.a.test | x.a.test", "allow 0"},
		{"allow .a.test", "tcp 1.1.1.1:443", "name a.test | a.test", "deny default"},
		{"allow .a.test", "tcp 1.1.1.1:443", "name y.x.a.test | y.x.a.test", "allow 0"},
		{"allow .a.test", "tcp 1.1.1.1:443", "name x.a.test | y.a.test", "deny default"},
		{"allow a.test", "tcp 1.1.1.1:443", "name evila.test | evila.test", "deny default"},
		{"allow .a.test", "tcp 1.1.1.1:443", "name evila.test | evila.test", "deny default"},
		{"allow a.test tcp 443", "tcp 1.1.1.1:80", "name a.test | a.test", "deny default"},
		{"allow a.test tcp 443", "udp 1.1.1.1:443", "name a.test | a.test", "deny default"},

		// name N, deny D: Yes iff N matches D, or a name in P(A) does and N is not in P(A).
		{"deny a.test; allow public", "tcp 1.1.1.1:443", "name a.test | a.test", "deny 0"},
		{"deny a.test; allow public", "tcp 1.1.1.1:443", "name a.test | ", "deny 0"},
		{"deny a.test; allow public", "tcp 1.1.1.1:443", "name b.test | a.test", "deny 0"},
		{"deny a.test; allow public", "tcp 1.1.1.1:443", "name b.test | a.test b.test", "allow 1"},
		{"deny a.test; allow public", "tcp 1.1.1.1:443", "name b.test | ", "allow 1"},
		{"deny .a.test; allow public", "tcp 1.1.1.1:443", "name x.a.test | ", "deny 0"},
		{"deny .a.test; allow public", "tcp 1.1.1.1:443", "name a.test | ", "allow 1"},
		{"deny a.test udp; allow public", "tcp 1.1.1.1:443", "name a.test | a.test", "allow 1"},

		// no name, allow D: Yes iff a name in P(A) matches D and every one is an allowed name.
		{"allow a.test", "tcp 1.1.1.1:22", "opaque | a.test", "allow 0"},
		{"allow a.test", "tcp 1.1.1.1:22", "opaque | ", "deny default"},
		{"allow a.test", "tcp 1.1.1.1:22", "opaque | a.test b.test", "deny default"},
		{"allow a.test; allow b.test", "tcp 1.1.1.1:22", "opaque | a.test b.test", "allow 0"},
		{"allow b.test; allow a.test", "tcp 1.1.1.1:22", "opaque | a.test b.test", "allow 0"},
		{"allow a.test; allow b.test udp", "tcp 1.1.1.1:22", "opaque | a.test b.test", "deny default"},
		{"allow a.test; allow public", "tcp 1.1.1.1:22", "opaque | a.test b.test", "allow 0"}, // b.test is allowed by address
		{"deny b.test; allow a.test", "tcp 1.1.1.1:22", "opaque | a.test b.test", "deny 0"},
		{"allow a.test; deny b.test; allow public", "tcp 1.1.1.1:22", "opaque | a.test b.test", "deny 1"},
		{"allow a.test", "udp 1.1.1.1:443", "opaque | a.test", "allow 0"},
		{"allow a.test", "icmpv4 1.1.1.1", "opaque | a.test", "allow 0"},
		{"allow a.test", "icmpv4 1.1.1.1", "syn | a.test", "allow 0"}, // ICMP and UDP never show a name
		{"allow a.test", "udp 1.1.1.1:443", "syn | a.test b.test", "deny default"},

		// no name, deny D: Yes iff a name in P(A) matches D.
		{"deny a.test; allow public", "tcp 1.1.1.1:22", "opaque | a.test", "deny 0"},
		{"deny a.test; allow public", "tcp 1.1.1.1:22", "opaque | b.test a.test", "deny 0"},
		{"deny a.test; allow public", "tcp 1.1.1.1:22", "opaque | b.test", "allow 1"},
		{"deny a.test; allow public", "tcp 1.1.1.1:22", "opaque | ", "allow 1"},

		// malformed: any domain rule before the first address Yes denies.
		{"allow a.test; allow public", "tcp 1.1.1.1:443", "malformed | a.test", "deny 0"},
		{"allow public; allow a.test", "tcp 1.1.1.1:443", "malformed | a.test", "allow 0"},
		{"allow a.test udp; allow public", "tcp 1.1.1.1:443", "malformed | a.test", "allow 1"},
		{"allow a.test tcp 80; allow public", "tcp 1.1.1.1:443", "malformed | a.test", "allow 1"},
		{"deny a.test; default allow", "tcp 1.1.1.1:443", "malformed |", "deny 0"},
		{"deny private; deny a.test; default allow", "tcp 1.1.1.1:443", "malformed |", "deny 1"},
		{"deny a.test; default allow", "tcp 1.1.1.1:443", "name |", "deny 0"}, // a name that is none

		// The first address Yes ends the walk, whatever follows.
		{"allow public; deny a.test", "tcp 1.1.1.1:443", "name a.test | a.test", "allow 0"},
		{"deny public; allow a.test", "tcp 1.1.1.1:443", "name a.test | a.test", "deny 0"},
		{"deny a.test; allow b.test; allow .test", "tcp 1.1.1.1:443", "name c.test | c.test", "allow 2"},
	})
}

// An allow domain rule opens only public and admitted addresses.
func TestDecideClosedAddress(t *testing.T) {
	t.Parallel()
	runDecide(t, []decideRow{
		{"allow a.test", "tcp 10.0.0.5:443", "name a.test | a.test", "deny default"},
		{"allow a.test", "tcp 10.0.0.5:22", "opaque | a.test", "deny default"},
		{"allow a.test; allow private", "tcp 10.0.0.5:443", "name a.test | a.test", "allow 0"},
		{"allow a.test; allow private tcp 80", "tcp 10.0.0.5:443", "name a.test | a.test", "deny default"},
		{"allow a.test; deny b.test; default allow", "tcp 10.0.0.5:443", "name a.test | a.test", "allow 0"},
		{"allow a.test; deny private; default allow", "tcp 10.0.0.5:443", "name a.test | a.test", "deny 1"},
		{"allow a.test; rebind off", "tcp 10.0.0.5:443", "name a.test | a.test", "allow 0"},
		{"allow a.test; rebind off", "tcp 169.254.7.7:443", "name a.test | a.test", "allow 0"},
		{"allow a.test; rebind off", "tcp 169.254.169.254:443", "name a.test | a.test", "deny default"},
		{"allow a.test; rebind off", "tcp 172.16.0.1:443", "name a.test | a.test", "deny default"},
		{"allow a.test; rebind off", "tcp 192.0.2.1:443", "name a.test | a.test", "deny default"},
		{"allow a.test; allow metadata", "tcp 169.254.169.254:443", "name a.test | a.test", "allow 0"},
		{"allow a.test", "tcp [64:ff9b::10.0.0.5]:443", "name a.test | a.test", "deny default"},
		{"allow a.test", "tcp [64:ff9b::1.1.1.1]:443", "name a.test | a.test", "allow 0"},
		{"deny a.test; allow private", "tcp 10.0.0.5:443", "name a.test | a.test", "deny 0"}, // deny rules have no such condition
	})
}

// When to dial: the contract's cases a to d.
func TestDecideStaged(t *testing.T) {
	t.Parallel()
	runDecide(t, []decideRow{
		// (a) No domain rule stands before the first address Yes.
		{"allow public; allow a.test", "tcp 1.1.1.1:443", "syn | a.test", "allow 0"},
		{"deny public; allow a.test", "tcp 1.1.1.1:443", "syn | a.test", "deny 0"},
		{"allow a.test udp; allow public", "tcp 1.1.1.1:443", "syn | a.test", "allow 1"},
		{"allow a.test tcp 443; allow public", "tcp 1.1.1.1:80", "syn | a.test", "allow 1"},
		{"deny a.test", "in tcp 1.1.1.1 80", "syn | a.test", "allow default"},
		// (b) V0 allows: dial at once.
		{"deny a.test; allow public", "tcp 1.1.1.1:443", "syn |", "allow? 1"},
		{"deny a.test; default allow", "tcp 1.1.1.1:22", "syn | b.test", "allow? default"},
		{"allow a.test", "tcp 1.1.1.1:443", "syn | a.test", "allow? 0"},
		{"allow a.test; allow private", "tcp 10.0.0.5:443", "syn | a.test", "allow? 0"},
		// (c) V0 denies, but some name in P(A) is an allowed name.
		{"allow a.test", "tcp 1.1.1.1:443", "syn | a.test b.test", "deny? default"},
		{"deny a.test; allow public", "tcp 1.1.1.1:443", "syn | a.test b.test", "deny? 0"},
		{"deny a.test; allow b.test", "tcp 1.1.1.1:443", "syn | b.test a.test", "deny? 0"},
		// (d) Otherwise deny at the SYN.
		{"allow a.test", "tcp 1.1.1.1:443", "syn |", "deny default"},
		{"allow a.test", "tcp 1.1.1.1:443", "syn | b.test", "deny default"},
		{"allow a.test", "tcp 10.0.0.5:443", "syn | a.test", "deny default"},
		{"deny a.test; allow public", "tcp 1.1.1.1:443", "syn | a.test", "deny 0"},
		{"deny a.test; allow public", "tcp 10.0.0.5:443", "syn |", "deny default"},
	})
}

func TestDecideDial(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		rules, evidence             string
		action                      Action
		needsName, dial, perRequest bool
	}{
		{"allow public", "syn |", Allow, false, false, false},
		{"deny a.test; allow public", "syn |", Allow, true, true, true},
		{"allow a.test", "syn | a.test b.test", Deny, true, false, false},
		{"allow a.test", "syn |", Deny, false, false, false},
		{"allow a.test", "name a.test | a.test", Allow, false, false, true},
		{"allow a.test; allow public", "name b.test |", Allow, false, false, false},       // no name could deny it
		{"deny a.test; allow public", "name b.test |", Allow, false, false, true},         // another request may be for a.test
		{"deny a.test tcp 80; allow public", "name b.test |", Allow, false, false, false}, // that rule does not fit
		{"allow public; deny a.test", "name b.test |", Allow, false, false, false},
	} {
		v := parsePolicy(t, row.rules).Decide(testHost, parseFlow(t, "tcp 1.1.1.1:443"), parseEvidence(t, row.evidence))
		if v.Action != row.action || v.NeedsName != row.needsName || v.Dial != row.dial || v.PerRequest != row.perRequest {
			t.Errorf("%s [%s]: %+v", row.rules, row.evidence, v)
		}
	}
}

func TestDecideQUIC(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		rules, flow, evidence string
		want                  Refusal
	}{
		// Refused where a domain rule stands before, or is, the rule that allows.
		{"allow public", "udp 1.1.1.1:443", "", RefuseNone},
		{"default allow", "udp 1.1.1.1:443", "", RefuseNone},
		{"deny a.test; default allow", "udp 1.1.1.1:443", "", RefuseAll},
		{"allow public; deny a.test", "udp 1.1.1.1:443", "", RefuseNone},
		{"deny a.test; allow public", "udp 1.1.1.1:443", "", RefuseAll},
		{"deny a.test; allow public", "udp 1.1.1.1:444", "", RefuseQUIC},
		{"deny a.test tcp; allow public", "udp 1.1.1.1:443", "", RefuseNone},
		{"deny a.test 80; allow public", "udp 1.1.1.1:443", "", RefuseNone},
		{"allow a.test", "udp 1.1.1.1:443", "opaque | a.test", RefuseAll},
		{"allow a.test", "udp 1.1.1.1:8443", "opaque | a.test", RefuseQUIC},
		{"allow a.test", "udp 1.1.1.1:443", "", RefuseNone}, // denied anyway
		{"deny a.test; allow public", "tcp 1.1.1.1:443", "name b.test |", RefuseNone},
		// Lifted by a domain rule that lists udp and the port.
		{"allow a.test udp 443", "udp 1.1.1.1:443", "opaque | a.test", RefuseNone},
		{"allow a.test tcp,udp 443", "udp 1.1.1.1:443", "opaque | a.test", RefuseNone},
		{"allow a.test 443", "udp 1.1.1.1:443", "opaque | a.test", RefuseAll},
		{"allow a.test udp", "udp 1.1.1.1:443", "opaque | a.test", RefuseAll},
		{"deny b.test; allow a.test udp 443", "udp 1.1.1.1:443", "opaque | a.test", RefuseNone},
		{"allow a.test udp 443; allow public", "udp 1.1.1.1:443", "", RefuseNone},
		{"allow a.test udp 443; deny b.test; allow public", "udp 1.1.1.1:443", "", RefuseAll},
		// Lifted by BlockQUIC false, unconditional by true; intercepted ports.
		{"deny a.test; allow public; quic pass", "udp 1.1.1.1:443", "", RefuseNone},
		{"allow public; quic refuse", "udp 1.1.1.1:443", "", RefuseAll},
		{"allow public; quic refuse", "udp 1.1.1.1:444", "", RefuseQUIC},
		{"allow public; intercept", "udp 1.1.1.1:8443", "", RefuseAll},
		{"allow public; intercept", "udp 1.1.1.1:444", "", RefuseNone},
		{"allow public; intercept; quic pass", "udp 1.1.1.1:8443", "", RefuseNone},
		{"quic refuse", "in udp 1.1.1.1 443", "", RefuseNone},
	} {
		v := parsePolicy(t, row.rules).Decide(testHost, parseFlow(t, row.flow), parseEvidence(t, row.evidence))
		if v.Refuse != row.want {
			t.Errorf("%s: %s [%s]: refuses %v, want %v", row.rules, row.flow, row.evidence, v.Refuse, row.want)
		}
	}
	for _, row := range []struct {
		refusal   Refusal
		quic, all bool
	}{{RefuseNone, false, false}, {RefuseQUIC, true, false}, {RefuseAll, true, true}} {
		if row.refusal.Refuses(true) != row.quic || row.refusal.Refuses(false) != row.all {
			t.Errorf("%v refuses QUIC %v and others %v", row.refusal, row.refusal.Refuses(true), row.refusal.Refuses(false))
		}
	}
}

// Whatever is missing, the answer is deny.
func TestZeroDenies(t *testing.T) {
	t.Parallel()
	f := parseFlow(t, "tcp 1.1.1.1:443")
	open := parsePolicy(t, "default allow")
	var none *Policy
	for name, v := range map[string]Verdict{
		"zero verdict": {},
		"nil policy":   none.Decide(testHost, f, Evidence{}),
		"nil query":    none.PermitDNS(Query{Name: "a.test", Transport: UDP}),
		"nil hop":      none.PermitHop(Verdict{Action: Allow}, "a.test"),
		"nil answer":   none.AdmitAnswer(testHost, f.Peer.Addr()),
		"zero config":  compile(Config{}).Decide(testHost, f, Evidence{}),
		"zero query":   compile(Config{}).PermitDNS(Query{Name: "a.test", Transport: UDP}),
		"nil host":     open.Decide(nil, f, Evidence{}),
		"host unknown": open.AdmitAnswer(nil, f.Peer.Addr()),
		"zero flow":    open.Decide(testHost, Flow{}, Evidence{}),
		"any flow":     open.Decide(testHost, Flow{Any, TCP, f.Peer, 1}, Evidence{}),
		"no protocol":  open.Decide(testHost, Flow{Egress, 0, f.Peer, 0}, Evidence{}),
		"protocol 9":   open.Decide(testHost, Flow{Egress, 9, f.Peer, 0}, Evidence{}),
		"zone":         open.Decide(testHost, Flow{Egress, TCP, netip.MustParseAddrPort("[2606::1%x]:80"), 0}, Evidence{}),
		"stage 9":      parsePolicy(t, "allow a.test; default allow").Decide(testHost, f, Evidence{Stage: 9}),
		"no transport": open.PermitDNS(Query{Name: "a.test"}),
		"ICMP query":   open.PermitDNS(Query{Name: "a.test", Transport: ICMPv4}),
		"denied hop":   open.PermitHop(Verdict{Rule: -1}, "a.test"),
		"foreign hop":  open.PermitHop(Verdict{Action: Allow, Rule: 0}, "a.test"),
		"zero answer":  open.AdmitAnswer(testHost, netip.Addr{}),
	} {
		if v.Action != Deny || v.NeedsName || v.Dial {
			t.Errorf("%s: %+v", name, v)
		}
	}
	if none.Rules() != nil || none.Warnings() != nil || none.HasDomainRules() || none.Default(Egress) != Deny || open.Default(Any) != Deny {
		t.Error("a nil policy has something")
	}
	for _, e := range []Explanation{none.ExplainDNS(Query{Name: "a.test", Transport: UDP}), open.ExplainDNS(Query{Name: "a.test"})} {
		if e.Verdict.Action != Deny || len(e.Steps) > 0 || e.Change != nil {
			t.Errorf("a query that is none is explained: %+v", e)
		}
	}
	if e := none.Explain(testHost, f, Evidence{}); e.Verdict.Action != Deny || e.Change != nil {
		t.Errorf("a nil policy explains %+v", e)
	}
}

// A verdict names the rule in the user's words.
func TestVerdictSource(t *testing.T) {
	t.Parallel()
	c, problems := Spec{DenyDomains: []string{"ads.test"}, Policy: PresetNonLocal, Rules: []RuleSpec{{Action: "allow", Destination: "192.0.2.7"}}}.Flatten()
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ flow, evidence, source, text string }{
		{"tcp 1.1.1.1:443", "name ads.test |", "DenyDomains[0]", "deny egress ads.test"},
		{"tcp 1.1.1.1:443", "name b.test |", "preset non-local", "allow egress public"},
		{"tcp 10.0.0.5:443", "name b.test |", "preset non-local", "allow egress private"},
		{"tcp 192.0.2.7:443", "name b.test |", "Rules[0]", "allow egress 192.0.2.7"},
		{"tcp 192.0.2.8:443", "name b.test |", "default egress", ""},
		{"in tcp 192.0.2.8 443", "", "default ingress", ""},
		{"tcp 127.0.0.1:443", "", "always denied", ""},
	} {
		v := p.Decide(testHost, parseFlow(t, row.flow), parseEvidence(t, row.evidence))
		if v.Source != row.source || v.Text != row.text {
			t.Errorf("%s: %q %q, want %q %q", row.flow, v.Source, v.Text, row.source, row.text)
		}
	}
}

// A deny under domain rules says what was missing.
func TestVerdictReason(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ rules, flow, evidence, want string }{
		{"allow a.test", "tcp 1.1.1.1:443", "name a.test |", reasonNotGiven},
		{"allow a.test", "tcp 10.0.0.5:443", "name a.test | a.test", reasonClosed},
		{"allow a.test", "tcp 10.0.0.5:443", "opaque | a.test", reasonClosed},
		{"allow a.test", "tcp 1.1.1.1:443", "opaque | a.test b.test", reasonShared},
		{"allow a.test", "tcp 1.1.1.1:443", "opaque |", reasonUnnamed},
		{"allow a.test; deny *", "tcp 1.1.1.1:443", "syn |", reasonUnnamed},
		{"allow a.test", "tcp 1.1.1.1:443", "name b.test | b.test", reasonNoRule},
		{"allow a.test", "tcp 1.1.1.1:443", "opaque | b.test", reasonNoRule},
		{"deny *; allow a.test", "tcp 1.1.1.1:443", "name a.test |", ""},
		{"allow a.test udp", "tcp 1.1.1.1:443", "name a.test |", reasonNoRule},
		{"allow a.test udp; allow b.test", "tcp 1.1.1.1:443", "name a.test |", reasonNoRule},
		{"allow a.test 80; allow b.test", "tcp 1.1.1.1:443", "name a.test |", reasonNoRule},
		{"deny b.test", "tcp 1.1.1.1:443", "opaque |", reasonNoRule},
		{"allow a.test", "tcp 1.1.1.1:443", "malformed |", reasonMalformed},
		{"deny b.test; allow a.test", "tcp 1.1.1.1:443", "name b.test |", ""},
		{"", "tcp 0.0.0.0:443", "", deniedUnspecified},
		{"", "tcp [64:ff9b::172.16.0.1]:443", "", deniedNAT64Host},
		{"", "tcp [64:ff9b::192.0.2.1]:443", "", deniedNAT64None},
		{"", "tcp 172.16.0.5:443", "", deniedOther},
		{"", "tcp 172.16.0.3:443", "", deniedBlockEdge},
		{"", "tcp [::ffff:1.1.1.1]:443", "", deniedMapped},
		{"", "tcp [::1.1.1.1]:443", "", deniedCompatible},
	} {
		v := parsePolicy(t, row.rules).Decide(testHost, parseFlow(t, row.flow), parseEvidence(t, row.evidence))
		if v.Reason != row.want {
			t.Errorf("%s: %s [%s]: %q, want %q", row.rules, row.flow, row.evidence, v.Reason, row.want)
		}
	}
}

func TestHasDomainRules(t *testing.T) {
	t.Parallel()
	for rules, want := range map[string]bool{"": false, "allow public": false, "allow a.test": true, "deny .a.test": true, "deny a.test; deny .a.test": true} {
		if got := parsePolicy(t, rules).HasDomainRules(); got != want {
			t.Errorf("%q: %v", rules, got)
		}
	}
}
