package mitm

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/policy"
)

// TestConnect shows that the target of a CONNECT is decided by itself, and read as
// any flow to its port.
func TestConnect(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, target, inside string
		want                 string
	}{
		{"denied", "evil.example:443", "", "HTTP/1.1 421"},
		{"no port", site, "", "HTTP/1.1 400"},
		{"unreachable", "down.example:443", "", "HTTP/1.1 502"},
		{"plain HTTP", site + ":80", "GET / HTTP/1.1\r\nHost: " + site + "\r\nConnection: close\r\n\r\n", "HTTP/1.1 GET " + site},
		{"plain HTTP for another", site + ":80", "GET / HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n", "HTTP/1.1 421"},
		{"another CONNECT", site + ":80", "CONNECT " + site + ":80 HTTP/1.1\r\nHost: " + site + ":80\r\n\r\n", "HTTP/1.1 421"},
		{"opaque", site + ":22", "\x00opaque", "\x00opaque"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var w *world
			w = newWorld(t, Config{Connect: func(ctx context.Context, host string, port uint16) (net.Conn, policy.Verdict, error) {
				if host == "evil.example" {
					return nil, policy.Verdict{}, nil
				}
				w.mu.Lock()
				dial := w.dial[port]
				w.mu.Unlock()
				if host == "down.example" || dial == nil {
					return nil, allow, errors.New("refused")
				}
				c, err := dial(ctx)
				return c, allow, err
			}})
			w.servePlain(http.HandlerFunc(hello))
			w.serveConns(22, func(c net.Conn) { _, _ = io.Copy(c, c) })
			c := w.dialGuest(80)
			_, _ = io.WriteString(c, "CONNECT "+row.target+" HTTP/1.1\r\nHost: "+row.target+"\r\n\r\n")
			br := bufio.NewReader(c)
			var got string
			if row.inside != "" {
				res, err := http.ReadResponse(br, &http.Request{Method: "CONNECT"})
				if err != nil || res.StatusCode != 200 {
					t.Fatalf("got %v, %v", res, err)
				}
				_, _ = io.WriteString(c, row.inside)
				if !strings.Contains(row.inside, "HTTP") { // a client of HTTP that ends its half has gone
					_ = c.(*net.TCPConn).CloseWrite()
				}
			}
			rest, _ := io.ReadAll(br)
			if got = string(rest); !strings.Contains(got, row.want) {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

// TestConnectTLS shows that TLS inside a CONNECT is intercepted, for the name of
// the target only.
func TestConnectTLS(t *testing.T) {
	t.Parallel()
	for _, name := range []string{site, "other.example"} {
		var w *world
		w = newWorld(t, Config{Connect: func(ctx context.Context, _ string, _ uint16) (net.Conn, policy.Verdict, error) {
			c, err := w.dial[443](ctx)
			return c, allow, err
		}})
		w.serveTLS(http.HandlerFunc(hello), nil)
		c := w.dialGuest(80)
		_, _ = io.WriteString(c, "CONNECT "+site+":443 HTTP/1.1\r\nHost: "+site+":443\r\n\r\n")
		if res, err := http.ReadResponse(bufio.NewReader(io.LimitReader(c, int64(len("HTTP/1.1 200 Connection established\r\n\r\n")))), &http.Request{Method: "CONNECT"}); err != nil || res.StatusCode != 200 {
			t.Fatalf("got %v, %v", res, err)
		}
		cfg := w.guestTLS("http/1.1")
		cfg.ServerName = name
		inner := tls.Client(c, cfg)
		err := inner.Handshake()
		if name != site {
			if err == nil {
				t.Error("another name was accepted")
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := talk(t, inner, "GET /in HTTP/1.1\r\nHost: "+site+"\r\nConnection: close\r\n\r\n"); !strings.Contains(got, "GET "+site+" /in") {
			t.Errorf("got %q", got)
		}
	}
}
