package mitm

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluicenet/sluice/policy"
)

// settings is what a server of HTTP/2 may say before its client has said anything.
const settings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// TestBannerFirst shows that a server that speaks first isn't waited for, and that
// its word opens no way for what is read elsewhere: whatever the guest says then is
// looked at before it passes. In each place the server echoes what it hears.
func TestBannerFirst(t *testing.T) {
	t.Parallel()
	hello := clientHello(t, &tls.Config{ServerName: site, InsecureSkipVerify: true})
	request := "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"
	perRequest := policy.Verdict{Action: policy.Allow, ByAddress: true, PerRequest: true}
	for _, row := range []struct {
		name, sent                          string
		opaque                              policy.Verdict
		inTLS, onIntercepted, throughTunnel bool // whether sent passes
	}{
		{"opaque", "EHLO x\r\n", allow, true, true, true},
		{"nothing", "", allow, true, true, true},
		{"a word without an end", "QUIT", allow, true, true, true},
		{"a request", request, allow, false, true, false},
		{"a request that a name could deny", request, perRequest, false, false, false},
		{"a request, one byte", request[:1], allow, true, true, true},
		{"like a request", "GET / HTTP/1.1\nHost: evil.example\n\n", allow, false, true, false},
		{"HTTP/2", http2.ClientPreface + settings, perRequest, false, false, false},
		{"TLS with a name", hello, allow, true, true, true},
	} {
		for _, place := range []struct {
			name   string
			passes bool
			banner string
			dial   func(*world) net.Conn
		}{
			{"inside TLS", row.inTLS, settings, func(w *world) net.Conn { return w.mustHandshake() }},
			{"on an intercepted port", row.onIntercepted, "220 hello\r\n", func(w *world) net.Conn { return w.dialGuest(443) }},
			{"through a CONNECT", row.throughTunnel, "220 hello\r\n", func(w *world) net.Conn { return w.dialGuest(80) }},
		} {
			t.Run(place.name+"/"+row.name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, Config{AllowNonTLS: true, Lookup: lookup})
				w.opaque = row.opaque
				serve := func(c net.Conn) {
					_, _ = io.WriteString(c, place.banner)
					_, _ = io.Copy(c, c)
				}
				if place.name == "inside TLS" {
					w.serveTLSConns(&tls.Config{}, serve)
				} else {
					w.serveConns(443, serve)
					w.serveConns(25, serve)
				}
				c := place.dial(w)
				var r io.Reader = c
				if place.name == "through a CONNECT" {
					r = throughConnect(t, c, site+":25")
				}
				buf := make([]byte, len(place.banner))
				if _, err := io.ReadFull(r, buf); err != nil || string(buf) != place.banner {
					t.Fatalf("got %q, %v", buf, err)
				}
				_, _ = io.WriteString(c, row.sent)
				_ = closeWrite(c)
				got, _ := io.ReadAll(r)
				if want := map[bool]string{true: row.sent}[place.passes]; string(got) != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		}
	}
}

// TestBannerUnfinished shows that a guest which never ends its first word can't say
// it to a server that spoke first.
func TestBannerUnfinished(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Limits: Limits{Handshake: 5 * time.Second}})
	heard := make(chan string, 1)
	w.serveTLSConns(&tls.Config{}, func(c net.Conn) {
		_, _ = io.WriteString(c, settings)
		text, _ := io.ReadAll(c)
		heard <- string(text)
	})
	c := w.mustHandshake()
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: ")
	got, _ := io.ReadAll(c)
	if text := <-heard; text != "" || !strings.HasPrefix(string(got), settings) {
		t.Errorf("the guest got %q, the server heard %q", got, text)
	}
}
