package sdk

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/sluicenet/sluice/policy"
)

// intercepts reports whether t switches interception on: it is set, and not for
// BlockQUIC's sake alone.
func (t *TLSConfig) intercepts() bool {
	return t != nil && (t.BlockQUIC == nil || len(t.Bypass) > 0 || t.VerifyUpstream != nil || len(t.ScopedVerifyUpstream) > 0 ||
		t.InterceptedPorts != nil || t.CACert != "" || t.CAKey != "" || len(t.UpstreamCACerts) > 0 ||
		len(t.ScopedUpstreamCACerts) > 0 || t.AllowNonTLS)
}

// interceptedPorts returns the ports with the default filled in.
func (t *TLSConfig) interceptedPorts() []uint16 {
	if t == nil || len(t.InterceptedPorts) == 0 {
		return []uint16{443}
	}
	return slices.Clone(t.InterceptedPorts)
}

// quic returns what BlockQUIC says.
func (t *TLSConfig) quic() policy.QUICMode {
	switch {
	case t == nil || t.BlockQUIC == nil:
		return policy.QUICByRule
	case *t.BlockQUIC:
		return policy.QUICRefuse
	}
	return policy.QUICPass
}

// checkTLS reports what is wrong with t by itself, files included.
func (c *checker) checkTLS(t *TLSConfig) {
	if t == nil {
		return
	}
	for i, p := range t.Bypass {
		c.checkHostPattern(ErrInvalidArgument, index("TLS.Bypass", i), p)
	}
	for i, s := range t.ScopedVerifyUpstream {
		c.checkHostPattern(ErrInvalidArgument, index("TLS.ScopedVerifyUpstream", i)+".Pattern", s.Pattern)
	}
	for i, port := range t.InterceptedPorts {
		switch port {
		case 0:
			c.fail(ErrInvalidArgument, index("TLS.InterceptedPorts", i), "0", "no port", "write 1 to 65535")
		case 53, 853:
			c.fail(ErrInvalidArgument, index("TLS.InterceptedPorts", i), decimal(port), "the resolver answers there", "drop it")
		}
	}
	switch {
	case (t.CACert == "") != (t.CAKey == ""):
		missing, other := "TLS.CAKey", "TLS.CACert"
		if t.CACert == "" {
			missing, other = other, missing
		}
		c.fail(ErrTLS, missing, "", "is needed beside "+other, "give both, or neither")
	case t.CACert != "":
		c.checkCA(t.CACert, t.CAKey)
	}
	for i, path := range t.UpstreamCACerts {
		c.checkBundle(index("TLS.UpstreamCACerts", i), path)
	}
	for i, s := range t.ScopedUpstreamCACerts {
		path := index("TLS.ScopedUpstreamCACerts", i)
		c.checkHostPattern(ErrInvalidArgument, path+".Pattern", s.Pattern)
		c.checkBundle(path+".Path", s.Path)
	}
}

// checkHostPattern reports a pattern that is neither host nor *.suffix.
func (c *checker) checkHostPattern(kind ErrorKind, path, pattern string) {
	name, _ := strings.CutPrefix(pattern, "*.")
	if _, err := policy.ParseName(name); err != nil {
		c.fail(kind, path, pattern, "no host name", "write example.com, or *.example.com for its subdomains")
	}
}

// checkCA reports why two files are no certificate authority.
func (c *checker) checkCA(certPath, keyPath string) {
	pair, err := tls.LoadX509KeyPair(certPath, keyPath)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission):
		c.fail(ErrTLS, "TLS.CACert", "", err.Error(), "give paths of readable PEM files")
	case err != nil:
		c.fail(ErrTLS, "TLS.CACert", certPath, err.Error(), "give a certificate and its own key, both PEM")
	case !pair.Leaf.BasicConstraintsValid || !pair.Leaf.IsCA:
		c.fail(ErrTLS, "TLS.CACert", certPath, "is not a certificate authority", "give one with CA:TRUE")
	}
}

// checkBundle reports a file that holds no certificate.
func (c *checker) checkBundle(path, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		c.fail(ErrTLS, path, "", err.Error(), "give the path of a PEM bundle")
		return
	}
	c.checkPEM(path, file, text)
}

// checkPEM reports a text, of a file or "", that holds no certificate.
func (c *checker) checkPEM(path, file string, text []byte) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if _, err := x509.ParseCertificate(block.Bytes); block.Type == "CERTIFICATE" && err == nil {
			return
		}
	}
	c.fail(ErrTLS, path, file, "holds no certificate", "give the path of a PEM bundle")
}
