package sandbox

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/internal/netlab"
	"github.com/sluicenet/sluice/policy"
)

// serverFor returns an HTTPS server on the host's loopback that is name, the port
// that it has, and the authority to trust for that.
func serverFor(t *testing.T, name string, h http.Handler) (port uint16, roots []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		DNSNames:              []string{name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().(*net.TCPAddr).AddrPort().Port(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestInterceptGuest has a guest's curl talk to a server whose TLS is read: the
// guest trusts the sandbox, the server gets the secret, the guest never does.
func TestInterceptGuest(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		netlab.Skip(t, "curl", err.Error())
	}
	const value = "s3cr3t-value-of-the-token"
	name := policy.HostAliases()[0]
	heard := make(chan string, 4)
	port, roots := serverFor(t, name, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		heard <- r.Header.Get("Authorization")
		_, _ = io.WriteString(w, "you said "+r.Header.Get("Authorization")+"\n")
	}))
	_, c := started(t, testConfig{Policy: "allow-all", TLSPort: port, Roots: roots, Secret: value})
	ctx := t.Context()
	ask := sh(fmt.Sprintf(`curl -sS --max-time 20 -H "Authorization: Bearer $TOKEN" https://%s:%d/x`, name, port))
	got, err := run(ctx, c, ask, "")
	if err != nil || got.out != "you said Bearer $MSB_TOKEN\n" {
		t.Fatalf("the guest hears %q %q, %+v, %v", got.out, got.errs, got.exit, err)
	}
	if said := <-heard; said != "Bearer "+value {
		t.Errorf("the server hears %q", said)
	}
	if err := c.SetSecret(ctx, "TOKEN", "the-next-value"); err != nil {
		t.Fatal(err)
	}
	if _, err := run(ctx, c, ask, ""); err != nil {
		t.Fatal(err)
	}
	if said := <-heard; said != "Bearer the-next-value" {
		t.Errorf("after rotation the server hears %q", said)
	}
	m, err := c.Metrics(ctx)
	if err != nil || m.NetRxBytes < 1000 || m.NetTxBytes < 1000 {
		t.Errorf("bytes on the card: %d to the guest, %d from it, %v", m.NetRxBytes, m.NetTxBytes, err)
	}
	stats, err := c.Stats(ctx)
	if err != nil || stats.BytesToGuest < 1000 || stats.FramesToGuest < 10 {
		t.Errorf("stats %+v, %v", stats, err)
	}
	stream, err := c.Events(ctx, control.EventQuery{})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	text, err := io.ReadAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"type":"tls.intercept"`, `"verified":true`, `"type":"http.request"`, `"path":"/x"`, `"type":"secret.inject"`, `"type":"secret.redact"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no event has %s in\n%s", want, text)
		}
	}
	if strings.Contains(string(text), value) || strings.Contains(string(text), "the-next-value") {
		t.Error("an event holds a secret's value")
	}
}

// TestInterceptPlain has a guest's curl send a placeholder in plain HTTP, which no
// rule asks to be read: it is read all the same. Its own host gets the secret,
// where that needs no TLS; another gets nothing, and that is told of.
func TestInterceptPlain(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		netlab.Skip(t, "curl", err.Error())
	}
	const value = "s3cr3t-value-of-the-token"
	heard := make(chan string, 4)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		heard <- r.Header.Get("Authorization")
		_, _ = io.WriteString(w, "you said "+r.Header.Get("Authorization")+"\n")
	}))
	defer server.Close()
	port := server.Listener.Addr().(*net.TCPAddr).Port
	own := policy.HostAliases()[0]
	for _, tt := range []struct {
		name, host, said string
		plain            bool
		heard, event     string
	}{
		{"own host", own, "Bearer $TOKEN", true, "Bearer " + value, "secret.inject"},
		{"own host, TLS required", own, "Bearer $TOKEN", false, "", "secret.block"},
		{"foreign host", "other.example", "Bearer $TOKEN", true, "", "secret.block"},
		{"nothing secret", "other.example", "Bearer x", true, "Bearer x", "http.request"},
	} {
		_, c := started(t, testConfig{Policy: "allow-all", TLSPort: 443, Secret: value, Plain: tt.plain})
		ask := fmt.Sprintf(`curl -sS --max-time 20 --connect-to %s:%d:%s:%d -H "Authorization: %s" http://%s:%d/x`, tt.host, port, own, port, tt.said, tt.host, port)
		got, err := run(t.Context(), c, sh(ask), "")
		if err != nil || strings.Contains(got.out, value) {
			t.Errorf("%s: the guest hears %q %q, %v", tt.name, got.out, got.errs, err)
		}
		said := ""
		select {
		case said = <-heard:
		default: // curl has its answer, so nothing is on its way
		}
		if said != tt.heard {
			t.Errorf("%s: the server hears %q, want %q; the guest %q %q", tt.name, said, tt.heard, got.out, got.errs)
		}
		stream, err := c.Events(t.Context(), control.EventQuery{})
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(stream)
		if stream.Close(); err != nil || !strings.Contains(string(text), `"type":"`+tt.event+`"`) || strings.Contains(string(text), value) {
			t.Errorf("%s: no event %s, or one with the value, in\n%s%v", tt.name, tt.event, text, err)
		}
	}
}
