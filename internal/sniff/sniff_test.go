package sniff

import (
	"net/netip"
	"strings"
	"testing"
)

// dst is the address that the guests of these tests connect to.
var dst = netip.MustParseAddr("203.0.113.7")

// want is a verdict in a word or two: a kind, and the name or a part of the
// reason.
type want struct {
	kind Kind
	text string
}

func check(t *testing.T, input string, got Result, w want) {
	t.Helper()
	text := got.Name
	if got.Kind == Malformed {
		text = got.Reason
		if strings.Contains(text, w.text) {
			text = w.text
		}
	}
	if got.Kind != w.kind || text != w.text {
		t.Errorf("%.200q: got %v %q, want %v %q", input, got.Kind, text, w.kind, w.text)
	}
}

// get returns a request with these field lines.
func get(fields ...string) string {
	return "GET / HTTP/1.1\r\n" + strings.Join(append(fields, "\r\n"), "\r\n")
}

// Each row is the whole of what a guest sends; it neither closes its side nor
// sends more.
var firstBytes = []struct {
	in string
	want
}{
	// Nothing that a server of TLS or HTTP reads.
	{"\x00\x00\x00\x08\x04\xd2\x16\x2f", want{Opaque, ""}},                         // PostgreSQL asks for TLS
	{"SSH-2.0-OpenSSH_9.2p1\r\n", want{Opaque, ""}},                                // SSH
	{"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", want{Opaque, ""}},               // SSH with a comment
	{"EHLO mail.example.com\r\n", want{Opaque, ""}},                                // SMTP
	{"QUIT\r\n", want{Opaque, ""}},                                                 // SMTP, POP3
	{"*1\r\n$4\r\nPING\r\n", want{Opaque, ""}},                                     // Redis
	{"\x10\x0c\x00\x04MQTT", want{Opaque, ""}},                                     // MQTT
	{"\x13BitTorrent protocol", want{Opaque, ""}},                                  // BitTorrent
	{"\x05\x01\x00", want{Opaque, ""}},                                             // SOCKS 5
	{"AMQP\x00\x00\x09\x01", want{Opaque, ""}},                                     // AMQP
	{"\x16\x01\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\xdd\x07", want{Opaque, ""}}, // MongoDB, message of 0x116 bytes
	{"\x15\x01\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\xdd\x07", want{Opaque, ""}}, // MongoDB, message of 0x115 bytes
	{"\x16\x10\x01\x00\x05\x01", want{Opaque, ""}},                                 // major version 16: not even crypto/tls
	{"\x17\x01\x00\x00\x02\x01", want{Opaque, ""}},                                 // neither alert nor handshake
	{"\x80\x2e\x02", want{Opaque, ""}},                                             // SSLv2, but no ClientHello
	{"\x80\x2e\x01\x01", want{Opaque, ""}},                                         // SSLv2 of an unknown version
	{"\x81\x05", want{Opaque, ""}},                                                 // a WebSocket frame out of place
	{"GET /\r\n", want{Opaque, ""}},                                                // HTTP/0.9: no name in it
	{"GET\n", want{Opaque, ""}},                                                    // a word
	{"GET / HTTP/1.1 x\r\n", want{Opaque, ""}},                                     // the version isn't last
	{"GET / XHTTP/1.1\r\n", want{Opaque, ""}},                                      // nor a word of its own
	{"HTTP/1.1 200 OK\r\n", want{Opaque, ""}},                                      // a response
	{"\r\n\r\n\x00\r\nQUIT\n", want{Opaque, ""}},                                   // PROXY protocol 2
	{"\x80", want{More, ""}}, {"\x80\x00\x01", want{More, ""}}, {"\x16", want{More, ""}},
	{"\x16\x00\x00\x00\x00", want{More, ""}}, {"", want{More, ""}}, {"GET", want{More, ""}},
	{"\n\n \t\v\f", want{More, ""}}, {"GET / HTTP/1.1\r\nHost: a\r\n", want{More, ""}},
	{"PRI * HTTP/2.0\r\n\r\nSM", want{More, ""}}, {"SSH-2.0-OpenSSH_9.2p1 ", want{More, ""}},

	// TLS-like, but not strict.
	{"\x14\x03\x03\x00\x01\x01", want{Malformed, "no ClientHello"}},     // ChangeCipherSpec
	{"\x15\x03", want{Malformed, "no ClientHello"}},                     // a leading alert
	{"\x17\x03\x03", want{Malformed, "no ClientHello"}},                 // data
	{"\x18\x03\x03", want{Malformed, "no ClientHello"}},                 // heartbeat
	{"\x16\x02\x01\x00\x05\x01", want{Malformed, "no ClientHello"}},     // crypto/tls reads it
	{"\x15\x00\x01\x00\x02\x01\x5a", want{Malformed, "no ClientHello"}}, // and skips a warning
	{"\x80\x2e\x01\x03\x01", want{Malformed, "no ClientHello"}},         // SSLv2 framing
	{"\x80\x2e\x01\x00\x02", want{Malformed, "no ClientHello"}},         // SSLv2
	{"\x16\x03\x05\x00\x05", want{Malformed, "unknown TLS version"}},
	{"\x16\x03\x01\x00\x00", want{Malformed, "forbidden length"}},
	{"\x16\x03\x01\x40\x01", want{Malformed, "forbidden length"}},
	{"\x16\x03\x01\x00\x05\x02", want{Malformed, "doesn't begin with a ClientHello"}},
	{"\x16\x03\x01\x40\x00\x01\x01\x00\x00", want{Malformed, "longer than 64 KiB"}},

	// HTTP.
	{get("Host: a.example"), want{HTTP1, "a.example"}},
	{get("Host: a.example") + "rest", want{HTTP1, "a.example"}},
	{get("hOsT:A.Example.:8080\t "), want{HTTP1, "a.example"}},
	{get("Host: a.example:"), want{HTTP1, "a.example"}},
	{get("Host: _x.a-b.example"), want{HTTP1, "_x.a-b.example"}},
	{get("Accept: */*"), want{HTTP1, ""}},
	{get("Host:"), want{HTTP1, ""}},
	{get("Host: 203.0.113.7"), want{HTTP1, ""}},
	{get("Host: 203.0.113.7:80"), want{HTTP1, ""}},
	{"GET / HTTP/1.0\r\n\r\n", want{HTTP1, ""}},
	{"GET /caf\xc3\xa9?q={a|b} HTTP/1.1\r\nHost: a.example\r\n\r\n", want{HTTP1, "a.example"}},
	{"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", want{HTTP1, "a.example"}},
	{"GET http://A.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n", want{HTTP1, "a.example"}},
	{"GET HTTPS://a.example:443?x HTTP/1.1\r\nHost: a.example.\r\n\r\n", want{HTTP1, "a.example"}},
	{"GET http://a.example HTTP/1.0\r\n\r\n", want{HTTP1, "a.example"}},
	{"GET http://203.0.113.7/ HTTP/1.1\r\nHost: 203.0.113.7:80\r\n\r\n", want{HTTP1, ""}},
	{"connect /x HTTP/1.1\r\nHost: a.example\r\n\r\n", want{HTTP1, "a.example"}},
	{"AaZz09!#$%&'*+-.^_`|~ / HTTP/1.1\r\nHost: a.example\r\n\r\n", want{HTTP1, "a.example"}},
	{"CONNECT a.example:443 HTTP/1.1\r\nHost: A.example:443\r\n\r\n", want{Connect, "a.example"}},
	{"CONNECT a.example:443 HTTP/1.0\r\n\r\n", want{Connect, "a.example"}},
	{"CONNECT 10.0.0.1:22 HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n", want{Connect, ""}},
	{"CONNECT [2001:db8::1]:22 HTTP/1.1\r\n\r\n", want{Connect, ""}},
	{preface, want{HTTP2, ""}}, {preface + "\x00\x00\x00\x04", want{HTTP2, ""}},

	// HTTP-like: the request line.
	{"\r\n" + get("Host: a.example"), want{Malformed, "method"}},
	{" " + get("Host: a.example"), want{Malformed, "method"}},
	{"GET / HTTP/1.1\n", want{Malformed, "CR LF"}},
	{"GET  / HTTP/1.1\r\n", want{Malformed, "three words"}},
	{"GET / HTTP/1.1 \r\n", want{Malformed, "three words"}},
	{"GET\t/ HTTP/1.1\r\n", want{Malformed, "token"}},
	{"GET\v/\vHTTP/1.1\r\n", want{Malformed, "token"}},
	{"GET / HTTP/1.1\rx\n", want{Malformed, "CR LF"}},
	{"GET / http/1.1\r\n", want{Malformed, "another version"}},
	{"GET / HTTP/1.2\r\n", want{Malformed, "another version"}},
	{"GET / HTTP/2.0\r\n", want{Malformed, "another version"}},
	{"GET / HTTP/1.10\r\n", want{Malformed, "another version"}},
	{"GET HTTP/1.1\r\n", want{Malformed, "three words"}},
	{"GET  HTTP/1.1\r\n", want{Malformed, "unknown form"}},
	{"GET /a b HTTP/1.1\r\n", want{Malformed, "three words"}},
	{"GET /\x00 HTTP/1.1\r\n", want{Malformed, "forbidden byte"}},
	{"GET /#a HTTP/1.1\r\n", want{Malformed, "forbidden byte"}},
	{"GET a.example HTTP/1.1\r\n", want{Malformed, "unknown form"}},
	{"GET * HTTP/1.1\r\n", want{Malformed, "unknown form"}},
	{"GET ftp://a.example/ HTTP/1.1\r\n", want{Malformed, "unknown form"}},
	{"GET http:/// HTTP/1.1\r\n", want{Malformed, "unknown form"}},
	{"GET http://u@a.example/ HTTP/1.1\r\n", want{Malformed, "unknown form"}},
	{"GET http://a.example\\@b.example/ HTTP/1.1\r\n", want{Malformed, "unknown form"}},
	{"PRI * HTTP/2.0\r\n\r\nSX", want{Malformed, "preface"}},
	{"PRI * HTTP/2.0\r\nHost: a.example\r\n\r\n", want{Malformed, "preface"}},
	{"CONNECT a.example HTTP/1.1\r\n", want{Malformed, "CONNECT target"}},
	{"CONNECT a.example:0 HTTP/1.1\r\n", want{Malformed, "CONNECT target"}},
	{"CONNECT :443 HTTP/1.1\r\n", want{Malformed, "CONNECT target"}},
	{"CONNECT http://a.example/ HTTP/1.1\r\n", want{Malformed, "CONNECT target"}},
	{"CONNECT 0x7f.1:80 HTTP/1.1\r\n", want{Malformed, "CONNECT target"}},

	// HTTP-like: the fields.
	{get("Host: a.example", "host: a.example"), want{Malformed, "more than one Host"}},
	{get("Host: a.example", "Host:"), want{Malformed, "more than one Host"}},
	{get("Host : a.example"), want{Malformed, "proper name"}},
	{get("Accept: x", " Host: a.example"), want{Malformed, "proper name"}},
	{get("Host"), want{Malformed, "proper name"}},
	{get(": a.example"), want{Malformed, "proper name"}},
	{get("Host: a.example\nX: y"), want{Malformed, "CR LF"}},
	{get("Host: a.example\rX: y"), want{Malformed, "forbidden byte"}},
	{get("X: a\x00b"), want{Malformed, "forbidden byte"}},
	{get("Host: a.example, b.example"), want{Malformed, "Host field"}},
	{get("Host: a.example/"), want{Malformed, "Host field"}},
	{get("Host: u@a.example"), want{Malformed, "Host field"}},
	{get("Host: %61.example"), want{Malformed, "Host field"}},
	{get("Host: a..example"), want{Malformed, "Host field"}},
	{get("Host: a.example:8x"), want{Malformed, "Host field"}},
	{get("Host: a.example:65536"), want{Malformed, "Host field"}},
	{get("Host: caf\xc3\xa9.example"), want{Malformed, "Host field"}},
	{get("Host: 127.1"), want{Malformed, "Host field"}},
	{get("Host: ::1"), want{Malformed, "Host field"}},
	{get("Host: [::1%25lo]"), want{Malformed, "Host field"}},
	{get("Host: [203.0.113.7]"), want{Malformed, "Host field"}},
	{get("Host: 203.0.113.8"), want{Malformed, "another host"}},
	{get("Host: [::ffff:203.0.113.7]"), want{Malformed, "another host"}},
	{get("Host: [2001:db8::1]"), want{Malformed, "another host"}},
	{"GET http://a.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n", want{Malformed, "different hosts"}},
	{"GET http://a.example/ HTTP/1.1\r\nHost:\r\n\r\n", want{Malformed, "different hosts"}},
	{"GET http://203.0.113.7/ HTTP/1.1\r\nHost: b.example\r\n\r\n", want{Malformed, "different hosts"}},
	{"CONNECT a.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n", want{Malformed, "different hosts"}},

	// HTTP-like: what frames the body.
	{get("Content-Length: 1", "Content-Length: 1"), want{Malformed, "more than one Content-Length"}},
	{get("Content-Length: 1, 1"), want{Malformed, "isn't a length"}},
	{get("Content-Length: +1"), want{Malformed, "isn't a length"}},
	{get("Content-Length:"), want{Malformed, "isn't a length"}},
	{get("Content-Length: 9999999999999999999"), want{Malformed, "isn't a length"}},
	{get("Content-Length: 1", "Transfer-Encoding: chunked"), want{Malformed, "both"}},
	{get("Transfer-Encoding: gzip, chunked"), want{Malformed, "chunked alone"}},
	{get("Transfer-Encoding: \vchunked"), want{Malformed, "forbidden byte"}},
	{get("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), want{Malformed, "chunked alone"}},
	{"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", want{Malformed, "HTTP/1.0"}},
	{"CONNECT a.example:443 HTTP/1.1\r\nContent-Length: 5\r\n\r\n", want{Malformed, "with a body"}},
	{get("Host: a.example", "Transfer-Encoding: Chunked"), want{HTTP1, "a.example"}},
	{get("Host: a.example", "Content-Length: 000"), want{HTTP1, "a.example"}},
}

func TestClassify(t *testing.T) {
	t.Parallel()
	for _, row := range firstBytes {
		check(t, row.in, Classify([]byte(row.in), false, dst), row.want)
	}
}

// Whatever the rows above say, two forgiving servers must not see it otherwise.
func TestOraclesAgree(t *testing.T) {
	t.Parallel()
	for _, row := range firstBytes {
		checkOracles(t, []byte(row.in), dst)
	}
}

func TestAuthorityIsDst(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		dst, host string
		want
	}{
		{"2001:db8::1", "[2001:db8::1]", want{HTTP1, ""}},
		{"2001:db8::1", "[2001:DB8:0::1]:8080", want{HTTP1, ""}},
		{"2001:db8::1", "[2001:db8::2]", want{Malformed, "another host"}},
		{"10.0.0.1", "10.0.0.1", want{HTTP1, ""}},
		{"10.0.0.1", "10.0.0.01", want{Malformed, "Host field"}},
		{"10.0.0.1", "10.0.0.1.", want{Malformed, "Host field"}},
		{"10.0.0.1", "10.1", want{Malformed, "Host field"}},
		{"10.0.0.1", "167772161", want{Malformed, "Host field"}},
		{"10.0.0.1", "0xa.0.0.1", want{Malformed, "Host field"}},
		{"10.0.0.1", "[::ffff:10.0.0.1]", want{Malformed, "another host"}},
	} {
		in := get("Host: " + row.host)
		check(t, in, Classify([]byte(in), false, netip.MustParseAddr(row.dst)), row.want)
	}
	in := get("Host: 10.0.0.1")
	check(t, in, Classify([]byte(in), false, netip.Addr{}), want{Malformed, "another host"})
}

func TestConnectTarget(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		target, name, addr string
		port               uint16
	}{
		{"A.example.:443", "a.example", "", 443},
		{"203.0.113.9:65535", "", "203.0.113.9", 65535},
		{"[2001:db8::1]:1", "", "2001:db8::1", 1},
	} {
		got := Classify([]byte("CONNECT "+row.target+" HTTP/1.1\r\n\r\n"), false, dst)
		addr := ""
		if got.Addr.IsValid() {
			addr = got.Addr.String()
		}
		if got.Kind != Connect || got.Name != row.name || addr != row.addr || got.Port != row.port {
			t.Errorf("%s: got %+v", row.target, got)
		}
	}
}

// A guest that closed its side sends no more: what was undecided is decided.
func TestClosed(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		in string
		want
	}{
		{"", want{Opaque, ""}},
		{"\x16", want{Opaque, ""}},
		{"\x16\x03", want{Malformed, "ended within the ClientHello"}},
		{"\x16\x01\x00\x00", want{Opaque, ""}},
		{"\x80\x2e\x01", want{Opaque, ""}},
		{hello(sni("a.example"))[:60], want{Malformed, "ended within the ClientHello"}},
		{hello(sni("a.example")), want{TLS, "a.example"}},
		{"\r\n", want{Opaque, ""}},
		{"GET", want{Opaque, ""}},
		{"GET / ", want{Opaque, ""}},
		{"GET / HTTP", want{Opaque, ""}},
		{"GET / HTTP/", want{Malformed, "ended within the request head"}},
		{"GET / HTTP/1", want{Malformed, "ended within the request head"}},
		{"GET / http/1.1\r", want{Malformed, "ended within the request head"}},
		{"GET / HTTP/1.1\r\nHost: a.example\r\n", want{Malformed, "ended within the request head"}},
		{"P", want{Malformed, "ended within the request head"}},
		{"PRI * HTTP/2.0\r\n\r\n", want{Malformed, "ended within the request head"}},
		{get("Host: a.example"), want{HTTP1, "a.example"}},
		{"hello", want{Opaque, ""}},
	} {
		check(t, row.in, Classify([]byte(row.in), true, dst), row.want)
	}
}

func TestMaxFlight(t *testing.T) {
	t.Parallel()
	long := func(n int) string { return strings.Repeat("x", n) }
	pad := MaxFlight - len(get("Host: a.example", "X: "))
	for _, row := range []struct {
		name, in string
		want
	}{
		{"head that fits", get("Host: a.example", "X: "+long(pad)), want{HTTP1, "a.example"}},
		{"head one byte too long", get("Host: a.example", "X: "+long(pad+1)), want{Malformed, "64 KiB"}},
		{"word without end", long(MaxFlight), want{Malformed, "64 KiB"}},
		{"word one byte shorter", long(MaxFlight - 1), want{More, ""}},
		{"blanks without end", strings.Repeat("\n", MaxFlight+7), want{Malformed, "64 KiB"}},
		{"hello in records of one byte", records(strings.Split(helloMessage(sni("a.example"), ext(21, long(10000))), "")...), want{TLS, "a.example"}},
		{"hello in too many records", records(strings.Split(helloMessage(sni("a.example"), ext(21, long(10900))), "")...), want{Malformed, "64 KiB"}},
		{"hello that fits", largeHello(MaxFlight), want{TLS, "a.example"}},
		{"hello one byte too long", largeHello(MaxFlight + 1), want{Malformed, "64 KiB"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			check(t, row.in, Classify([]byte(row.in), false, dst), row.want)
			check(t, row.in, Classify([]byte(row.in+"more"), false, dst), wantMore(row.want))
			check(t, row.in, drip([]byte(row.in)), row.want)
		})
	}
}

// wantMore returns what becomes of a verdict when a few bytes follow.
func wantMore(w want) want {
	if w.kind == More {
		return want{Malformed, "64 KiB"}
	}
	return w
}

// largeHello returns a ClientHello of n bytes with its records, each as long as
// is allowed.
func largeHello(n int) string {
	build := func(pad int) string {
		msg := helloMessage(sni("a.example"), ext(21, strings.Repeat("x", pad)))
		var pieces []string
		for len(msg) > maxRecord {
			pieces, msg = append(pieces, msg[:maxRecord]), msg[maxRecord:]
		}
		return records(append(pieces, msg)...)
	}
	pad := n - 200
	return build(pad + n - len(build(pad)))
}

// drip feeds b to a Flight byte by byte, each time from another array.
func drip(b []byte) Result {
	f := Flight{Dst: dst}
	arrays := [2][]byte{make([]byte, len(b)), make([]byte, len(b))}
	for i := range b {
		arrays[0][i], arrays[1][i] = b[i], b[i]
		if r := f.Next(arrays[i%2][:i+1], false); r.Kind != More {
			return r
		}
	}
	return Result{}
}

func TestVerdictIsFinal(t *testing.T) {
	t.Parallel()
	f := Flight{Dst: dst}
	first := f.Next([]byte(get("Host: a.example")), false)
	if again := f.Next([]byte("\x00"), true); again != first {
		t.Errorf("got %+v, then %+v", first, again)
	}
}

// A single byte at a time costs one look at each: this ends at once, and would
// take minutes if every call began anew.
func TestDripIsLinear(t *testing.T) {
	t.Parallel()
	head := get("Host: a.example", strings.Repeat("X: y\r\n", 10000))
	buf := []byte(head)
	for range 20 {
		f := Flight{Dst: dst}
		for i := range buf[:MaxFlight-1] {
			f.Next(buf[:i], false)
		}
	}
}

func TestAllocs(t *testing.T) {
	for _, row := range []struct {
		name, in string
		want     float64
	}{
		{"undecided head", "GET / HTTP/1.1\r\nAccept: */*\r\n", 0},
		{"undecided hello", hello(sni("a.example"))[:50], 0},
		{"opaque", "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", 0},
		{"malformed", get("Host : a.example"), 0},
		{"head without name", get("Accept: */*"), 0},
		{"head with an address, to parse it", get("Host: 203.0.113.7"), 1},
		{"hello without name", hello(), 0},
		{"head: its name", get("Host: a.example"), 1},
		{"hello: its name", hello(sni("a.example")), 1},
		{"hello: name and ALPN", chromeHello("a.example"), 2},
		{"hello in two records: a copy too", records(cut(helloMessage(sni("a.example")), 50)...), 2},
	} {
		b := []byte(row.in)
		if got := testing.AllocsPerRun(100, func() { Classify(b, false, dst) }); got != row.want {
			t.Errorf("%s: got %v allocations, want %v", row.name, got, row.want)
		}
	}
}

func BenchmarkClassify(b *testing.B) {
	for _, row := range []struct{ name, in string }{
		{"hello", chromeHello("www.example.com")},
		{"head", get("Host: www.example.com", "User-Agent: curl/7.88.1", "Accept: */*")},
		{"opaque", "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n"},
	} {
		b.Run(row.name, func(b *testing.B) {
			in := []byte(row.in)
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				Classify(in, false, dst)
			}
		})
	}
}
