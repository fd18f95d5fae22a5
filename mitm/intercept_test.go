package mitm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluicenet/sluice/policy"
)

// TestLeaf shows the certificate that a guest gets.
func TestLeaf(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.serveTLS(http.HandlerFunc(hello), nil)
	c := w.mustHandshake("h2", "http/1.1")
	leaf := c.ConnectionState().PeerCertificates[0]
	if !slices.Equal(leaf.DNSNames, []string{site}) || len(leaf.IPAddresses)+len(leaf.EmailAddresses)+len(leaf.URIs) != 0 || leaf.Subject.CommonName != "" {
		t.Errorf("names: got %q %q %q", leaf.DNSNames, leaf.IPAddresses, leaf.Subject)
	}
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		t.Errorf("got a key %T", leaf.PublicKey)
	}
	now := time.Now()
	if leaf.NotBefore.Before(now.Add(-24*time.Hour-time.Minute)) || leaf.NotAfter.After(now.Add(24*time.Hour)) {
		t.Errorf("valid from %s to %s", leaf.NotBefore, leaf.NotAfter)
	}
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != 1 {
		t.Errorf("got CA %t, usage %v %v", leaf.IsCA, leaf.KeyUsage, leaf.ExtKeyUsage)
	}
	again := w.mustHandshake("h2", "http/1.1").ConnectionState().PeerCertificates[0]
	if !bytes.Equal(again.Raw, leaf.Raw) {
		t.Error("the second connection has another certificate")
	}
}

// TestMint shows when a leaf is kept, made again and forgotten.
func TestMint(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ca, err := newAuthority(start)
	if err != nil {
		t.Fatal(err)
	}
	m, err := newMint(ca, Limits{Leaves: 2, LeavesPerSecond: 1000})
	if err != nil {
		t.Fatal(err)
	}
	get := func(name string, now time.Time) *leaf {
		l, err := m.leaf(t.Context(), name, now)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first := get("a.example", start)
	for _, row := range []struct {
		name  string
		after time.Duration
		same  bool
	}{
		{"at once", 0, true},
		{"after 22 hours", 22*time.Hour + 59*time.Minute, true},
		{"with less than an hour left", 23*time.Hour + time.Minute, false},
	} {
		if got := get("a.example", start.Add(row.after)) == first; got != row.same {
			t.Errorf("%s: kept %t, want %t", row.name, got, row.same)
		}
	}
	if l := get("a.example", start); !l.fresh(start) {
		t.Error("a leaf of the future is kept when the clock was set back")
	}
	a := get("a.example", start)
	b := get("b.example", start)
	get("a.example", start)
	get("c.example", start) // forgets b
	if get("a.example", start) != a {
		t.Error("the latest used was forgotten")
	}
	if get("b.example", start) == b {
		t.Error("the least used was kept")
	}
	if a.ticketKey == b.ticketKey {
		t.Error("two names share a ticket key")
	}
	if long := get(strings.Repeat("a.", 126)+"a", start); len(long.cert.Leaf.DNSNames[0]) != 253 {
		t.Errorf("a long name: got %q", long.cert.Leaf.DNSNames)
	}
}

// TestMintLimit shows that a flood of names is slowed down: row T-28. Sixty names
// would take a minute.
func TestMintLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{SkipVerify: true, Limits: Limits{Leaves: 1, LeavesPerSecond: 1, Handshake: 10 * time.Second}})
	w.serveTLS(http.HandlerFunc(hello), nil)
	door := w.door(443)
	var failed atomic.Int64
	var guests sync.WaitGroup
	for i := range 60 {
		cfg := w.guestTLS()
		cfg.ServerName = fmt.Sprintf("n%d.example.com", i)
		guests.Go(func() {
			c, err := tls.Dial("tcp", door, cfg)
			if err != nil {
				failed.Add(1)
				return
			}
			_ = c.Close()
		})
	}
	guests.Wait()
	if failed.Load() == 0 {
		t.Error("all names got a certificate at once")
	}
	if e := w.waitFor(EventLimit); e.Limit != "Leaves" {
		t.Errorf("got %+v", e)
	}
}

// TestNoLeafWhenDenied shows that a denied name gets neither certificate nor
// connection: rows T-02 and T-28.
func TestNoLeafWhenDenied(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.serveTLS(http.HandlerFunc(hello), nil)
	w.deny(site)
	if _, err := w.handshake(w.guestTLS()); err == nil {
		t.Error("handshake succeeded")
	}
	if w.proxy.mint.kept.Len() != 0 || w.dials != 0 || w.resetCount() != 1 {
		t.Errorf("got %d leaves, %d dials, %d resets", w.proxy.mint.kept.Len(), w.dials, w.resetCount())
	}
}

// TestALPN shows which protocol both legs speak.
func TestALPN(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name          string
		guest, server []string
		want          string
	}{
		{"both know both", []string{"h2", "http/1.1"}, []string{"h2", "http/1.1"}, "h2"},
		{"the server chooses", []string{"h2", "http/1.1"}, []string{"http/1.1"}, "http/1.1"},
		{"the guest knows one", []string{"http/1.1"}, []string{"h2", "http/1.1"}, "http/1.1"},
		{"the guest offers none", nil, []string{"h2", "http/1.1"}, ""},
		{"the server chooses none", []string{"h2", "http/1.1"}, nil, ""},
		{"another protocol", []string{"mqtt", "h2"}, []string{"mqtt"}, "mqtt"},
		{"gRPC's name for HTTP/2", []string{"grpc-exp", "h2"}, []string{"grpc-exp", "h2"}, "grpc-exp"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{})
			var saw []string
			chosen := make(chan string, 1)
			cfg := &tls.Config{NextProtos: row.server, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				saw = h.SupportedProtos
				return nil, nil
			}}
			w.serveTLSConns(cfg, func(c net.Conn) {
				if err := c.(*tls.Conn).Handshake(); err == nil {
					chosen <- c.(*tls.Conn).ConnectionState().NegotiatedProtocol
				}
			})
			c := w.mustHandshake(row.guest...)
			if got := c.ConnectionState().NegotiatedProtocol; got != row.want {
				t.Errorf("the guest got %q, want %q", got, row.want)
			}
			if got := <-chosen; got != row.want || !slices.Equal(saw, row.guest) {
				t.Errorf("the server chose %q of %q, want %q of %q", got, saw, row.want, row.guest)
			}
			if e := w.waitFor(EventIntercept); e.ALPN != row.want || e.Name != site || !e.Verified || e.Version != "TLS 1.3" {
				t.Errorf("got event %+v", e)
			}
		})
	}
}

// TestVersions shows which versions of TLS a guest may speak: row T-09.
func TestVersions(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		version uint16
		works   bool
	}{{tls.VersionTLS10, false}, {tls.VersionTLS11, false}, {tls.VersionTLS12, true}, {tls.VersionTLS13, true}} {
		w := newWorld(t, Config{})
		w.serveTLS(http.HandlerFunc(hello), nil)
		cfg := w.guestTLS()
		cfg.MinVersion, cfg.MaxVersion = row.version, row.version
		_, err := w.handshake(cfg)
		if (err == nil) != row.works {
			t.Errorf("%s: got %v, works %t", tls.VersionName(row.version), err, row.works)
		}
		if !row.works && !fromPeer(err, alertProtocolVersion) {
			t.Errorf("%s: got %v, want the alert protocol_version", tls.VersionName(row.version), err)
		}
	}
}

// TestTickets shows that a ticket serves the name that it was given for, and no
// other: row T-11.
func TestTickets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{SkipVerify: true})
	w.serveTLS(http.HandlerFunc(hello), nil)
	cache := &oneTicket{}
	resumed := func(name string) bool {
		cfg := w.guestTLS("http/1.1")
		cfg.ServerName, cfg.ClientSessionCache, cfg.InsecureSkipVerify = name, cache, true
		c, err := w.handshake(cfg)
		if err != nil {
			t.Fatal(err)
		}
		talk(t, c, "GET / HTTP/1.1\r\nHost: "+name+"\r\nConnection: close\r\n\r\n") // reads the ticket
		return c.ConnectionState().DidResume
	}
	if resumed(site) {
		t.Error("the first connection resumed")
	}
	if !resumed(site) {
		t.Error("the second connection didn't resume")
	}
	if resumed("other.example.com") {
		t.Error("another name accepted the ticket")
	}
}

// oneTicket is a guest that shows every server the last ticket it got.
type oneTicket struct{ state *tls.ClientSessionState }

func (c *oneTicket) Get(string) (*tls.ClientSessionState, bool)  { return c.state, c.state != nil }
func (c *oneTicket) Put(_ string, state *tls.ClientSessionState) { c.state = state }

// TestDistrust shows that a guest that doesn't trust the CA is an event with what
// to do: a client that checks, one that pins, and one that just hangs up.
func TestDistrust(t *testing.T) {
	t.Parallel()
	pinned := errors.New("not the pinned key")
	for _, row := range []struct {
		name   string
		cfg    func(w *world) *tls.Config
		reason string
	}{
		{"no root", func(w *world) *tls.Config { return &tls.Config{ServerName: site, RootCAs: x509.NewCertPool()} }, "doesn't trust the sandbox's CA"},
		{"no root, TLS 1.2", func(w *world) *tls.Config {
			return &tls.Config{ServerName: site, RootCAs: x509.NewCertPool(), MaxVersion: tls.VersionTLS12}
		}, "doesn't trust the sandbox's CA"},
		{"a pin", func(w *world) *tls.Config {
			cfg := w.guestTLS()
			cfg.VerifyConnection = func(tls.ConnectionState) error { return pinned }
			return cfg
		}, "doesn't trust the sandbox's CA"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{})
			w.serveTLS(http.HandlerFunc(hello), nil)
			if _, err := w.handshake(row.cfg(w)); err == nil {
				t.Error("handshake succeeded")
			}
			e := w.waitFor(EventFail)
			if e.Leg != "guest" || !strings.Contains(e.Reason, row.reason) || !strings.Contains(e.Fix, `Bypass: ["`+site+`"]`) {
				t.Errorf("got %+v", e)
			}
		})
	}
}

// TestNoName shows what becomes of a flow on an intercepted port that shows no
// name: rows T-03, T-07 and T-21.
func TestNoName(t *testing.T) {
	t.Parallel()
	noSNI := clientHello(t, &tls.Config{InsecureSkipVerify: true})
	for _, row := range []struct {
		name, sent string
		allowNon   bool
		opaque     policy.Verdict
		passes     bool
	}{
		{"no SNI", noSNI, false, allow, false},
		{"no SNI, allowed", noSNI, true, allow, true},
		{"no SNI, allowed by a name", noSNI, true, allowName, false},
		{"no SNI, denied", noSNI, true, policy.Verdict{}, false},
		{"plain HTTP", "GET / HTTP/1.1\r\nHost: " + site + "\r\n\r\n", false, allow, false},
		{"plain HTTP, allowed", "GET / HTTP/1.1\r\nHost: " + site + "\r\n\r\n", true, allow, true},
		{"plain HTTP, a name could deny", "GET / HTTP/1.1\r\nHost: " + site + "\r\n\r\n", true, policy.Verdict{Action: policy.Allow, ByAddress: true, PerRequest: true}, false},
		{"SSH", "SSH-2.0-x\r\n", false, allow, false},
		{"SSH, allowed", "SSH-2.0-x\r\n", true, allow, true},
		{"SSLv2", "\x80\x2e\x01\x00\x02rest", false, allow, false},
		{"an alert first", "\x15\x03\x01\x00\x02\x01\x00" + noSNI, false, allow, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{AllowNonTLS: row.allowNon})
			w.opaque = row.opaque
			w.serveConns(443, func(c net.Conn) { _, _ = io.Copy(c, c) })
			c := w.dialGuest(443)
			_, _ = io.WriteString(c, row.sent)
			_ = c.(*net.TCPConn).CloseWrite()
			got, _ := io.ReadAll(c)
			if passed := string(got) == row.sent; passed != row.passes || !row.passes && (len(got) > 0 || w.resetCount() != 1) {
				t.Errorf("got %q and %d resets, passes %t", got, w.resetCount(), row.passes)
			}
			if !row.allowNon && w.dials != 0 {
				t.Errorf("dialled %d times", w.dials)
			}
		})
	}
}

// clientHello returns the first flight of a client.
func clientHello(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	near, far := net.Pipe()
	go func() {
		_ = tls.Client(near, cfg).Handshake()
	}()
	buf := make([]byte, 16<<10)
	n, err := far.Read(buf)
	_ = far.Close()
	_ = near.Close()
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// TestTLSWhereAnythingGoes shows that AllowNonTLS lets no TLS pass unread.
func TestTLSWhereAnythingGoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{AllowNonTLS: true})
	w.opaque = allow
	w.serveTLS(http.HandlerFunc(hello), nil)
	got := talk(t, w.mustHandshake("http/1.1"), "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 421 ") {
		t.Errorf("got %q", got)
	}
}

// TestSlowHello shows that a hello that comes byte by byte is read, and one that
// never ends is given up: row T-05.
func TestSlowHello(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.serveTLS(http.HandlerFunc(hello), nil)
	slow := tls.Client(&oneByte{Conn: w.dialGuest(443)}, w.guestTLS("http/1.1"))
	if err := slow.Handshake(); err != nil {
		t.Errorf("byte by byte: %v", err)
	}
	const limit = time.Second
	w = newWorld(t, Config{Limits: Limits{Handshake: limit}})
	c := w.dialGuest(443)
	hello := clientHello(t, w.guestTLS())
	began := time.Now()
	_, _ = io.WriteString(c, hello[:len(hello)/2])
	if got, _ := io.ReadAll(c); len(got) != 0 || w.resetCount() != 1 {
		t.Errorf("half a hello: got %q, %d resets", got, w.resetCount())
	}
	if d := time.Since(began); d < limit {
		t.Errorf("half a hello was given up after %v", d)
	}
}

// oneByte sends every byte in a packet of its own.
type oneByte struct{ net.Conn }

func (c *oneByte) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := c.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// TestBypass shows that a bypassed name gets the server's own TLS, and only if the
// policy allows it.
func TestBypass(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Bypass: []Pattern{pattern("*.example.com")}})
	w.serveTLS(http.HandlerFunc(hello), nil)
	cfg := w.guestTLS()
	cfg.RootCAs = w.ca.Pool()
	c, err := w.handshake(cfg)
	if err != nil {
		t.Fatal(err)
	}
	got := talk(t, c, "GET / HTTP/1.1\r\nHost: "+site+"\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 200") || len(w.seen(EventIntercept)) != 0 {
		t.Errorf("got %q", got)
	}
	if e := w.waitFor(EventBypass); e.Name != site {
		t.Errorf("got %+v", e)
	}
	w.deny(site)
	if _, err := w.handshake(cfg); err == nil {
		t.Error("the policy has no say")
	}
}

func TestPattern(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		pattern, name string
		want          bool
	}{
		{"example.com", "example.com", true},
		{"example.com", "a.example.com", false},
		{"*.example.com", "example.com", false},
		{"*.example.com", "a.example.com", true},
		{"*.example.com", "a.b.example.com", true},
		{"*.example.com", "aexample.com", false},
		{"*.example.com", ".example.com", false},
		{"EXAMPLE.com.", "example.com", true},
	} {
		if got := pattern(row.pattern).Match(row.name); got != row.want {
			t.Errorf("%s, %s: got %t", row.pattern, row.name, got)
		}
	}
	for _, bad := range []string{"", "*", "*.", "a.*.com", "*example.com", "**.example.com", "10.0.0.1", "a b"} {
		if p, err := ParsePattern(bad); err == nil {
			t.Errorf("%q: got %s", bad, p)
		}
	}
	for _, row := range []struct {
		p, q string
		want bool
	}{
		{"*.example.com", "a.example.com", true}, {"*.example.com", "*.a.example.com", true}, {"*.example.com", "*.example.com", true},
		{"*.example.com", "example.com", false}, {"example.com", "example.com", true}, {"a.example.com", "*.example.com", false},
	} {
		if got := pattern(row.p).Covers(pattern(row.q)); got != row.want {
			t.Errorf("%s covers %s: got %t", row.p, row.q, got)
		}
	}
}

// TestRelay shows what becomes of TLS whose content isn't HTTP.
func TestRelay(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name         string
		alpn         string
		banner, sent string
		unresolved   bool
		want         string
	}{
		{"another protocol", "mqtt", "", "\x10\x04MQTT", false, "\x10\x04MQTT"},
		{"without ALPN", "", "", "\x10\x04MQTT", false, "\x10\x04MQTT"},
		{"without ALPN, the server first", "", "220 smtp\r\n", "EHLO x\r\n", false, "220 smtp\r\nEHLO x\r\n"},
		{"ALPN says HTTP", "http/1.1", "", "\x10\x04MQTT", false, "\x10\x04MQTT"},
		{"a name that wasn't resolved", "mqtt", "", "\x10\x04MQTT", true, ""},
		{"and without ALPN", "", "", "\x10\x04MQTT", true, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{})
			w.resolved = func(string) bool { return !row.unresolved }
			w.serveTLSConns(&tls.Config{NextProtos: protocols(row.alpn)}, func(c net.Conn) {
				_, _ = io.WriteString(c, row.banner)
				_, _ = io.Copy(c, c)
			})
			c := w.mustHandshake(protocols(row.alpn)...)
			if row.banner != "" {
				buf := make([]byte, len(row.banner))
				if _, err := io.ReadFull(c, buf); err != nil || string(buf) != row.banner {
					t.Fatalf("got %q, %v", buf, err)
				}
			}
			_, _ = io.WriteString(c, row.sent)
			_ = c.CloseWrite()
			got, _ := io.ReadAll(c)
			if row.banner+string(got) != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

// TestHTTPUnderAnotherName shows that HTTP is read as such whatever protocol was
// chosen by ALPN: a request for another host, or one nobody reads, doesn't pass.
func TestHTTPUnderAnotherName(t *testing.T) {
	t.Parallel()
	const http1 = " HTTP/1.1\r\nConnection: close\r\nHost: "
	for _, row := range []struct{ name, alpn, sent, want string }{
		{"its own host", "http/1.0", "GET /" + http1 + site + "\r\n\r\n", "HTTP/1.1 200"},
		{"another host", "http/1.0", "GET /" + http1 + "evil.example\r\n\r\n", "HTTP/1.1 421"},
		{"another host, unknown protocol", "x", "GET /" + http1 + "evil.example\r\n\r\n", "HTTP/1.1 421"},
		{"two readings", "http/1.0", "GET /" + http1 + site + "\nX: y\r\n\r\n", "HTTP/1.1 400"},
		{"HTTP/2", "h2-16", http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{})
			var heard atomic.Int64
			w.serveTLSConns(&tls.Config{NextProtos: protocols(row.alpn)}, func(c net.Conn) {
				if _, err := c.Read(make([]byte, 1)); err == nil {
					heard.Add(1)
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				}
			})
			got := talk(t, w.mustHandshake(row.alpn), row.sent)
			if !strings.HasPrefix(got, row.want) || row.want == "" && strings.HasPrefix(got, "HTTP") {
				t.Errorf("got %q, want %q", got, row.want)
			}
			if passes := row.want == "HTTP/1.1 200"; passes != (heard.Load() > 0) {
				t.Errorf("the server heard %d connections", heard.Load())
			}
		})
	}
}

// TestMalformedInside shows that what is like HTTP, but not strictly so, isn't
// relayed as something else.
func TestMalformedInside(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	heard := make(chan string, 1)
	w.serveTLSConns(&tls.Config{}, func(c net.Conn) {
		text, _ := io.ReadAll(c) // the end of the flow is its end, clean or not
		heard <- string(text)
	})
	got := talk(t, w.mustHandshake(), "GET / HTTP/1.1\nHost: "+site+"\n\n")
	if text := <-heard; !strings.HasPrefix(got, "HTTP/1.1 400") || text != "" {
		t.Errorf("got %q, the server heard %q", got, text)
	}
}

// TestDoT shows that DNS over TLS is answered by our resolver, whatever server the
// guest asks.
func TestDoT(t *testing.T) {
	t.Parallel()
	for _, name := range []string{site, ""} {
		w := newWorld(t, Config{DNS: func(c net.Conn) {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}})
		cfg := w.guestTLS("dot")
		if cfg.ServerName = name; name == "" {
			cfg.ServerName = address // no SNI is sent for an address
		}
		c := tls.Client(w.dialGuest(853), cfg)
		if err := c.Handshake(); err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		_, _ = io.WriteString(c, "\x00\x02hi")
		_ = c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != "\x00\x02hi" || c.ConnectionState().NegotiatedProtocol != "dot" {
			t.Errorf("%q: got %q, %v", name, got, err)
		}
		if w.dials != 0 {
			t.Errorf("%q: dialled %d times", name, w.dials)
		}
	}
}

// TestClose shows that Close ends flows and waits for them, and that a closed Proxy
// serves none.
func TestClose(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.serveTLS(http.HandlerFunc(hello), nil)
	c := w.mustHandshake("h2")
	for range 2 {
		if err := w.proxy.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := io.ReadAll(c); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		var op *net.OpError
		if !errors.As(err, &op) || op.Timeout() {
			t.Errorf("got %v", err)
		}
	}
	if _, err := w.handshake(w.guestTLS()); err == nil {
		t.Error("a closed Proxy answers")
	}
}
