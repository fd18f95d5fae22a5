package mitm

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/policy"
)

// allow is a verdict of the default, and allowName one of a domain rule.
var (
	allow     = policy.Verdict{Action: policy.Allow, ByAddress: true, Rule: -1}
	allowName = policy.Verdict{Action: policy.Allow}
)

// TestRawRequests shows what a server sees of what a guest wrote.
func TestRawRequests(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, request, want string }{
		{"path byte for byte", "GET /%2fa|b//c;d?x=%zz HTTP/1.1\r\nHost: {site}\r\nConnection: close\r\n\r\n", "GET {site} /%2fa|b//c;d?x=%zz"},
		{"two slashes", "GET //evil.example/x?y HTTP/1.1\r\nHost: {site}\r\nConnection: close\r\n\r\n", "GET {site} //evil.example/x?y"},
		{"empty query", "GET /? HTTP/1.1\r\nHost: {site}\r\nConnection: close\r\n\r\n", "GET {site} /?"},
		{"absolute form", "GET http://{site}/x?y HTTP/1.1\r\nHost: {site}\r\nConnection: close\r\n\r\n", "GET {site} /x?y"},
		{"absolute form without a path", "GET http://{site} HTTP/1.1\r\nHost: {site}\r\nConnection: close\r\n\r\n", "GET {site} /"},
		{"absolute form with a query only", "GET http://{site}?q HTTP/1.1\r\nHost: {site}\r\nConnection: close\r\n\r\n", "GET {site} /?q"},
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: {site}\r\nConnection: close\r\n\r\n", "OPTIONS {site} *"},
		{"upper case and a dot", "GET / HTTP/1.1\r\nHost: WWW.Example.COM.\r\nConnection: close\r\n\r\n", "GET {site} /"},
		{"HTTP/1.0", "GET / HTTP/1.0\r\nHost: {site}\r\n\r\n", "GET {site} /"},
		{"a port", "GET / HTTP/1.1\r\nHost: {site}:443\r\nConnection: close\r\n\r\n", "GET {site}:443 /"},
		{"a path of UTF-8", "GET /ä HTTP/1.1\r\nHost: {site}\r\nConnection: close\r\n\r\n", "GET {site} /ä"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{})
			w.serveTLS(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = fmt.Fprintf(w, "[%s %s %s]", r.Method, r.Host, r.RequestURI)
			}), nil)
			got := talk(t, w.mustHandshake("http/1.1"), strings.ReplaceAll(row.request, "{site}", site))
			if want := "[" + strings.ReplaceAll(row.want, "{site}", site) + "]"; !strings.Contains(got, want) {
				t.Errorf("got %q, want %q in it", got, want)
			}
		})
	}
}

// TestPlainNames shows which name a request of plain HTTP is decided by.
func TestPlainNames(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, host, want string }{
		{"allowed", site, "200"},
		{"denied", "evil.example", "421"},
		{"the port is ignored", site + ":8080", "200"},
		{"its own address is no name", address, "200"},
		{"its own address with a port", address + ":80", "200"},
		{"another address", "10.0.0.1", "400"},
		{"another address of IPv6", "[::1]", "400"},
		{"no name", "", "200"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{})
			w.servePlain(http.HandlerFunc(hello))
			w.deny("evil.example")
			got := talk(t, w.dialGuest(80), "GET / HTTP/1.1\r\nConnection: close\r\nHost: "+row.host+"\r\n\r\n")
			if !strings.HasPrefix(got, "HTTP/1.1 "+row.want) {
				t.Errorf("got %.40q, want %s", got, row.want)
			}
		})
	}
}

// TestPlainOther shows what becomes of flows that were handed over to be read and
// turn out not to be HTTP.
func TestPlainOther(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, sent string
		opaque     policy.Verdict
		want       string // "" for a reset
	}{
		{"opaque and allowed", "\x00\x01hello", allow, "\x00\x01hello"},
		{"opaque and denied", "\x00\x01hello", policy.Verdict{}, ""},
		{"like TLS, but not", "\x16\x03\x01\x00\x05hello", allow, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{})
			w.opaque = row.opaque
			w.serveConns(80, func(c net.Conn) { _, _ = io.Copy(c, c) })
			c := w.dialGuest(80)
			_, _ = io.WriteString(c, row.sent)
			_ = c.(*net.TCPConn).CloseWrite()
			got, _ := io.ReadAll(c)
			if string(got) != row.want || (row.want == "") != (w.resetCount() == 1) {
				t.Errorf("got %q and %d resets, want %q", got, w.resetCount(), row.want)
			}
		})
	}
}
