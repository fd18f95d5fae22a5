package mitm

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
)

// TestHangUp shows that a guest that goes without a word, at whatever point before
// its first request, is an event with what to do too: it may be a program that looks
// at certificates by itself.
func TestHangUp(t *testing.T) {
	t.Parallel()
	for _, alpn := range []string{"", "http/1.1", "h2", "mqtt"} {
		for _, row := range []struct {
			name  string
			leave func(c *tls.Conn)
		}{
			{"in the handshake", func(c *tls.Conn) {
				cfg := &tls.Config{ServerName: site, NextProtos: protocols(alpn), InsecureSkipVerify: true}
				cfg.VerifyConnection = func(tls.ConnectionState) error { return c.NetConn().Close() }
				_ = tls.Client(c.NetConn(), cfg).Handshake()
			}},
			{"end of TLS", func(c *tls.Conn) { _ = c.Handshake(); _ = c.Close() }},
			{"end of the connection", func(c *tls.Conn) { _ = c.Handshake(); _ = c.NetConn().Close() }},
			{"reset", func(c *tls.Conn) { _ = c.Handshake(); abort(c.NetConn()) }},
		} {
			t.Run(alpn+" "+row.name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, Config{})
				cfg := &tls.Config{NextProtos: protocols(alpn)}
				w.serveTLSConns(cfg, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
				row.leave(tls.Client(w.dialGuest(443), w.guestTLS(protocols(alpn)...)))
				e := w.waitFor(EventFail)
				if e.Leg != "guest" || !strings.Contains(e.Reason, "hung up") || !strings.Contains(e.Fix, `Bypass: ["`+site+`"]`) {
					t.Errorf("got %+v", e)
				}
			})
		}
	}
}
