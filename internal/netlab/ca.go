package netlab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"time"
)

// caBundle is where the machine keeps the certificates that it trusts. Here it
// holds the lab's CA only.
const caBundle = "/etc/ssl/certs/ca-certificates.crt"

// caLife is how long the lab's certificates live: longer than any test.
const caLife = 7 * 24 * time.Hour

// A CA issues the certificates of a lab's hosts. Its methods may be called
// concurrently.
type CA struct {
	// Certificate is the CA's own, self-signed.
	Certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewCA returns a CA that was made at now.
func NewCA(now time.Time) (*CA, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "netlab test CA"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	cert, key, err := issue(template, nil, now)
	if err != nil {
		return nil, fmt.Errorf("make a CA: %w", err)
	}
	return &CA{Certificate: cert, key: key}, nil
}

// PEM returns the CA's certificate.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate.Raw})
}

// Pool returns a pool that holds the CA only.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.Certificate)
	return pool
}

// Leaf returns a server's certificate for names, some of which may be addresses.
// change, which may be nil, spoils the template before it is signed: an expired
// certificate is one line in a test.
func (ca *CA) Leaf(now time.Time, change func(*x509.Certificate), names ...string) (tls.Certificate, error) {
	template := &x509.Certificate{
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if addr, err := netip.ParseAddr(name); err == nil {
			template.IPAddresses = append(template.IPAddresses, addr.AsSlice())
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	template.NotBefore, template.NotAfter = now.Add(-time.Hour), now.Add(caLife)
	if change != nil {
		change(template)
	}
	cert, key, err := issue(template, ca, now)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("issue a certificate for %q: %w", names, err)
	}
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}

// issue signs a template by ca; nil is self-signed.
func issue(template *x509.Certificate, ca *CA, now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = now.Add(-time.Hour), now.Add(caLife)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return nil, nil, err
	}
	parent, signer := template, key
	if ca != nil {
		parent, signer = ca.Certificate, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}
