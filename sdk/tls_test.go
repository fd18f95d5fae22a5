package sdk

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writeCert writes a self-signed certificate and its key, and returns their
// paths.
func writeCert(t *testing.T, name string, isCA bool) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		BasicConstraintsValid: true,
		IsCA:                  isCA,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(file, kind string, der []byte) string {
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write(name+".pem", "CERTIFICATE", der), write(name+".key", "PRIVATE KEY", keyDER)
}

// TestCheckCA checks which pairs of files are certificate authorities.
func TestCheckCA(t *testing.T) {
	t.Parallel()
	ca, caKey := writeCert(t, "ca", true)
	leaf, leafKey := writeCert(t, "leaf", false)
	for _, tt := range []struct{ name, cert, key, want string }{
		{"an authority", ca, caKey, ""},
		{"a leaf", leaf, leafKey, "is not a certificate authority; give one with CA:TRUE"},
		{"another's key", ca, leafKey, "private key does not match"},
		{"a key for a certificate", caKey, caKey, "failed to find"},
		{"nothing", ca + ".none", caKey, "no such file"},
	} {
		var c checker
		c.checkTLS(&TLSConfig{CACert: tt.cert, CAKey: tt.key})
		err := c.err()
		if tt.want == "" && err != nil || tt.want != "" && (!IsKind(err, ErrTLS) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestCheckBundle checks which files hold a certificate.
func TestCheckBundle(t *testing.T) {
	t.Parallel()
	ca, key := writeCert(t, "ca", true)
	keyText, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	caText, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	both := filepath.Join(t.TempDir(), "both.pem")
	if err := os.WriteFile(both, append(append([]byte("# comment\n"), keyText...), caText...), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, ok := range map[string]bool{ca: true, both: true, key: false, os.DevNull: false, "/none": false} {
		var c checker
		c.checkTLS(&TLSConfig{UpstreamCACerts: []string{path}, ScopedUpstreamCACerts: []ScopedUpstreamCACert{{"*.example", path}}})
		if got := len(c.problems); ok && got != 0 || !ok && got != 2 {
			t.Errorf("%s: %d problems: %v", path, got, c.err())
		}
	}
}

// TestPatternsMeet checks whether two patterns cover a host together.
func TestPatternsMeet(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"a.example", "a.example", true}, {"A.example", "a.Example", true}, {"a.example", "b.example", false},
		{"a.example.", "a.example", true}, {"bücher.example", "xn--bcher-kva.example", true}, {"*.Bücher.example", "a.xn--bcher-kva.example.", true},
		{"*.example", "a.example", true}, {"*.example", "example", false}, {"*.example", "a.b.example", true}, {"*.example", "xexample", false},
		{"*.example", "*.example", true}, {"*.a.example", "*.example", true}, {"*.a.example", "*.b.example", false}, {"*.ample", "*.example", false},
	} {
		if patternsMeet(tt.a, tt.b) != tt.want || patternsMeet(tt.b, tt.a) != tt.want {
			t.Errorf("%s and %s: want %v both ways", tt.a, tt.b, tt.want)
		}
	}
}
