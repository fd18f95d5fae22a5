package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

var targetGateway = netip.MustParseAddr("10.77.0.1")

// targetText writes what a target stands for.
func targetText(t Target) string {
	words := []string{t.Flow.Direction.String(), t.Flow.Protocol.String(), t.Flow.Peer.String()}
	if t.Flow.GuestPort != 0 {
		words = append(words, fmt.Sprintf("→%d", t.Flow.GuestPort))
	}
	if t.Name != "" {
		words = append(words, t.Name)
	}
	if t.query {
		words = append(words, "query")
	}
	if t.shown {
		words = append(words, "shown")
	}
	return strings.Join(words, " ")
}

func TestParseTarget(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ text, want string }{
		{"https://example.com/x?y", "egress tcp 1.1.1.1:443 example.com shown"},
		{"http://Example.COM.:8080", "egress tcp 1.1.1.1:8080 example.com shown"},
		{"HTTPS://bücher.example", "egress tcp 1.1.1.1:443 xn--bcher-kva.example shown"},
		{"https://192.0.2.1", "egress tcp 192.0.2.1:443 shown"},
		{"tcp://a.example:22", "egress tcp 1.1.1.1:22 a.example"},
		{"tcp://[::ffff:10.0.0.1]:1", "egress tcp 10.0.0.1:1"},
		{"tcp://[fe80::1%25eth0]:1", "egress tcp [fe80::1]:1"},
		{"tcp://host:80", "egress tcp 10.77.0.1:80"},
		{"tcp://" + strings.ToUpper(HostAliases()[0]) + ":22", "egress tcp 10.77.0.1:22"},
		{"udp://[2001:db8::1]:53", "egress udp [2001:db8::1]:53"},
		{"icmp://192.0.2.1", "egress icmpv4 192.0.2.1:0"},
		{"icmp://192.0.2.1:7", "egress icmpv4 192.0.2.1:0"},
		{"icmp://[fd00::1]", "egress icmpv6 [fd00::1]:0"},
		{"icmp://[::ffff:10.0.0.1]", "egress icmpv4 10.0.0.1:0"},
		{"icmp://a.example", "egress icmpv4 1.1.1.1:0 a.example"},
		{"dns://example.com", "egress udp 1.1.1.1:53 example.com query"},
		{"in://:8080", "ingress tcp 127.0.0.1:1024 →8080"},
		{"in://192.0.2.9:80", "ingress tcp 192.0.2.9:1024 →80"},
		{"in://[2001:db8::9]:53/udp", "ingress udp [2001:db8::9]:1024 →53"},
		{"in://a.example:80", "a peer has no name"},
		{"in://host:80", "a peer has no name"},
		{"in://192.0.2.9", "no port"},
		{"tcp://10.0.0.1", "no port"},
		{"tcp://10.0.0.1:0", "no port"},
		{"tcp://10.0.0.1:65536", "no port"},
		{"dns://10.0.0.1", "only names are looked up"},
		{"tcp://2001:db8::1:443", "write an IPv6 address in brackets"},
		{"icmp://fd00::1", "write an IPv6 address in brackets"},
		{"in://::1:80", "write an IPv6 address in brackets"},
		{"tcp://127.1:80", "neither an address in four decimal parts nor a domain name"},
		{"tcp://a..b:1", "a..b"},
		{"tcp://:80", `target: "tcp://:80": `},
		{"gopher://x", "no target; write one such as https://example.com/"},
		{"example.com", "no target"},
		{"example.com:443", "no target"},
		{"https:example.com", "no target"},
		{"http://a b", "no URL"},
		{"://", "no URL"},
		{"", "no target"},
	} {
		got, err := ParseTarget(row.text, targetGateway)
		if err != nil {
			if !strings.Contains(err.Error(), row.want) || strings.Contains(row.want, "egress") {
				t.Errorf("%q: %v, want %q", row.text, err, row.want)
			}
			continue
		}
		if targetText(got) != row.want {
			t.Errorf("%q is %q, want %q", row.text, targetText(got), row.want)
		}
	}
}

func TestExplainTarget(t *testing.T) {
	t.Parallel()
	host := &Host{Gateways: []netip.Addr{targetGateway}}
	for _, row := range []struct{ rules, target, names, want string }{
		{"allow a.test tcp 443", "https://a.test", "", "dns allow, address allow, name allow"},
		{"allow a.test tcp 443", "tcp://a.test:443", "", "dns allow, address allow, opaque allow"},
		{"allow a.test tcp 443", "http://a.test", "", "dns allow, address deny"},
		{"allow a.test", "https://b.test", "", "dns deny"},
		{"allow a.test", "dns://a.test", "", "dns allow"},
		{"allow a.test", "tcp://192.0.2.1:80", "", "address deny"},
		{"allow a.test", "tcp://9.9.9.9:80", "a.test", "address allow, opaque allow"},
		{"deny a.test; allow public", "https://9.9.9.9", "a.test b.test", "address deny, opaque deny"},
		{"allow host tcp 80", "tcp://host:80", "", "address allow"},
		{"allow host tcp 80", "tcp://host:81", "", "address deny"},
		{"deny ingress 192.0.2.0/24", "in://192.0.2.1:80", "", "address deny"},
		{"deny ingress 192.0.2.0/24", "in://:80", "", "address allow"},
	} {
		target, err := ParseTarget(row.target, targetGateway)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range parsePolicy(t, row.rules).ExplainTarget(host, target, strings.Fields(row.names)) {
			got = append(got, d.Stage+" "+d.Verdict.Action.String())
		}
		if text := strings.Join(got, ", "); text != row.want {
			t.Errorf("%s: %s is %q, want %q", row.rules, row.target, text, row.want)
		}
	}
}

// Whatever is written, a target is one that flows can have, and every policy has
// a last word about it.
func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{
		"https://example.com/", "tcp://[fe80::1%25eth0]:80", "udp://1.1.1.1:53", "icmp://[::ffff:10.0.0.1]:9", "dns://bücher.example",
		"in://:8080/udp", "in://[::1]:80", "tcp://host:80", "http://a@b:1", "https://０x7f.1/", "tcp:1",
	} {
		f.Add(s)
	}
	host := &Host{Gateways: []netip.Addr{targetGateway}}
	f.Fuzz(func(t *testing.T, text string) {
		target, err := ParseTarget(text, targetGateway)
		if err != nil {
			return
		}
		flow := target.Flow
		peer := flow.Peer.Addr()
		if !peer.IsValid() || peer.Is4In6() || peer.Zone() != "" || !flow.Protocol.valid() {
			t.Fatalf("%q is %q", text, targetText(target))
		}
		if flow.Protocol.HasPorts() == (flow.port() == 0) || (flow.Direction == Ingress) != (flow.GuestPort != 0) {
			t.Fatalf("%q is %q: ports", text, targetText(target))
		}
		if target.Name != "" {
			checkName(t, text, target.Name)
		}
		if target.query && (target.Name == "" || target.shown) {
			t.Fatalf("%q is %q: a query", text, targetText(target))
		}
		met := compile(Config{}).ExplainTarget(host, target, nil)
		if len(met) == 0 || met[len(met)-1].Verdict.Action != Deny {
			t.Fatalf("%q passes a policy without rules: %+v", text, met)
		}
	})
}
