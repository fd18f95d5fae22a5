package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestParseNameserver(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ text, want string }{
		{"1.1.1.1", "1.1.1.1:53"},
		{"1.1.1.1:5353", "1.1.1.1:5353"},
		{"2606:4700::1111", "[2606:4700::1111]:53"},
		{"[2606:4700::1111]:5353", "[2606:4700::1111]:5353"},
		{"fe80::1%eth0", "[fe80::1%eth0]:53"},
		{"::ffff:1.1.1.1", "1.1.1.1:53"},
		{"Router.LAN", "router.lan:53"},
		{"dns.example.com:5353", "dns.example.com:5353"},
		{"localhost", "localhost:53"},
	} {
		n, err := ParseNameserver(tt.text)
		if err != nil || n.String() != tt.want {
			t.Errorf("%q: got %s, %v, want %s", tt.text, n, err, tt.want)
			continue
		}
		if again, err := ParseNameserver(n.String()); err != nil || again != n {
			t.Errorf("%q: printed as %s, read back as %+v, %v", tt.text, n, again, err)
		}
	}
	for _, text := range []string{"", ":53", "1.1.1.1:", "1.1.1.1:0", "1.1.1.1:65536", "[::1]", "a b", "1.1.1", "0x7f.1", "0.0.0.0", "::", "224.0.0.251", "http://x", "x:y", "dns.example.com:0"} {
		if n, err := ParseNameserver(text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, n)
		} else if !strings.Contains(err.Error(), fmt.Sprintf("parse nameserver %q: ", text)) {
			t.Errorf("%q: error doesn't quote it: %v", text, err)
		}
	}
}

func TestLoadNameservers(t *testing.T) {
	t.Parallel()
	errNobody := errors.New("no such host")
	load := func(texts ...string) (string, error) {
		var list []Nameserver
		for _, text := range texts {
			n, err := ParseNameserver(text)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, n)
		}
		u, err := loadNameservers(list, func(_ context.Context, host string) ([]netip.Addr, error) {
			if host == "router.lan" {
				return addrs("10.0.0.1 ::ffff:10.0.0.2"), nil
			}
			return nil, errNobody
		})(t.Context())
		return serversOf(u), err
	}
	for _, tt := range []struct {
		texts []string
		want  string
		err   error
	}{
		{[]string{"1.1.1.1", "9.9.9.9:5353"}, "1.1.1.1:53 9.9.9.9:5353", nil},
		{[]string{"router.lan:5353"}, "10.0.0.1:5353 10.0.0.2:5353", nil},
		{[]string{"nobody.lan", "1.1.1.1"}, "1.1.1.1:53", nil},
		{[]string{"nobody.lan"}, "", errNobody},
	} {
		if got, err := load(tt.texts...); got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%q: got %q, %v, want %q, %v", tt.texts, got, err, tt.want, tt.err)
		}
	}
}
