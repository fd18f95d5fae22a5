package policy

import (
	"strings"
	"testing"
)

func TestCanonicalName(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 63)
	longest := strings.Join([]string{long, long, long, long[:61]}, ".")
	for _, row := range []struct{ in, want string }{ // "" is malformed
		{"a.test", "a.test"}, {"A.Test", "a.test"}, {"A.TEST", "a.test"}, {"A", "a"}, {"Z", "z"}, {"a.0abc", "a.0abc"}, {"a.1x", "a.1x"}, {"a.test.", "a.test"}, {"test", "test"}, {"_dmarc.a.test", "_dmarc.a.test"},
		{"r3---sn.a.test", "r3---sn.a.test"}, {"xn--bcher-kva.test", "xn--bcher-kva.test"}, {"a*b.test", "a*b.test"}, {"-a-.test", "-a-.test"},
		{"1.a", "1.a"}, {"0x7f.example", "0x7f.example"}, {"123.4a", "123.4a"}, {"0xg", "0xg"},
		{long + ".test", long + ".test"}, {longest, longest}, {longest + ".", longest},

		{"", ""}, {".", ""}, {"..", ""}, {".a", ""}, {"a..b", ""}, {"a.test..", ""},
		{"a b.test", ""}, {"a\x00.test", ""}, {"a\x1f", ""}, {"a\x7f", ""}, {"\xfc.test", ""}, {"bücher.test", ""}, {`a\.b.test`, ""}, {"a.test:443", ""},
		{long + "a.test", ""}, {longest + "a", ""}, {longest + "a.", ""},

		// IP literals and inet_aton forms.
		{"1.2.3.4", ""}, {"1.2.3.4.", ""}, {"127.1", ""}, {"2130706433", ""}, {"0x7f.1", ""}, {"0177.0.0.1", ""}, {"0x7f000001", ""}, {"a.0X7F", ""}, {"a.0x", ""}, {"a.1", ""},
		{"::1", ""}, {"[::1]", ""}, {"fe80::1%eth0", ""},
	} {
		got, ok := CanonicalName(row.in)
		if got != row.want || ok != (row.want != "") {
			t.Errorf("CanonicalName(%q) = %q, %v, want %q", row.in, got, ok, row.want)
		}
	}
}

func TestParseName(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ in, want, message string }{
		{"a.test", "a.test", ""},
		{"A.TEST.", "a.test", ""},
		{"_dmarc.r3---sn.test", "_dmarc.r3---sn.test", ""},
		{"az09.test", "az09.test", ""},
		{"_ü.test", "xn--_-eha.test", ""},
		{"ab--ü.test", "xn--ab---3ra.test", ""},
		{"Bücher.example", "xn--bcher-kva.example", ""},
		{"straße.de", "xn--strae-oqa.de", ""},
		{"XN--bcher-KVA.example", "xn--bcher-kva.example", ""},
		{"a。test", "a.test", ""},

		{"", "", "no domain name"},
		{".", "", "no domain name"},
		{"a..b", "", "no domain name"},
		{"a..", "", "no domain name"},
		{"a\x7f.test", "", "can't hold a space or control character"},
		{"xn--zz-", "", "no domain name"},
		{"\x92.test", "", "not UTF-8"},
		{"a b.test", "", "can't hold a space or control character"},
		{"a/b.test", "", "can't hold `/`"},
		{"*.a.test", "", "can't hold `*`"},
		{"a.test:443", "", "can't hold `:`"},
		{strings.Repeat("a", 64) + ".test", "", "1 to 63 characters"},
		{"1.2.3.4", "", "an address is no domain name"},
		{"::1", "", "an address is no domain name"},
		{"１２７.0.0.1", "", "an address is no domain name"},
		{"127.1", "", "neither an address in four decimal parts nor a domain name"},
		{"0x7f.1", "", "neither an address"},
		{"2130706433", "", "neither an address"},
	} {
		got, err := ParseName(row.in)
		if got != row.want || (err == nil) != (row.message == "") || err != nil && !strings.Contains(err.Error(), row.message) {
			t.Errorf("ParseName(%q) = %q, %v, want %q %q", row.in, got, err, row.want, row.message)
		}
	}
}

// A suffix matches labels, never letters.
func TestMatchesName(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		destination, name string
		want              bool
	}{
		{"example.com", "example.com", true},
		{"example.com", "api.example.com", false},
		{"example.com", "xexample.com", false},
		{".example.com", "api.example.com", true},
		{".example.com", "a.b.example.com", true},
		{".example.com", "example.com", false},
		{".example.com", "evilexample.com", false},
		{".example.com", "example.com.evil.io", false},
		{".com", "example.com", true},
		{"meta.", "meta", true},
		{"meta.", "a.meta", false},
		{"*", "example.com", false},
		{"public", "public", false},
	} {
		d, err := ParseDestination(row.destination)
		if got := d.matchesName(row.name); err != nil || got != row.want {
			t.Errorf("%s matches %s: %v (%v), want %v", row.destination, row.name, got, err, row.want)
		}
	}
}

func TestHostAliases(t *testing.T) {
	t.Parallel()
	list := HostAliases()
	if len(list) != 4 {
		t.Fatalf("%d aliases", len(list))
	}
	for _, alias := range list {
		if d, err := ParseDestination(alias); err != nil || d != GroupDestination(GroupHost) || !IsHostAlias(alias) {
			t.Errorf("%s is %v, %v", alias, d, err)
		}
	}
	if IsHostAlias("internal") || IsHostAlias("x.host.docker.internal") {
		t.Error("a name beside the aliases is one")
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ destination, want string }{
		{"*", "every address"},
		{"private", "the addresses of group private"},
		{"10.0.0.5", "the address 10.0.0.5"},
		{"10.0.0.0/8", "the addresses 10.0.0.0 to 10.255.255.255"},
		{"2606::/127", "the addresses 2606:: to 2606::1"},
		{"example.com", "example.com, not its subdomains"},
		{".example.com", "the subdomains of example.com, not example.com itself"},
	} {
		d, err := ParseDestination(row.destination)
		if got := d.Describe(); err != nil || got != row.want {
			t.Errorf("%s: %q, %v, want %q", row.destination, got, err, row.want)
		}
	}
}
