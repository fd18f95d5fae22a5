package guest

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// TrustFiles returns where distributions have the certificates that programs
// trust, as one file. A guest whose root is read-only does well to have these
// writable when it is booted with a CA.
func TrustFiles() []string {
	return []string{
		"/etc/ssl/certs/ca-certificates.crt",                // Debian, Alpine, Arch, Gentoo
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, RHEL
		"/etc/pki/tls/certs/ca-bundle.crt",                  // RHEL 6, Amazon Linux
		"/etc/ssl/ca-bundle.pem",                            // openSUSE
		"/etc/ssl/cert.pem",                                 // Alpine's LibreSSL
	}
}

// privateTrust is where the certificates are written when none of TrustFiles can
// be: a directory that is the guest's own wherever its root is read-only.
const privateTrust = "/run/sluice/ca-certificates.crt"

// trustVariables are the variables that make programs trust one file instead of
// what they are built with.
var trustVariables = []string{
	"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "PIP_CERT",
	"AWS_CA_BUNDLE", "CARGO_HTTP_CAINFO", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "DENO_CERT",
}

// A trust is what makes a guest's programs trust a CA beside what they trust
// already: the bundles, OpenSSL's directory, Java's stores, the policies of
// Chromium and Firefox, and variables that commands get.
//
// What is not done: programs with certificates of their own that know none of
// the variables, or pin what they expect; NSS databases of users, which the
// browsers' policies stand in for; stores of Java with another password or with
// keys in them, and, where the root is read-only, all but bundles and variables.
// What update-ca-certificates(8) and its like make anew in the guest has the CA no
// more, but the variables still name a file that has, unless it is that one.
type trust struct {
	root         string // the guest's root; "" in a guest, a directory in tests
	certificates []*x509.Certificate
	bundle       string // path of a file with the CA and what the guest trusts
	files        []string
	warnings     []string
}

// installTrust adds ca to all that it finds, below root ("" in a guest), and
// returns the variables that commands are to have on top of env, theirs
// already, and what the user should know.
func installTrust(root string, ca []byte, env map[string]string) (map[string]string, []string, error) {
	if len(bytes.TrimSpace(ca)) == 0 {
		return maps.Clone(env), nil, nil
	}
	certificates, err := parseCertificates(ca)
	if len(certificates) == 0 {
		return nil, nil, fmt.Errorf("read CA: %w", errors.Join(err, errors.New("it is not certificates in PEM")))
	}
	t := &trust{root: root, certificates: certificates}
	if err != nil {
		t.warn("certificates of the host's that the guest doesn't get: %v", err)
	}
	if err := t.mergeBundles(); err != nil {
		return nil, nil, fmt.Errorf("trust CA: %w", err)
	}
	t.addToDirectory()
	t.addToJava(env["JAVA_HOME"])
	t.addToBrowsers()
	return t.variables(env), t.warnings, nil
}

// parseCertificates parses the certificates in a PEM file, and passes over other
// blocks. Those that can't be parsed are left out, and the first one's error is
// returned: stores have some that were made before the rules.
func parseCertificates(text []byte) (all []*x509.Certificate, first error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err == nil {
			all = append(all, c)
		} else if first == nil {
			first = err
		}
	}
	return all, first
}

// warn notes something that the user should know.
func (t *trust) warn(format string, args ...any) {
	t.warnings = append(t.warnings, fmt.Sprintf(format, args...))
}

// mergeBundles adds the CA to the guest's bundles, and finds the one that the
// variables are to name.
func (t *trust) mergeBundles() error {
	var first []byte // what the guest trusts already
	for _, name := range TrustFiles() {
		text, err := os.ReadFile(t.root + name)
		if err != nil {
			continue // not this distribution's
		}
		if len(first) == 0 {
			first = text
		}
		// A link to one that was done lacks nothing.
		if lacks := t.lacking(text); len(lacks) > 0 && writeInPlace(t.root+name, join(text, lacks)) != nil {
			continue // read-only: the variables do it
		}
		t.files = append(t.files, name)
	}
	if len(t.files) > 0 {
		t.bundle = t.files[0]
		return nil
	}
	if len(first) == 0 {
		t.warn("the guest has no CA certificates: its programs trust the sandbox's own alone")
		if err := t.create(TrustFiles()[0], t.lacking(nil)); err == nil {
			t.bundle = TrustFiles()[0]
			t.files = []string{t.bundle}
			return nil
		}
	}
	if err := t.create(privateTrust, join(first, t.lacking(first))); err != nil {
		return err
	}
	t.bundle = privateTrust
	return nil
}

// lacking returns those certificates of the CA, PEM, that a bundle lacks.
func (t *trust) lacking(bundle []byte) []byte {
	has := make(map[string]bool)
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		has[string(block.Bytes)] = true
	}
	var lacks []byte
	for _, c := range t.certificates {
		if !has[string(c.Raw)] {
			lacks = append(lacks, encodePEM(c)...)
			has[string(c.Raw)] = true
		}
	}
	return lacks
}

// encodePEM returns c as a block of a PEM file.
func encodePEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// join returns a PEM file behind another.
func join(first, second []byte) []byte {
	var all bytes.Buffer
	all.Write(first)
	if len(first) > 0 && first[len(first)-1] != '\n' {
		all.WriteByte('\n')
	}
	all.Write(second)
	return all.Bytes()
}

// writeInPlace gives a file that is there another content. It may be a mount of
// its own, which can't be renamed over, and a link.
func writeInPlace(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

// create makes a file of the guest's, and the directories on the way.
func (t *trust) create(name string, text []byte) error {
	path := t.root + name
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

// addToDirectory adds the CA to the directory that OpenSSL looks into, by the
// hash of a certificate's name, where no variable names a file. A root that is
// read-only has only the variable.
func (t *trust) addToDirectory() {
	const dir = "/etc/ssl/certs"
	if info, err := os.Stat(t.root + dir); err != nil || !info.IsDir() {
		return
	}
	for i, c := range t.certificates {
		name := fmt.Sprintf("%s/sluice-%d.pem", dir, i)
		if t.create(name, encodePEM(c)) != nil {
			return
		}
		hash, err := subjectHash(c)
		if err != nil {
			continue // a name that OpenSSL would write otherwise
		}
		for n := range 16 { // others of that name
			link := fmt.Sprintf("%s%s/%08x.%d", t.root, dir, hash, n)
			if err := os.Symlink(filepath.Base(name), link); !errors.Is(err, fs.ErrExist) {
				break
			}
			if target, err := os.Readlink(link); err == nil && target == filepath.Base(name) {
				break
			}
		}
	}
}

// addToBrowsers has Chromium and Firefox trust the CA by their policies, which
// count if they are installed later, too. Files of a root that is read-only stay
// as they are, and are not worth a warning where there is no browser.
func (t *trust) addToBrowsers() {
	var encoded, paths []string
	for _, c := range t.certificates {
		encoded = append(encoded, base64.StdEncoding.EncodeToString(c.Raw))
	}
	chromium, err := json.Marshal(map[string]any{"CACertificates": encoded})
	if err != nil {
		return
	}
	for _, dir := range []string{"/etc/chromium", "/etc/opt/chrome", "/etc/opt/edge"} {
		if t.create(dir+"/policies/managed/sluice.json", chromium) != nil {
			return
		}
	}
	for i, c := range t.certificates {
		name := fmt.Sprintf("/etc/firefox/policies/sluice-%d.pem", i)
		if t.create(name, encodePEM(c)) != nil {
			return
		}
		paths = append(paths, name)
	}
	firefox, err := json.Marshal(map[string]any{"policies": map[string]any{"Certificates": map[string]any{"Install": paths}}})
	if err != nil {
		return
	}
	const policies = "/etc/firefox/policies/policies.json"
	if own, err := os.ReadFile(t.root + policies); err == nil && !bytes.Equal(own, firefox) {
		t.warn("%s is the image's own: Firefox trusts the CA only if its Certificates.Install names %s", policies, strings.Join(paths, ", "))
		return
	}
	_ = t.create(policies, firefox) // the directory could be written
}

// variables returns env with the variables that name the bundle. One that is set
// already stays.
func (t *trust) variables(env map[string]string) map[string]string {
	all := maps.Clone(env)
	if all == nil {
		all = make(map[string]string)
	}
	var foreign []string
	for _, name := range trustVariables {
		value, ok := env[name]
		switch {
		case !ok:
			all[name] = t.bundle
		case value != t.bundle && !slices.Contains(t.files, value):
			foreign = append(foreign, name+"="+value)
		}
	}
	if len(foreign) > 0 {
		t.warn("set already, so that programs which follow it may not trust the sandbox's CA: %s", strings.Join(foreign, ", "))
	}
	return all
}
