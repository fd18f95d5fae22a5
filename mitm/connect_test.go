package mitm

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/policy"
)

// lookup is what the resolver of CONNECT's tests knows: that the site, and all that
// is said to live there, has the address.
func lookup(_ context.Context, name string) ([]netip.Addr, error) {
	switch name {
	case "nobody.example":
		return nil, errors.New("NXDOMAIN")
	case "empty.example":
		return nil, nil
	}
	return []netip.Addr{netip.MustParseAddr(address)}, nil
}

// TestConnect shows that the target of a CONNECT is decided by itself, and what is
// inside is read as any flow to its port.
func TestConnect(t *testing.T) {
	t.Parallel()
	get := func(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n" }
	for _, row := range []struct {
		name, target, inside string
		want                 string
	}{
		{"denied name", "evil.example:443", "", "HTTP/1.1 421"},
		{"denied address", "93.184.216.99:80", "", "HTTP/1.1 421"},
		{"no port", site, "", "HTTP/1.1 400"},
		{"port 0", site + ":0", "", "HTTP/1.1 400"},
		{"a zone", "[fe80::1%eth0]:443", "", "HTTP/1.1 400"},
		{"names over TCP", "8.8.8.8:53", "", "HTTP/1.1 421"},
		{"names over TLS", "8.8.8.8:853", "", "HTTP/1.1 421"},
		{"unreachable", site + ":81", "", "HTTP/1.1 502"},
		{"a name that nobody knows", "nobody.example:80", "", "HTTP/1.1 502"},
		{"a name without addresses", "empty.example:80", "", "HTTP/1.1 502"},
		{"plain HTTP", site + ":80", get(site), "HTTP/1.1 GET " + site},
		{"plain HTTP for another", site + ":80", get("other.example"), "HTTP/1.1 GET other.example"},
		{"plain HTTP for a denied one", site + ":80", get("evil.example"), "HTTP/1.1 421"},
		{"plain HTTP without a name", site + ":80", get(address), "HTTP/1.1 GET " + address},
		{"another CONNECT", site + ":80", "CONNECT " + site + ":80 HTTP/1.1\r\nHost: " + site + ":80\r\n\r\n", "HTTP/1.1 421"},
		{"opaque", site + ":22", "\x00opaque", "\x00opaque"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{Lookup: lookup})
			w.deny("evil.example")
			if row.name == "denied address" {
				w.targets = policy.Verdict{}
			}
			w.servePlain(http.HandlerFunc(hello))
			w.serveConns(22, func(c net.Conn) { _, _ = io.Copy(c, c) })
			c := w.dialGuest(80)
			if row.inside == "" {
				if got := talk(t, c, connectHead(row.target)); !strings.HasPrefix(got, row.want) {
					t.Errorf("got %q, want %q", got, row.want)
				}
				return
			}
			br := throughConnect(t, c, row.target)
			_, _ = io.WriteString(c, row.inside)
			if !strings.Contains(row.inside, "HTTP") { // a client of HTTP that ends its half has gone
				_ = c.(*net.TCPConn).CloseWrite()
			}
			rest, _ := io.ReadAll(br)
			if got := string(rest); !strings.Contains(got, row.want) {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

func connectHead(target string) string {
	return "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n"
}

// throughConnect opens a tunnel, and returns what is left to be read.
func throughConnect(t *testing.T, c net.Conn, target string) *bufio.Reader {
	t.Helper()
	_, _ = io.WriteString(c, connectHead(target))
	br := bufio.NewReader(io.MultiReader(io.LimitReader(c, int64(len("HTTP/1.1 200 Connection established\r\n\r\n"))), c))
	if res, err := http.ReadResponse(br, &http.Request{Method: "CONNECT"}); err != nil || res.StatusCode != 200 {
		t.Fatalf("got %v, %v", res, err)
	}
	return br
}

// TestConnectTLS shows that TLS inside a CONNECT is intercepted, and decided by the
// target and the name that is shown there together: rows T-01 and T-20.
func TestConnectTLS(t *testing.T) {
	t.Parallel()
	undecided := policy.Verdict{Action: policy.Deny, NeedsName: true}
	for _, row := range []struct {
		name, target, shown string
		address             policy.Verdict // of the target, if it is one
		dials               int            // before a name is shown
		ok                  bool
	}{
		{"the target's name", site + ":443", site, policy.Verdict{}, 1, true},
		{"another name", site + ":443", "other.example", policy.Verdict{}, 1, true},
		{"a denied name", site + ":443", "evil.example", policy.Verdict{}, 1, false},
		{"an address", address + ":443", site, allow, 1, true},
		{"an address, a denied name", address + ":443", "evil.example", allow, 1, false},
		{"an address that needs a name", address + ":443", site, undecided, 0, true},
		{"an address that needs a name, a denied one", address + ":443", "evil.example", undecided, 0, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{Lookup: lookup})
			w.targets = row.address
			w.deny("evil.example")
			w.serveTLS(http.HandlerFunc(hello), func(cfg *tls.Config) {
				cfg.Certificates = []tls.Certificate{w.leaf(nil, site, "other.example", "evil.example")}
			})
			c := w.dialGuest(80)
			throughConnect(t, c, row.target)
			if dials := w.dialCount(); dials != row.dials {
				t.Errorf("%d dials before a name is shown, want %d", dials, row.dials)
			}
			cfg := w.guestTLS("http/1.1")
			cfg.ServerName = row.shown
			inner := tls.Client(c, cfg)
			if err := inner.Handshake(); err != nil || !row.ok {
				if (err == nil) != row.ok {
					t.Errorf("handshake: %v", err)
				}
				if dials := w.dialCount(); !row.ok && dials != row.dials {
					t.Errorf("%d dials for a denied name", dials-row.dials)
				}
				return
			}
			if got := talk(t, inner, "GET /in HTTP/1.1\r\nHost: "+row.shown+"\r\nConnection: close\r\n\r\n"); !strings.Contains(got, "GET "+row.shown+" /in") {
				t.Errorf("got %q", got)
			}
			if e := w.waitFor(EventRequest); e.Destination.Addr().String() != address || e.Destination.Port() != 443 {
				t.Errorf("the event is about %v", e.Destination)
			}
		})
	}
}
