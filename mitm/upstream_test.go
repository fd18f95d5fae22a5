package mitm

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
)

// TestUpstreamMatrix shows what a guest sees of a server whose TLS isn't in order,
// and that nothing of its request goes there: row T-27.
func TestUpstreamMatrix(t *testing.T) {
	t.Parallel()
	other, err := netlab.NewCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name   string
		change func(w *world, c *tls.Config)
		reason string // "" if the request gets through
		blind  string // the same without verification
	}{
		{"in order", func(*world, *tls.Config) {}, "", ""},
		{"TLS 1.3 only", func(_ *world, c *tls.Config) { c.MinVersion = tls.VersionTLS13 }, "", ""},
		{"TLS 1.2 only", func(_ *world, c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, "", ""},
		{"TLS 1.1", func(_ *world, c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, "no TLS version", "no TLS version"},
		{"TLS 1.0", func(_ *world, c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 }, "no TLS version", "no TLS version"},
		{"expired", func(w *world, c *tls.Config) {
			c.Certificates[0] = w.leaf(func(x *x509.Certificate) { x.NotAfter = time.Now().Add(-time.Hour) }, site)
		}, "expired", ""},
		{"not valid yet", func(w *world, c *tls.Config) {
			c.Certificates[0] = w.leaf(func(x *x509.Certificate) { x.NotBefore = time.Now().Add(time.Hour) }, site)
		}, "expired or isn't valid yet", ""},
		{"for another host", func(w *world, c *tls.Config) { c.Certificates[0] = w.leaf(nil, "evil.example") }, "isn't for " + site, ""},
		{"for the host above", func(w *world, c *tls.Config) { c.Certificates[0] = w.leaf(nil, "example.com") }, "isn't for " + site, ""},
		{"a wildcard", func(w *world, c *tls.Config) { c.Certificates[0] = w.leaf(nil, "*.example.com") }, "", ""},
		{"a wildcard too high", func(w *world, c *tls.Config) { c.Certificates[0] = w.leaf(nil, "*.com") }, "isn't for " + site, ""},
		{"name in the subject only", func(w *world, c *tls.Config) {
			c.Certificates[0] = w.leaf(func(x *x509.Certificate) { x.Subject.CommonName = site })
		}, "isn't", ""},
		{"NUL in the name", func(w *world, c *tls.Config) { c.Certificates[0] = w.leaf(nil, site+"\x00.evil.example") }, "isn't", ""},
		{"of an unknown issuer", func(_ *world, c *tls.Config) {
			cert, err := other.Leaf(time.Now(), nil, site)
			if err != nil {
				panic(err)
			}
			c.Certificates[0] = cert
		}, "nobody the host trusts", ""},
		{"not for servers", func(w *world, c *tls.Config) {
			c.Certificates[0] = w.leaf(func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, site)
		}, "isn't valid", ""},
		{"self-signed", func(w *world, c *tls.Config) { c.Certificates[0] = selfSigned(t, 2048) }, "nobody the host trusts", ""},
		{"a client certificate is required", func(_ *world, c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert }, "client certificate", "client certificate"},
		{"and over TLS 1.2", func(_ *world, c *tls.Config) {
			c.ClientAuth, c.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12
		}, "client certificate", "client certificate"},
		{"a client certificate is welcome", func(_ *world, c *tls.Config) { c.ClientAuth = tls.RequestClientCert }, "", ""},
		{"no protocol in common", func(_ *world, c *tls.Config) { c.NextProtos = []string{"imap"} }, "none of the protocols", "none of the protocols"},
		{"no ALPN", func(_ *world, c *tls.Config) { c.NextProtos = nil }, "", ""},
	} {
		for _, blind := range []bool{false, true} {
			for _, http2 := range []bool{false, true} {
				want := row.reason
				if blind {
					want = row.blind
				}
				if row.name == "no ALPN" && http2 {
					continue // a client of HTTP/2 alone can't be served
				}
				w := newWorld(t, Config{SkipVerify: blind})
				w.serveTLS(http.HandlerFunc(hello), func(c *tls.Config) { row.change(w, c) })
				res, err := w.client(http2).Get("https://" + site + "/")
				if err != nil {
					t.Errorf("%s, unverified %t, HTTP/2 %t: %v", row.name, blind, http2, err)
					continue
				}
				body, _ := io.ReadAll(res.Body)
				_ = res.Body.Close()
				switch failed := w.seen(EventFail); {
				case want == "" && (res.StatusCode != 200 || len(failed) > 0):
					t.Errorf("%s, unverified %t, HTTP/2 %t: got %d %q, %+v", row.name, blind, http2, res.StatusCode, body, failed)
				case want != "" && (res.StatusCode != 502 || !strings.Contains(string(body), want) || strings.Contains(string(body), "GET")):
					t.Errorf("%s, unverified %t, HTTP/2 %t: got %d %q, want %q", row.name, blind, http2, res.StatusCode, body, want)
				case want != "" && (len(failed) != 1 || failed[0].Leg != "upstream" || !strings.Contains(failed[0].Reason, want)):
					t.Errorf("%s, unverified %t, HTTP/2 %t: got events %+v", row.name, blind, http2, failed)
				}
			}
		}
	}
}

// selfSigned returns a certificate for the site that its own RSA key has signed.
func selfSigned(t *testing.T, bits int) tls.Certificate {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{site}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestClientCertificateWithoutALPN shows the same to a guest whose protocol isn't
// known before its first request.
func TestClientCertificateWithoutALPN(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.serveTLS(http.HandlerFunc(hello), func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert })
	got := talk(t, w.mustHandshake(), "GET / HTTP/1.1\r\nHost: "+site+"\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 502 ") || !strings.Contains(got, "client certificate") {
		t.Errorf("got %q", got)
	}
}

// TestTrust shows whom a configuration believes.
func TestTrust(t *testing.T) {
	t.Parallel()
	ours, err := netlab.NewCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	none := x509.NewCertPool()
	for _, row := range []struct {
		name string
		cfg  Config
		want int
	}{
		{"nobody", Config{Roots: none}, 502},
		{"an extra root", Config{Roots: none, ExtraRoots: ours.PEM()}, 200},
		{"a scoped root", Config{Roots: none, ScopedRoots: []ScopedRoots{{pattern(site), ours.PEM()}}}, 200},
		{"a root scoped to those below", Config{Roots: none, ScopedRoots: []ScopedRoots{{pattern("*.example.com"), ours.PEM()}}}, 200},
		{"a root scoped to another", Config{Roots: none, ScopedRoots: []ScopedRoots{{pattern("*.example.org"), ours.PEM()}}}, 502},
		{"anybody", Config{Roots: none, SkipVerify: true}, 200},
		{"anybody but this one", Config{Roots: none, SkipVerify: true, ScopedVerify: []ScopedVerify{{pattern(site), true}}}, 502},
		{"this one unseen", Config{Roots: none, ScopedVerify: []ScopedVerify{{pattern(site), false}}}, 200},
		{"the first pattern wins", Config{Roots: none, ScopedVerify: []ScopedVerify{{pattern(site), true}, {pattern("*.example.com"), false}}}, 502},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, row.cfg)
			w.serveTLS(http.HandlerFunc(hello), func(c *tls.Config) {
				cert, err := ours.Leaf(time.Now(), nil, site)
				if err != nil {
					t.Fatal(err)
				}
				c.Certificates[0] = cert
			})
			res, err := w.client(true).Get("https://" + site + "/")
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if res.StatusCode != row.want {
				t.Errorf("got %d, want %d", res.StatusCode, row.want)
			}
		})
	}
}

// pattern reads a pattern that is known to be one.
func pattern(s string) Pattern {
	p, err := ParsePattern(s)
	if err != nil {
		panic(err)
	}
	return p
}

// TestDialFails shows that a guest whose server can't be reached gets a reset.
func TestDialFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	if c, err := w.handshake(w.guestTLS()); err == nil {
		t.Errorf("handshake succeeded: %+v", c.ConnectionState())
	}
	if w.resetCount() != 1 {
		t.Errorf("got %d resets", w.resetCount())
	}
}

// TestNotTLSUpstream shows that a server that doesn't speak TLS is said to be one.
func TestNotTLSUpstream(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{})
	w.serveConns(443, func(c net.Conn) {
		_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n")
		_, _ = io.ReadFull(c, make([]byte, 1))
	})
	res, err := w.client(false).Get("https://" + site + "/")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if res.StatusCode != 502 || !strings.Contains(string(body), "doesn't speak TLS") {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
}

// TestNew shows which configurations are refused.
func TestNew(t *testing.T) {
	t.Parallel()
	ca, err := netlab.NewCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, key := caPair(t, nil)
	_, otherKey := caPair(t, nil)
	leaf, leafKey := caPair(t, func(c *x509.Certificate) { c.IsCA = false })
	old, oldKey := caPair(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) })
	noSign, noSignKey := caPair(t, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
	for _, row := range []struct {
		name string
		cfg  Config
		want string // in the error; "" for none
	}{
		{"nothing", Config{}, ""},
		{"a CA", Config{CACert: cert, CAKey: key}, ""},
		{"a certificate without its key", Config{CACert: cert}, "together"},
		{"a key without its certificate", Config{CAKey: key}, "together"},
		{"a key of another certificate", Config{CACert: cert, CAKey: otherKey}, "match"},
		{"no PEM", Config{CACert: []byte("x"), CAKey: key}, "PEM"},
		{"no CA", Config{CACert: leaf, CAKey: leafKey}, "isn't that of a CA"},
		{"a CA that expired", Config{CACert: old, CAKey: oldKey}, "valid from"},
		{"a CA that must not sign", Config{CACert: noSign, CAKey: noSignKey}, "key usage"},
		{"port 0", Config{Ports: []uint16{443, 0}}, "InterceptedPorts[1]: port 0"},
		{"port 53", Config{Ports: []uint16{53}}, "port 53"},
		{"port 853", Config{Ports: []uint16{853}}, "port 853"},
		{"a negative limit", Config{Limits: Limits{Leaves: -1}}, "Limits.Leaves"},
		{"a negative time", Config{Limits: Limits{Idle: -1}}, "Limits.Idle"},
		{"too small a window", Config{Limits: Limits{ConnBytes: 1000}}, "Limits.ConnBytes"},
		{"extra roots", Config{ExtraRoots: ca.PEM()}, ""},
		{"extra roots that are none", Config{ExtraRoots: []byte("x")}, "UpstreamCACerts"},
		{"scoped roots that are none", Config{ScopedRoots: []ScopedRoots{{pattern(site), nil}}}, "ScopedUpstreamCACerts for " + site},
	} {
		p, err := New(row.cfg)
		if err == nil {
			_ = p.Close()
		}
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: got %v, want %q", row.name, err, row.want)
		}
	}
}

// caPair returns a CA in PEM, whose template change may spoil.
func caPair(t *testing.T, change func(*x509.Certificate)) (cert, key []byte) {
	t.Helper()
	priv, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(2 * time.Hour),
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, priv.Public(), priv)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}
