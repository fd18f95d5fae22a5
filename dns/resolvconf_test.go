package dns

import (
	"net/netip"
	"strings"
	"testing"
)

// serversOf returns whom u names, in one line.
func serversOf(u upstreams) string {
	join := func(list []netip.AddrPort) string {
		words := make([]string, len(list))
		for i, s := range list {
			words[i] = s.String()
		}
		return strings.Join(words, " ")
	}
	words := []string{join(u.servers)}
	for _, d := range u.domains {
		words = append(words, d.domain+"="+join(d.servers))
	}
	return strings.Join(words, "; ")
}

func TestParseResolvConf(t *testing.T) {
	t.Parallel()
	const local = "127.0.0.1:53 [::1]:53"
	for _, tt := range []struct{ name, text, want string }{
		{"one", "nameserver 10.0.0.1\n", "10.0.0.1:53"},
		{"without newline", "nameserver 10.0.0.1", "10.0.0.1:53"},
		{"several, tabs, comments", "# hello\n; world\nsearch corp\nnameserver\t10.0.0.1 \r\n  nameserver ::1 # not here\noptions edns0\n", "10.0.0.1:53 [::1]:53"},
		{"zone", "nameserver fe80::1%eth0\n", "[fe80::1%eth0]:53"},
		{"mapped", "nameserver ::ffff:10.0.0.1\n", "10.0.0.1:53"},
		{"twice", "nameserver 10.0.0.1\nnameserver 10.0.0.1\n", "10.0.0.1:53"},
		{"commented out", "#nameserver 10.0.0.1\n;nameserver 10.0.0.2\n", local},
		{"empty", "", local},
		{"no address", "nameserver\nnameserver dns.example.com\nnameserver 10.0.0.256\nnameserver 10.1\n", local},
		{"other words", "nameservers 10.0.0.1\nNAMESERVER 10.0.0.1\n", local},
		{"more than we ask", strings.Repeat("nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n", 1) + "nameserver 1.0.0.1\nnameserver 1.0.0.2\nnameserver 1.0.0.3\nnameserver 1.0.0.4\nnameserver 1.0.0.5\nnameserver 1.0.0.6\n", "10.0.0.1:53 10.0.0.2:53 10.0.0.3:53 1.0.0.1:53 1.0.0.2:53 1.0.0.3:53 1.0.0.4:53 1.0.0.5:53"},
	} {
		if got := serversOf(upstreams{servers: parseResolvConf(tt.text)}); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

// scutilVPN is what scutil prints on a Mac with a VPN that has its own domain,
// a file in /etc/resolver, and multicast DNS.
const scutilVPN = `DNS configuration

resolver #1
  search domain[0] : home
  nameserver[0] : 192.168.1.1
  nameserver[1] : fe80::1%en0
  if_index : 14 (en0)
  flags    : Request A records, Request AAAA records
  reach    : 0x00020002 (Reachable,Directly Reachable Address)

resolver #2
  domain   : Corp.Example.
  nameserver[0] : 10.8.0.1
  nameserver[1] : 10.8.0.2
  flags    : Supplemental, Request A records
  reach    : 0x00000002 (Reachable)
  order    : 100800

resolver #3
  domain   : local
  options  : mdns
  timeout  : 5
  flags    : Request A records, Request AAAA records
  reach    : 0x00000000 (Not Reachable)
  order    : 300000

resolver #4
  domain   : dev.test
  nameserver[0] : 127.0.0.1
  port     : 5353
  flags    : Request A records, Request AAAA records
  reach    : 0x00030002 (Reachable,Local Address,Directly Reachable Address)

DNS configuration (for scoped queries)

resolver #1
  nameserver[0] : 9.9.9.9
  if_index : 14 (en0)
  flags    : Scoped, Request A records, Request AAAA records
`

func TestParseScutil(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, text, want string }{
		{"VPN", scutilVPN, "192.168.1.1:53 [fe80::1%en0]:53; corp.example=10.8.0.1:53 10.8.0.2:53; dev.test=127.0.0.1:5353"},
		{"no network", "No DNS configuration available\n", ""},
		{"empty", "", ""},
		{"second general one", "resolver #1\n nameserver[0] : 10.0.0.1\nresolver #2\n nameserver[0] : 10.0.0.2\n", "10.0.0.1:53"},
		{"same domain twice", "resolver #1\n domain : a\n nameserver[0] : 10.0.0.1\nresolver #2\n domain : a\n nameserver[0] : 10.0.0.2\n", "; a=10.0.0.1:53"},
		{"bad port, bad domain", "resolver #1\n nameserver[0] : 10.0.0.1\n port : 99999\nresolver #2\n domain : a..b\n nameserver[0] : 10.0.0.2\n", "10.0.0.1:53"},
		{"bad address", "resolver #1\n nameserver[0] : nobody\n", ""},
		{"lines without meaning", "resolver #1\n:\n : \nx\nnameserver : 10.0.0.1\n", "10.0.0.1:53"},
	} {
		if got := serversOf(parseScutil(tt.text)); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestPick(t *testing.T) {
	t.Parallel()
	u := parseScutil(scutilVPN + "")
	u.domains = append(u.domains, domainServers{"deep.corp.example", parseResolvConf("nameserver 10.9.0.1")})
	for _, tt := range []struct{ name, want string }{
		{"example.com", "192.168.1.1:53 [fe80::1%en0]:53"},
		{"corp.example", "10.8.0.1:53 10.8.0.2:53"},
		{"git.corp.example", "10.8.0.1:53 10.8.0.2:53"},
		{"evilcorp.example", "192.168.1.1:53 [fe80::1%en0]:53"},
		{"corp.example.com", "192.168.1.1:53 [fe80::1%en0]:53"},
		{"deep.corp.example", "10.9.0.1:53"},
		{"very.deep.corp.example", "10.9.0.1:53"},
		{"example", "192.168.1.1:53 [fe80::1%en0]:53"},
		{"", "192.168.1.1:53 [fe80::1%en0]:53"},
	} {
		if got := serversOf(upstreams{servers: u.pick(tt.name)}); got != tt.want {
			t.Errorf("%q: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

// FuzzResolvers reads anything as a host's configuration.
func FuzzResolvers(f *testing.F) {
	f.Add("resolver #1\n nameserver[0] : 10.0.0.1\nresolver #2\n domain : a.b\n nameserver[0] : ::1\n port : 5353\n")
	f.Add("nameserver 10.0.0.1\nnameserver fe80::1%eth0\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, u := range []upstreams{parseScutil(text), {servers: parseResolvConf(text)}} {
			lists := []domainServers{{servers: u.servers}}
			if len(u.domains) > maxDomains {
				t.Fatalf("%d domains", len(u.domains))
			}
			for _, l := range append(lists, u.domains...) {
				if len(l.servers) > maxServers {
					t.Fatalf("%d servers for %q", len(l.servers), l.domain)
				}
				for _, s := range l.servers {
					if !s.IsValid() || s.Addr().Is4In6() {
						t.Fatalf("server %v for %q", s, l.domain)
					}
				}
				if got := u.pick(l.domain); len(got) == 0 && len(l.servers) > 0 {
					t.Fatalf("nobody to ask for %q", l.domain)
				}
			}
		}
		if len(parseResolvConf(text)) == 0 {
			t.Fatal("resolv.conf without servers")
		}
	})
}
