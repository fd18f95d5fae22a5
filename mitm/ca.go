package mitm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// caLife is how long a CA of our own is valid: longer than any sandbox lives. Its
// key dies with the sandbox anyway.
const caLife = 10 * 365 * 24 * time.Hour

// clockSkew is how far a guest's clock may be off either way: certificates begin
// as long before they are made, and leaves end as long after.
const clockSkew = 24 * time.Hour

// An authority signs leaves. It is immutable. Its name isn't constrained: which
// names a guest may reach is the policy's to say, and changes while it runs.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	// chain is what a server sends behind a leaf: the CA's certificate if it isn't
	// a root, so that a guest that trusts its issuer finds the way.
	chain [][]byte
}

// newAuthority makes a CA.
func newAuthority(now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make CA key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// The serial tells the CAs of sandboxes apart, for those that look for an
		// issuer by its name.
		Subject:               pkix.Name{Organization: []string{"sluice"}, CommonName: "sluice sandbox " + hex.EncodeToString(serial.Bytes()[:4])},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(caLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make CA certificate: %w", err)
	}
	return &authority{cert: cert, key: key}, nil
}

// loadAuthority reads a CA's certificate and key in PEM.
func loadAuthority(certPEM, keyPEM []byte, now time.Time) (*authority, error) {
	if len(certPEM) == 0 || len(keyPEM) == 0 {
		return nil, errors.New("read CA: certificate and key are needed together")
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM) // checks that they match
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	cert := pair.Leaf
	key, ok := pair.PrivateKey.(crypto.Signer)
	switch {
	case !ok:
		return nil, errors.New("read CA: the key can't sign")
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return nil, errors.New("read CA: the certificate isn't that of a CA")
	case cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, errors.New("read CA: the certificate's key usage doesn't include signing certificates")
	case now.Before(cert.NotBefore), now.After(cert.NotAfter):
		return nil, fmt.Errorf("read CA: the certificate is valid from %s to %s only", cert.NotBefore.Format(time.DateOnly), cert.NotAfter.Format(time.DateOnly))
	}
	a := &authority{cert: cert, key: key}
	if !bytes.Equal(cert.RawIssuer, cert.RawSubject) {
		a.chain = pair.Certificate
	}
	return a, nil
}

// pem returns the certificate that guests have to trust.
func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// newSerial returns a random serial number of 127 bits, never 0 (RFC 5280,
// section 4.1.2.2).
func newSerial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b), nil
}
