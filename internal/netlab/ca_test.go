package netlab

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestLeaf(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ca, err := NewCA(now)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := NewCA(now)
	if err != nil {
		t.Fatal(err)
	}
	expired := func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }
	for _, row := range []struct {
		name   string
		ca     *CA
		change func(*x509.Certificate)
		asked  string
		want   string // in the error; "" is none
	}{
		{"name", ca, nil, "web.example", ""},
		{"IPv4", ca, nil, "93.184.216.34", ""},
		{"IPv6", ca, nil, "2606:2800:220::34", ""},
		{"another name", ca, nil, "evil.example", "not evil.example"},
		{"expired", ca, expired, "web.example", "expired"},
		{"another CA", foreign, nil, "web.example", "unknown authority"},
	} {
		cert, err := row.ca.Leaf(now, row.change, "web.example", "93.184.216.34", "2606:2800:220::34")
		if err != nil {
			t.Fatal(err)
		}
		_, err = cert.Leaf.Verify(x509.VerifyOptions{DNSName: row.asked, Roots: ca.Pool(), CurrentTime: now})
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
	}
}

// TestSpoiltCertificate shows that a client refuses what HTTPSWith spoilt, and
// that Go's own pool of the machine's roots holds the lab's CA.
func TestSpoiltCertificate(t *testing.T) {
	t.Parallel()
	lab := New(t)
	good, bad := lab.Host(t, "good.example"), lab.Host(t, "bad.example")
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	good.HTTPS(443, hello)
	bad.HTTPSWith(443, func(c *x509.Certificate) { c.DNSNames = []string{"other.example"} }, hello)
	for _, row := range []struct {
		host *Host
		ok   bool
	}{{good, true}, {bad, false}} {
		c, err := tls.Dial("tcp", row.host.Endpoint(4, 443), &tls.Config{ServerName: row.host.Name})
		if (err == nil) != row.ok {
			t.Errorf("handshake with %s: %v, want success %t", row.host.Name, err, row.ok)
		}
		if c != nil {
			c.Close()
		}
	}
}
