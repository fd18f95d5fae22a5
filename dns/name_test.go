package dns

import (
	"testing"

	mdns "github.com/miekg/dns"
)

// wireName returns the wire form of a name in presentation form.
func wireName(t testing.TB, s string) []byte {
	t.Helper()
	buf := make([]byte, 256)
	n, err := mdns.PackDomainName(s, buf, 0, nil, false)
	if err != nil {
		t.Fatalf("name %q: %v", s, err)
	}
	return buf[:n]
}

func TestPlainName(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		want bool
	}{
		{".", true},
		{"example.com.", true},
		{"_443._tcp.example.com.", true},
		{"xn--mnchen-3ya.de.", true},
		{`a\.b.com.`, false},
		{`a\000b.com.`, false},
		{`a\032b.com.`, false},
		{`a\009b.com.`, false},
		{`a\127b.com.`, false},
		{`m\195\188nchen.de.`, false},
	} {
		if got := plainName(wireName(t, tt.name)); got != tt.want {
			t.Errorf("plainName(%s): got %t, want %t", tt.name, got, tt.want)
		}
	}
}

func TestTextForms(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, want string }{
		{".", ""},
		{"Example.COM.", "example.com"},
		{"_SIP._tcp.Example.com.", "_sip._tcp.example.com"},
	} {
		if got := string(appendText(nil, wireName(t, tt.name))); got != tt.want {
			t.Errorf("appendText(%s): got %q, want %q", tt.name, got, tt.want)
		}
		if got, ok := textName(tt.name); !ok || got != tt.want {
			t.Errorf("textName(%s): got %q %t, want %q", tt.name, got, ok, tt.want)
		}
	}
	for _, name := range []string{`a\.b.com.`, `a\032b.com.`, `\195\188.de.`, "127.1.", "a..b."} {
		if got, ok := textName(name); ok {
			t.Errorf("textName(%s): got %q, want none", name, got)
		}
	}
}

func TestServiceHost(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, host string
		labels     int
	}{
		{"example.com", "example.com", 0},
		{"_sip._tcp.example.com", "example.com", 2},
		{"_dns.example.com", "example.com", 1},
		{"_a._b._c.example.com", "example.com", 3},
		{"a._b.example.com", "a._b.example.com", 0},
		{"_a", "_a", 0},
		{"_a._b", "_a._b", 0},
		{"", "", 0},
	} {
		if host, n := serviceHost(tt.name); host != tt.host || n != tt.labels {
			t.Errorf("serviceHost(%q): got %q %d, want %q %d", tt.name, host, n, tt.host, tt.labels)
		}
	}
}

func TestFoldShared(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, question, want string }{
		{"wWw.eXample.COM.", "www.example.com.", "www.example.com."},
		{"Mail.eXample.COM.", "www.example.com.", "Mail.example.com."},
		{"E1.CloudFront.NET.", "www.example.com.", "E1.CloudFront.NET."},
		{"E1.CloudFront.COM.", "www.example.com.", "E1.CloudFront.com."},
		{".", "www.example.com.", "."},
		{"www.example.com.", ".", "www.example.com."},
		{`A\.B.Example.com.`, "example.com.", `A\.B.example.com.`},
	} {
		if got := foldShared(tt.name, tt.question); got != tt.want {
			t.Errorf("foldShared(%s, %s): got %s, want %s", tt.name, tt.question, got, tt.want)
		}
	}
}
