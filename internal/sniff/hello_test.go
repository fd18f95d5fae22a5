package sniff

import (
	"crypto/tls"
	"slices"
	"strings"
	"testing"
)

func TestHello(t *testing.T) {
	t.Parallel()
	message := helloMessage(sni("a.example"))
	body := func(s string) string { return record("\x01" + u24(s)) }
	random := strings.Repeat("R", 32)
	for _, row := range []struct {
		name, in string
		want
	}{
		{"without extensions", hello(), want{TLS, ""}},
		{"empty extensions", body("\x03\x03" + random + u8("") + u16("\x13\x01") + u8("\x00") + u16("")), want{TLS, ""}},
		{"name", hello(sni("a.example")), want{TLS, "a.example"}},
		{"upper case", hello(sni("A.EXAMPLE")), want{TLS, "a.example"}},
		{"trailing dot", hello(sni("a.example.")), want{TLS, "a.example"}},
		{"single label", hello(sni("localhost")), want{TLS, "localhost"}},
		{"GREASE and ECH", chromeHello("a.example"), want{TLS, "a.example"}},
		{"SSL 3.0", body("\x03\x00" + random + u8("") + u16("\x00\x0a") + u8("\x00")), want{TLS, ""}},
		{"version 3.4", body("\x03\x04" + message[6:]), want{TLS, "a.example"}},
		{"data behind it", hello(sni("a.example")) + "\x17\x03\x03\x00\x01x", want{TLS, "a.example"}},
		{"split in its header", records(cut(message, 1, 2, 3)...), want{TLS, "a.example"}},

		{"two trailing dots", hello(sni("a.example..")), want{Malformed, "well-formed"}},
		{"empty name", hello(sni("")), want{Malformed, "well-formed"}},
		{"dot", hello(sni(".")), want{Malformed, "well-formed"}},
		{"IPv4 address", hello(sni("203.0.113.7")), want{Malformed, "well-formed"}},
		{"IPv4 address in hexadecimal", hello(sni("0xcb007107")), want{Malformed, "well-formed"}},
		{"IPv6 address", hello(sni("2001:db8::1")), want{Malformed, "well-formed"}},
		{"IPv6 address in brackets", hello(sni("[2001:db8::1]")), want{Malformed, "well-formed"}},
		{"port", hello(sni("a.example:443")), want{Malformed, "well-formed"}},
		{"NUL", hello(sni("a.example\x00.b.example")), want{Malformed, "well-formed"}},
		{"UTF-8", hello(sni("caf\xc3\xa9.example")), want{Malformed, "well-formed"}},
		{"wildcard", hello(sni("*.example")), want{Malformed, "well-formed"}},
		{"two extensions of names", hello(sni("a.example"), sni("a.example")), want{Malformed, "well-formed"}},
		{"two unknown extensions", hello(ext(0x2a2a, ""), ext(0x2a2a, "")), want{Malformed, "well-formed"}},
		{"two names", hello(ext(extServerName, u16("\x00"+u16("a.example")+"\x00"+u16("b.example")))), want{Malformed, "well-formed"}},
		{"unknown type of name", hello(ext(extServerName, u16("\x01"+u16("a.example")))), want{Malformed, "well-formed"}},
		{"unknown type, then a name", hello(ext(extServerName, u16("\x01"+u16("x")+"\x00"+u16("a.example")))), want{Malformed, "well-formed"}},
		{"empty list of names", hello(ext(extServerName, u16(""))), want{Malformed, "well-formed"}},
		{"empty extension of names", hello(ext(extServerName, "")), want{Malformed, "well-formed"}},
		{"byte behind the names", hello(ext(extServerName, u16("\x00"+u16("a.example"))+"x")), want{Malformed, "well-formed"}},
		{"byte behind the name", hello(ext(extServerName, u16("\x00"+u16("a.example")+"x"))), want{Malformed, "well-formed"}},
		{"empty list of protocols", hello(ext(extALPN, u16(""))), want{Malformed, "well-formed"}},
		{"empty protocol", hello(ext(extALPN, u16(u8("h2")+u8("")))), want{Malformed, "well-formed"}},
		{"protocol beyond its list", hello(ext(extALPN, u16("\x03h2"))), want{Malformed, "well-formed"}},
		{"byte behind the protocols", hello(ext(extALPN, u16(u8("h2"))+"x")), want{Malformed, "well-formed"}},
		{"byte behind the versions", hello(ext(extSupportedVersions, u8("\x03\x04")+"x")), want{Malformed, "well-formed"}},
		{"empty list of versions", hello(ext(extSupportedVersions, u8(""))), want{Malformed, "well-formed"}},
		{"half a version", hello(ext(extSupportedVersions, u8("\x03\x04\x03"))), want{Malformed, "well-formed"}},
		{"PSK not last", hello(ext(extPreSharedKey, ""), sni("a.example")), want{Malformed, "well-formed"}},
		{"extension beyond its block", hello("\x00\x00\x00\x09"), want{Malformed, "well-formed"}},
		{"too many extensions", hello(manyExts(maxExtensions + 1)...), want{Malformed, "well-formed"}},
		{"as many extensions as allowed", hello(manyExts(maxExtensions)...), want{TLS, ""}},
		{"byte behind the extensions", body(message[4:] + "x"), want{Malformed, "well-formed"}},
		{"cut short", body(message[4:40]), want{Malformed, "well-formed"}},
		{"empty", body(""), want{Malformed, "well-formed"}},
		{"version 2.0", body("\x02\x00" + message[6:]), want{Malformed, "well-formed"}},
		{"version 3.5", body("\x03\x05" + message[6:]), want{Malformed, "well-formed"}},
		{"session of 33 bytes", body("\x03\x03" + random + u8(random+"S") + u16("\x13\x01") + u8("\x00")), want{Malformed, "well-formed"}},
		{"no cipher", body("\x03\x03" + random + u8("") + u16("") + u8("\x00")), want{Malformed, "well-formed"}},
		{"half a cipher", body("\x03\x03" + random + u8("") + u16("\x13") + u8("\x00")), want{Malformed, "well-formed"}},
		{"no compression", body("\x03\x03" + random + u8("") + u16("\x13\x01") + u8("")), want{Malformed, "well-formed"}},
		{"another message in its record", record(message + "\x01"), want{Malformed, "something in its record"}},
		{"alert in between", record(message[:9]) + "\x15\x03\x01\x00\x02\x01\x5a" + record(message[9:]), want{Malformed, "another record"}},
		{"CCS in between", record(message[:9]) + "\x14\x03\x01\x00\x01\x01" + record(message[9:]), want{Malformed, "another record"}},
		{"empty record in between", record(message[:9]) + record("") + record(message[9:]), want{Malformed, "forbidden length"}},
		{"other version in between", record(message[:9]) + "\x16\x02\x01" + u16(message[9:]), want{Malformed, "unknown TLS version"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			check(t, row.in, Classify([]byte(row.in), false, dst), row.want)
			check(t, row.in, drip([]byte(row.in)), row.want)
			checkOracles(t, []byte(row.in), dst)
		})
	}
}

// manyExts returns n empty extensions of different types without a meaning.
func manyExts(n int) (exts []string) {
	for i := range n {
		exts = append(exts, ext(uint16(0x7000+i), ""))
	}
	return exts
}

func TestHelloDetails(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, in string
		version  uint16
		ech      bool
		alpn     []string
	}{
		{"old", hello(), tls.VersionTLS12, false, nil},
		{"chrome", chromeHello("a.example"), tls.VersionTLS13, true, []string{"h2", "http/1.1"}},
		{"versions in any order", hello(ext(extSupportedVersions, u8("\x03\x01\x0a\x0a\x03\x03\xff\xff"))), tls.VersionTLS12, false, nil},
		{"no version of TLS", hello(ext(extSupportedVersions, u8("\x7f\x1c"))), 0, false, nil},
		{"protocols", hello(ext(extALPN, u16(u8("acme-tls/1")+u8("\x0a\x0a")))), tls.VersionTLS12, false, []string{"acme-tls/1", "\x0a\x0a"}},
	} {
		got := Classify([]byte(row.in+"more"), false, dst)
		if got.Version != row.version || got.ECH != row.ech || !slices.Equal(got.ALPN(), row.alpn) || got.Len != len(row.in) {
			t.Errorf("%s: got %+v, want %+v", row.name, got, row)
		}
	}
}

// However a ClientHello is cut into records, at one place and at every two, it
// reads the same.
func TestRecordsCutAnywhere(t *testing.T) {
	t.Parallel()
	message := helloMessage(sni("www.example.com"), ext(extALPN, u16(u8("h2"))), ext(extSupportedVersions, u8("\x03\x04")))
	want := Classify([]byte(record(message)), false, dst)
	try := func(at ...int) {
		in := records(cut(message, at...)...)
		want.Len = len(in)
		if got := Classify([]byte(in), false, dst); got != want {
			t.Fatalf("cut at %v: got %+v, want %+v", at, got, want)
		}
	}
	for i := 1; i < len(message); i++ {
		try(i)
		for j := i + 1; j < len(message); j++ {
			try(i, j)
		}
	}
}
