package mitm

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
)

// smuggled are requests of HTTP/1 for the site that two readers could read in two
// ways, or that no server should be asked. None reaches one.
var smuggled = []struct {
	name, request string
	status        int
}{
	// Framing: RFC 9112, section 6.
	{"both lengths", "POST / HTTP/1.1\r\nHost: {site}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	{"both lengths, the other order", "POST / HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400},
	{"two lengths", "POST / HTTP/1.1\r\nHost: {site}\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody", 400},
	{"the same length twice", "POST / HTTP/1.1\r\nHost: {site}\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nbody", 400},
	{"list of lengths", "POST / HTTP/1.1\r\nHost: {site}\r\nContent-Length: 4, 4\r\n\r\nbody", 400},
	{"length with a sign", "POST / HTTP/1.1\r\nHost: {site}\r\nContent-Length: +4\r\n\r\nbody", 400},
	{"negative length", "POST / HTTP/1.1\r\nHost: {site}\r\nContent-Length: -1\r\n\r\n", 400},
	{"hexadecimal length", "POST / HTTP/1.1\r\nHost: {site}\r\nContent-Length: 0x4\r\n\r\nbody", 400},
	{"empty length", "POST / HTTP/1.1\r\nHost: {site}\r\nContent-Length: \r\n\r\n", 400},
	{"length over 64 bits", "POST / HTTP/1.1\r\nHost: {site}\r\nContent-Length: 18446744073709551620\r\n\r\nbody", 400},
	{"identity encoding", "POST / HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding: identity\r\n\r\n", 400},
	{"encoding twice", "POST / HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	{"encoding list", "POST / HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400},
	{"encoding with a parameter", "POST / HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 400},
	{"encoding misspelt", "POST / HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400},
	{"encoding with a vertical tab", "POST / HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400},
	{"encoding, blank before the colon", "POST / HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400},
	{"encoding, line folded", "POST / HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400},
	{"encoding behind a bare LF", "POST / HTTP/1.1\r\nHost: {site}\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	{"encoding behind a bare CR", "POST / HTTP/1.1\r\nHost: {site}\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	{"encoding in HTTP/1.0", "POST / HTTP/1.0\r\nHost: {site}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	{"chunk size with a sign", "POST / HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding: chunked\r\n\r\n+4\r\nbody\r\n0\r\n\r\n", 400},
	{"chunk size in hexadecimal notation", "POST / HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding: chunked\r\n\r\n0x4\r\nbody\r\n0\r\n\r\n", 400},
	{"chunk size too large", "POST / HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nbody\r\n0\r\n\r\n", 400},
	{"chunk extension", "POST / HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nbody\r\n0\r\n\r\n", 400},
	{"chunk line ended by LF", "POST / HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding: chunked\r\n\r\n4\nbody\r\n0\r\n\r\n", 400},
	{"chunk longer than its size", "POST / HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbody\r\n0\r\n\r\n", 400},
	{"no chunk size", "POST / HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding: chunked\r\n\r\n\r\nbody\r\n0\r\n\r\n", 400},

	// Hosts: RFC 9112, section 3.2.
	{"two hosts", "GET / HTTP/1.1\r\nHost: {site}\r\nHost: evil.example\r\n\r\n", 400},
	{"the same host twice", "GET / HTTP/1.1\r\nHost: {site}\r\nHost: {site}\r\n\r\n", 400},
	{"absolute form of another host", "GET http://evil.example/ HTTP/1.1\r\nHost: {site}\r\n\r\n", 400},
	{"absolute form, host of another", "GET http://{site}/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", 400},
	{"user information", "GET / HTTP/1.1\r\nHost: {site}@evil.example\r\n\r\n", 400},
	{"user information in the target", "GET http://{site}@evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", 400},
	{"host list", "GET / HTTP/1.1\r\nHost: {site}, evil.example\r\n\r\n", 400},
	{"port that is none", "GET / HTTP/1.1\r\nHost: {site}:443x\r\n\r\n", 400},
	{"host, line folded", "GET / HTTP/1.1\r\nHost:\r\n {site}\r\n\r\n", 400},
	{"no host", "GET / HTTP/1.1\r\n\r\n", 400},
	{"NUL in the host", "GET / HTTP/1.1\r\nHost: {site}\x00.evil.example\r\n\r\n", 400},
	{"percent-encoded host", "GET / HTTP/1.1\r\nHost: www%2eexample.com\r\n\r\n", 400},
	{"address in another spelling", "GET / HTTP/1.1\r\nHost: 0x7f.1\r\n\r\n", 400},

	// Lines: RFC 9112, sections 2.2, 3 and 5.
	{"NUL in a value", "GET / HTTP/1.1\r\nHost: {site}\r\nX: a\x00b\r\n\r\n", 400},
	{"NUL in a name", "GET / HTTP/1.1\r\nHost: {site}\r\nX\x00: b\r\n\r\n", 400},
	{"field without a name", "GET / HTTP/1.1\r\nHost: {site}\r\n: b\r\n\r\n", 400},
	{"field without a colon", "GET / HTTP/1.1\r\nHost: {site}\r\nX\r\n\r\n", 400},
	{"blank in a name", "GET / HTTP/1.1\r\nHost: {site}\r\nX Y: b\r\n\r\n", 400},
	{"two blanks in the request line", "GET  / HTTP/1.1\r\nHost: {site}\r\n\r\n", 400},
	{"tab in the request line", "GET\t/ HTTP/1.1\r\nHost: {site}\r\n\r\n", 400},
	{"blank in the target", "GET /a b HTTP/1.1\r\nHost: {site}\r\n\r\n", 400},
	{"control byte in the target", "GET /a\x01b HTTP/1.1\r\nHost: {site}\r\n\r\n", 400},
	{"fragment in the target", "GET /a#b HTTP/1.1\r\nHost: {site}\r\n\r\n", 400},
	{"target without a slash", "GET a HTTP/1.1\r\nHost: {site}\r\n\r\n", 400},
	{"asterisk for GET", "GET * HTTP/1.1\r\nHost: {site}\r\n\r\n", 400},
	{"version in lower case", "GET / http/1.1\r\nHost: {site}\r\n\r\n", 400},
	{"version 1.2", "GET / HTTP/1.2\r\nHost: {site}\r\n\r\n", 400},
	{"version 2.0", "GET / HTTP/2.0\r\nHost: {site}\r\n\r\n", 400},
	{"empty line first", "\r\nGET / HTTP/1.1\r\nHost: {site}\r\n\r\n", 400},
	{"blank first", " GET / HTTP/1.1\r\nHost: {site}\r\n\r\n", 400},
	{"head over 64 KiB", "GET / HTTP/1.1\r\nHost: {site}\r\nX: " + strings.Repeat("x", 65<<10) + "\r\n\r\n", 400},

	// Well-formed, but not to be answered by the server.
	{"another host", "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421},
	{"a host below", "GET / HTTP/1.1\r\nHost: a.{site}\r\n\r\n", 421},
	{"a name that begins alike", "GET / HTTP/1.1\r\nHost: {site}.evil.example\r\n\r\n", 421},
}

func TestSmuggling(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{true, false} {
		w := newWorld(t, Config{})
		var served atomic.Int64
		count := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err == nil {
				served.Add(1)
			}
		})
		w.serveTLS(count, nil)
		w.servePlain(count)
		w.deny("evil.example", "a."+site, site+".evil.example")
		for _, row := range smuggled {
			c := w.dialGuest(80)
			if secure {
				c = w.mustHandshake("http/1.1")
			}
			got := talk(t, c, strings.ReplaceAll(row.request, "{site}", site))
			if want := fmt.Sprintf("HTTP/1.1 %d ", row.status); !strings.HasPrefix(got, want) {
				t.Errorf("TLS %t: %s: got %.60q, want %q", secure, row.name, got, want)
			}
		}
		if n := served.Load(); n != 0 {
			t.Errorf("TLS %t: the server saw %d whole requests", secure, n)
		}
	}
}

// TestFollowingRequests shows that the second request of a connection is read as
// strictly as the first, and that those before it aren't harmed.
func TestFollowingRequests(t *testing.T) {
	t.Parallel()
	good := "GET /first HTTP/1.1\r\nHost: {site}\r\n\r\n"
	last := "GET /last HTTP/1.1\r\nHost: {site}\r\nConnection: close\r\n\r\n"
	post := "POST /first HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
	for _, row := range []struct {
		name, request string
		want          []string
	}{
		{"two of one host", good + post + last, []string{"200", "200", "200"}},
		{"behind a body", post + last, []string{"200", "200"}},
		{"then another host", good + "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", []string{"200", "421"}},
		{"behind another host nothing", "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n" + good, []string{"421"}},
		{"then both lengths", good + "POST / HTTP/1.1\r\nHost: {site}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []string{"200", "400"}},
		{"then no request", post + "garbage\r\n\r\n", []string{"200", "400"}},
		{"then HTTP/2", good + http2.ClientPreface, []string{"200", "400"}},
		{"then a CONNECT", good + "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n", []string{"200", "421"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{})
			w.serveTLS(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), nil)
			got := talk(t, w.mustHandshake("http/1.1"), strings.ReplaceAll(row.request, "{site}", site))
			if statuses := statusesOf(got); fmt.Sprint(statuses) != fmt.Sprint(row.want) {
				t.Errorf("got %v, want %v: %q", statuses, row.want, got)
			}
		})
	}
}

// statusesOf returns the status codes of responses that follow each other.
func statusesOf(text string) []string {
	var found []string
	for i, part := range strings.Split(text, "HTTP/1.1 ") {
		if i > 0 && len(part) > 3 && part[3] == ' ' {
			found = append(found, part[:3])
		}
	}
	return found
}
