package guest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// newCA returns a certificate of that name, PEM.
func newCA(t *testing.T, name pkix.Name) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: name, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// guestRoot returns a root with these files.
func guestRoot(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := root + name
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			if err := os.Symlink(target, path); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestTrust installs a CA in the layouts of distributions.
func TestTrust(t *testing.T) {
	t.Parallel()
	ca := newCA(t, pkix.Name{CommonName: "sluice"})
	const debian, fedora = "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"
	old := string(newCA(t, pkix.Name{CommonName: "old"}))
	for _, row := range []struct {
		name     string
		files    map[string]string
		env      map[string]string
		bundle   string
		also     []string // have the CA too
		warnings int
	}{
		{"Debian", map[string]string{debian: old}, nil, debian, nil, 0},
		{"Alpine", map[string]string{debian: old, "/etc/ssl/cert.pem": "-> certs/ca-certificates.crt"}, nil, debian, []string{"/etc/ssl/cert.pem"}, 0},
		{"Fedora", map[string]string{fedora: old, "/etc/pki/tls/certs/ca-bundle.crt": "-> ../../ca-trust/extracted/pem/tls-ca-bundle.pem"}, nil, fedora, []string{"/etc/pki/tls/certs/ca-bundle.crt"}, 0},
		{"no newline at the end", map[string]string{debian: strings.TrimSpace(old)}, nil, debian, nil, 0},
		{"none", nil, nil, debian, nil, 1},
		{"the user's own variable", map[string]string{debian: old}, map[string]string{"SSL_CERT_FILE": "/mine.pem", "PIP_CERT": debian}, debian, nil, 1},
		{"the image's Firefox policy", map[string]string{debian: old, "/etc/firefox/policies/policies.json": "{}"}, nil, debian, nil, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			root := guestRoot(t, row.files)
			for range 2 { // the second time changes nothing
				env, warnings, err := installTrust(root, ca, row.env)
				if err != nil || len(warnings) != row.warnings {
					t.Fatalf("%q, %v; want %d warnings", warnings, err, row.warnings)
				}
				for _, name := range trustVariables {
					want := row.bundle
					if set, ok := row.env[name]; ok {
						want = set
					}
					if env[name] != want {
						t.Errorf("%s is %q; want %q", name, env[name], want)
					}
				}
				if row.name == "none" {
					row.warnings = 0 // there is one now
				}
			}
			for _, name := range append(row.also, row.bundle) {
				text := readFile(t, root+name)
				if n := strings.Count(text, strings.TrimSpace(string(ca))); n != 1 {
					t.Errorf("%s has the CA %d times", name, n)
				}
				if all, err := parseCertificates([]byte(text)); err != nil || len(row.files) > 0 && len(all) != 2 {
					t.Errorf("%s has %d certificates, %v; want what it had and the CA", name, len(all), err)
				}
			}
		})
	}
	if env, _, err := installTrust("/nonexistent", nil, map[string]string{"A": "b"}); err != nil || len(env) != 1 {
		t.Errorf("without a CA: %v, %v", env, err)
	}
	for _, bad := range []string{"no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if _, _, err := installTrust(t.TempDir(), []byte(bad), nil); err == nil {
			t.Errorf("a CA that is %q was installed", bad)
		}
	}
}

// TestTrustManyRoots adds the host's roots, of which the guest has most.
func TestTrustManyRoots(t *testing.T) {
	t.Parallel()
	const debian = "/etc/ssl/certs/ca-certificates.crt"
	var roots []string
	for i := range 5 {
		roots = append(roots, string(newCA(t, pkix.Name{CommonName: fmt.Sprint("root ", i)})))
	}
	root := guestRoot(t, map[string]string{debian: "# a remark\n" + roots[0] + roots[1] + roots[2]})
	broken := "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
	all := strings.Join(roots, "") + broken + roots[4] // one twice
	if _, warnings, err := installTrust(root, []byte(all), nil); err != nil || len(warnings) != 1 {
		t.Fatalf("warnings %q, %v; want one, of the one that is none", warnings, err)
	}
	if got, want := readFile(t, root+debian), "# a remark\n"+strings.Join(roots, ""); got != want {
		t.Errorf("the bundle has %d certificates; want 5", strings.Count(got, "BEGIN"))
	}
}

// TestSubjectHash agrees with OpenSSL, by whose directory a program then trusts
// the CA.
func TestSubjectHash(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("no openssl")
	}
	for _, name := range []pkix.Name{
		{CommonName: "sluice"},
		{CommonName: "Sluice  CA  of box 7 ", Organization: []string{"Sluice Net"}},
		{CommonName: "Köln", Country: []string{"DE"}, OrganizationalUnit: []string{"A"}},
	} {
		ca := newCA(t, name)
		root := guestRoot(t, map[string]string{"/etc/ssl/certs/ca-certificates.crt": ""})
		if _, _, err := installTrust(root, ca, nil); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "openssl", "x509", "-noout", "-subject_hash")
		cmd.Stdin = bytes.NewReader(ca)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		all, err := parseCertificates(ca)
		if err != nil {
			t.Fatal(err)
		}
		if hash, err := subjectHash(all[0]); err != nil || fmt.Sprintf("%08x", hash) != strings.TrimSpace(string(out)) {
			t.Errorf("%v: %08x, %v; want %s", name, hash, err, out)
		}
		verify := exec.CommandContext(t.Context(), "openssl", "verify", "-no-CAfile", "-CApath", root+"/etc/ssl/certs")
		verify.Stdin = bytes.NewReader(ca)
		if out, err := verify.CombinedOutput(); err != nil {
			t.Errorf("%v: %v, %s", name, err, out)
		}
	}
}

// TestKeystore adds the CA to Java's store, which Java then lists.
func TestKeystore(t *testing.T) {
	t.Parallel()
	ca, old := newCA(t, pkix.Name{CommonName: "sluice"}), newCA(t, pkix.Name{CommonName: "old"})
	oldDER := derOf(old)
	root := guestRoot(t, map[string]string{
		"/etc/ssl/certs/ca-certificates.crt":           string(old),
		"/etc/ssl/certs/java/cacerts":                  string(encodeKeystore(oldDER)),
		"/usr/lib/jvm/java-8/jre/lib/security/cacerts": "-> ../../../../../../../etc/ssl/certs/java/cacerts",
		"/opt/jdk-25/lib/security/cacerts":             "\x30\x82 PKCS 12",
		"/opt/odd/lib/security/cacerts":                string(encodeKeystore(oldDER)[:40]),
		"/home/java/lib/security/cacerts":              string(encodeKeystore(nil)),
	})
	_, warnings, err := installTrust(root, ca, map[string]string{"JAVA_HOME": "/home/java"})
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "/opt/odd/lib/security/cacerts") {
		t.Errorf("warnings %q, %v; want one, of the broken store", warnings, err)
	}
	for store, want := range map[string]int{"/etc/ssl/certs/java/cacerts": 2, "/opt/jdk-25/lib/security/cacerts": 2, "/home/java/lib/security/cacerts": 1} {
		all, err := parseKeystore([]byte(readFile(t, root+store)))
		if err != nil || len(all) != want {
			t.Errorf("%s has %d certificates, %v; want %d", store, len(all), err, want)
		}
		if keytool, err := exec.LookPath("keytool"); err == nil {
			out, err := exec.CommandContext(t.Context(), keytool, "-list", "-keystore", root+store, "-storepass", keystorePassword).CombinedOutput()
			if err != nil || strings.Count(string(out), "trustedCertEntry") != want {
				t.Errorf("%s: keytool says %v: %s", store, err, out)
			}
		}
	}
}

// FuzzKeystore checks that what can be read is what would be written.
func FuzzKeystore(f *testing.F) {
	f.Add(encodeKeystore(nil))
	f.Add(encodeKeystore([][]byte{[]byte("a"), {}}))
	f.Add([]byte{0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := parseKeystore(text)
		if err != nil {
			return
		}
		again, err := parseKeystore(encodeKeystore(all))
		if err != nil || !slices.EqualFunc(all, again, bytes.Equal) {
			t.Errorf("%q became %q, %v", all, again, err)
		}
	})
}
