package mitm

import (
	"crypto/tls"
	"encoding/xml"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
)

// A scan is what sslscan reports of a server.
type scan struct {
	Test struct {
		Protocols []struct {
			Type    string `xml:"type,attr"`
			Version string `xml:"version,attr"`
			Enabled bool   `xml:"enabled,attr"`
		} `xml:"protocol"`
		Renegotiation struct {
			Supported bool `xml:"supported,attr"`
		} `xml:"renegotiation"`
		Compression struct {
			Supported bool `xml:"supported,attr"`
		} `xml:"compression"`
		Heartbleed []struct {
			Vulnerable bool `xml:"vulnerable,attr"`
		} `xml:"heartbleed"`
		Ciphers []struct {
			Version string `xml:"sslversion,attr"`
			Name    string `xml:"cipher,attr"`
			ID      string `xml:"id,attr"`
		} `xml:"cipher"`
		Groups []struct {
			Name string `xml:"name,attr"`
		} `xml:"group"`
		Certificate struct {
			Signature string `xml:"signature-algorithm"`
			Names     string `xml:"altnames"`
			Subject   string `xml:"subject"`
		} `xml:"certificates>certificate"`
	} `xml:"ssltest"`
}

// TestScan lets sslscan look for what testssl looks for on the guest's leg: SSL 2
// to TLS 1.1, the cipher suites and groups of each version, renegotiation,
// compression, Heartbleed, the certificate. TestDowngrade adds what it can't ask.
// Neither covers side channels in time (Lucky 13, ROBOT): for those there is crypto/tls.
func TestScan(t *testing.T) {
	t.Parallel()
	w := newProgramWorld(t, http.HandlerFunc(hello))
	out, err := exec.CommandContext(t.Context(), netlab.Tool(t, "sslscan"), "--xml=-", "--sni-name=localhost", "localhost:"+w.port).Output()
	if err != nil {
		t.Fatal(err)
	}
	var found scan
	if err := xml.Unmarshal(out, &found); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	server := &found.Test
	enabled := ""
	for _, p := range server.Protocols {
		if p.Enabled {
			enabled += p.Type + p.Version + " "
		}
	}
	if enabled != "tls1.2 tls1.3 " || len(server.Protocols) != 6 {
		t.Errorf("protocols %sof %v", enabled, server.Protocols)
	}
	good := make(map[string]bool)
	for _, c := range tls.CipherSuites() { // without RC4, 3DES, and what shares a key
		if !strings.HasPrefix(c.Name, "TLS_RSA_") {
			good[strings.ToUpper(cipherID(c.ID))] = true
		}
	}
	for _, c := range server.Ciphers {
		if !good[strings.ToUpper(c.ID)] {
			t.Errorf("%s accepts %s, %s", c.Version, c.Name, c.ID)
		}
	}
	if len(server.Ciphers) < 6 || len(server.Groups) < 4 {
		t.Errorf("%d cipher suites, %d groups: too few to tell", len(server.Ciphers), len(server.Groups))
	}
	for _, g := range server.Groups {
		if !strings.Contains(g.Name, "25519") && !strings.Contains(g.Name, "NIST P-") {
			t.Errorf("group %s", g.Name)
		}
	}
	for _, h := range server.Heartbleed {
		if h.Vulnerable {
			t.Error("Heartbleed")
		}
	}
	if server.Renegotiation.Supported || server.Compression.Supported {
		t.Errorf("renegotiation %t, compression %t", server.Renegotiation.Supported, server.Compression.Supported)
	}
	if c := server.Certificate; c.Signature != "ecdsa-with-SHA256" || c.Names != "DNS:localhost" || strings.Contains(c.Subject, "CN=") {
		t.Errorf("certificate %+v", c)
	}
}

// cipherID is how sslscan writes the number of a cipher suite.
func cipherID(id uint16) string {
	const digits = "0123456789abcdef"
	return "0x" + string([]byte{digits[id>>12], digits[id>>8&15], digits[id>>4&15], digits[id&15]})
}

// TestDowngrade lets openssl try what an old or a meddling client would.
func TestDowngrade(t *testing.T) {
	t.Parallel()
	const weak = "DEFAULT:@SECLEVEL=0"
	const get = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
	for _, row := range []struct {
		name  string
		flags []string
		want  string // in the output
	}{
		{"TLS 1.0", []string{"-tls1", "-cipher", weak}, "alert protocol version"},
		{"TLS 1.1", []string{"-tls1_1", "-cipher", weak}, "alert protocol version"},
		{"fallback to TLS 1.2", []string{"-tls1_2", "-fallback_scsv"}, "alert inappropriate fallback"},
		{"no cipher in common", []string{"-tls1_2", "-cipher", "AES128-SHA256:DHE-RSA-AES128-SHA"}, "alert handshake failure"},
		{"NULL", []string{"-tls1_2", "-cipher", "NULL:@SECLEVEL=0"}, "alert handshake failure"},
		{"RSA key only", []string{"-tls1_2", "-sigalgs", "RSA+SHA256"}, "alert"},
		{"no ALPN in common", []string{"-alpn", "nothing"}, "alert no application protocol"},
		{"early data", []string{"-tls1_3"}, "Max Early Data: 0"},
		{"compression", []string{"-tls1_2", "-comp"}, "Compression: NONE"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newProgramWorld(t, http.HandlerFunc(hello))
			out, _ := w.run(t, get, append([]string{"openssl", "s_client", "-ign_eof", "-servername", "localhost", "-CAfile", "{ca}", "-connect", "127.0.0.1:{port}"}, row.flags...)...)
			if !strings.Contains(out, row.want) {
				t.Errorf("no %q in %s", row.want, out)
			}
		})
	}
}
