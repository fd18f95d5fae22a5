package sniff

import (
	"net/netip"
	"strings"
	"testing"
)

func TestCanonicalName(t *testing.T) {
	t.Parallel()
	label := strings.Repeat("a", maxLabel)
	long := strings.Repeat(label+".", 3) + strings.Repeat("a", maxName-3*(maxLabel+1))
	for _, row := range []struct {
		in, want string // want "" means none
	}{
		{"example.com", "example.com"},
		{"WWW.Example.COM", "www.example.com"},
		{"example.com.", "example.com"},
		{"localhost", "localhost"},
		{"_dmarc.x_y.example", "_dmarc.x_y.example"},
		{"r3---sn-4g5e6nsy.example", "r3---sn-4g5e6nsy.example"},
		{"xn--caf-dma.example", "xn--caf-dma.example"},
		{"1.2.3.4.example", "1.2.3.4.example"},
		{"0x7f.example", "0x7f.example"},
		{"a.b1", "a.b1"},
		{"a.0xg", "a.0xg"},
		{label + ".example", label + ".example"}, {"example." + label, "example." + label},
		{"AaZz09-_.Zz", "aazz09-_.zz"},
		{long, long}, {long + ".", long},

		{"", ""}, {".", ""}, {"..", ""}, {".example", ""}, {"a..b", ""}, {"example..", ""},
		{label + "a.example", ""}, {"example." + label + "a", ""}, {long + "a", ""},
		{"a b", ""}, {"a\x00b", ""}, {"a\tb", ""}, {"a/b", ""}, {"a:80", ""}, {"u@a", ""}, {"%61", ""}, {"*.a", ""},
		{"caf\xc3\xa9.example", ""}, {"caf\xe9.example", ""}, {"a\xe3\x80\x82b", ""},
		{"1.2.3.4", ""}, {"1.2.3.4.", ""}, {"127.1", ""}, {"2130706433", ""}, {"017700000001", ""},
		{"0x7f000001", ""}, {"0X7F.1", ""}, {"a.0x", ""}, {"a.1", ""}, {"::1", ""}, {"[::1]", ""},
	} {
		got, ok := canonicalName([]byte(row.in))
		if got != row.want || ok != (row.want != "") {
			t.Errorf("%q: got %q, %v, want %q", row.in, got, ok, row.want)
		}
	}
}

func TestParseAuthority(t *testing.T) {
	t.Parallel()
	const bad = "bad"
	for _, row := range []struct {
		in, name, addr string
		port           int
	}{
		{"", "", "", -1},
		{":", "", "", -1},
		{":80", "", "", 80},
		{"a.example", "a.example", "", -1},
		{"A.example.:0080", "a.example", "", 80},
		{"a.example:65535", "a.example", "", 65535},
		{"192.0.2.1", "", "192.0.2.1", -1},
		{"192.0.2.1:0", "", "192.0.2.1", 0},
		{"[2001:DB8::1]", "", "2001:db8::1", -1},
		{"[2001:db8::1]:", "", "2001:db8::1", -1},
		{"[2001:db8::1]:80", "", "2001:db8::1", 80},

		{"a.example:65536", bad, "", -1}, {"a.example:000080", bad, "", -1}, {"a.example:-1", bad, "", -1},
		{"a.example:80:80", bad, "", -1}, {"a.example]", bad, "", -1}, {"a]:80", bad, "", -1}, {"::1", bad, "", -1}, {"2001:db8::1:", bad, "", -1},
		{"[", bad, "", -1}, {"]", bad, "", -1}, {"[]", bad, "", -1}, {"[:80", bad, "", -1}, {"[::1", bad, "", -1},
		{"[::1]80", bad, "", -1}, {"[::1]]", bad, "", -1}, {"[::1%lo]", bad, "", -1}, {"[192.0.2.1]", bad, "", -1},
		{"[a.example]", bad, "", -1}, {"[v1.x]", bad, "", -1}, {"192.0.2.01", bad, "", -1}, {"192.0.2.256", bad, "", -1},
	} {
		want := host{name: row.name}
		if row.addr != "" {
			want.addr = netip.MustParseAddr(row.addr)
		}
		got, port, ok := parseAuthority([]byte(row.in))
		if row.name == bad {
			if ok {
				t.Errorf("%q: got %v, %d, want none", row.in, got, port)
			}
			continue
		}
		if name, addr, p, ok := ParseAuthority(row.in); name != got.name || addr != got.addr || p != port || !ok {
			t.Errorf("%q: exported %q, %v, %d, %v", row.in, name, addr, p, ok)
		}
		if got != want || port != row.port || !ok {
			t.Errorf("%q: got %v, %d, %v, want %v, %d", row.in, got, port, ok, want, row.port)
		}
	}
}
