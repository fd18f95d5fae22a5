package mitm

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluicenet/sluice/internal/lru"
)

// leafRemake is how much of a leaf's life is left when it is made again: a
// connection that has just begun keeps a certificate that stays valid.
const leafRemake = time.Hour

// A leaf is what the guest's leg shows for one name.
type leaf struct {
	cert tls.Certificate
	// ticketKey encrypts session tickets. It is the name's own, so that a ticket of
	// one name is worth nothing for another.
	ticketKey [32]byte
	made      time.Time
}

// fresh reports whether the leaf need not be made again. A clock that was set back
// counts as much as one that went on.
func (l *leaf) fresh(now time.Time) bool {
	return !now.Before(l.made.Add(-clockSkew/2)) && now.Before(l.cert.Leaf.NotAfter.Add(-leafRemake))
}

// A mint makes leaves and keeps the latest used. Its methods may be called
// concurrently.
type mint struct {
	ca      *authority
	key     *ecdsa.PrivateKey // of all leaves: they are one server's, ours
	keep    int
	limiter *rate.Limiter

	mu   sync.Mutex
	kept lru.Table[string, *entry] // by name
}

// An entry is a leaf that is kept, or being made.
type entry struct {
	leaf *leaf // nil until it was made for the first time; guarded by making
	// making holds a token while nobody makes the leaf: guests open several
	// connections at once, and one signature is enough.
	making chan struct{}
}

func newMint(ca *authority, l Limits) (*mint, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make leaf key: %w", err)
	}
	return &mint{
		ca:      ca,
		key:     key,
		keep:    l.Leaves,
		limiter: rate.NewLimiter(rate.Limit(l.LeavesPerSecond), l.Leaves),
	}, nil
}

// leaf returns the leaf of a canonical name or an IP address, made at now if there
// is none. It waits for its turn until ctx is done.
func (m *mint) leaf(ctx context.Context, name string, now time.Time) (*leaf, error) {
	e := m.entry(name)
	select {
	case <-e.making:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for certificate: %w", ctx.Err())
	}
	defer func() { e.making <- struct{}{} }()
	if e.leaf != nil && e.leaf.fresh(now) {
		return e.leaf, nil
	}
	if err := m.limiter.Wait(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", errTooManyLeaves, err)
	}
	l, err := m.make(name, now)
	if err != nil {
		return nil, err
	}
	e.leaf = l
	return l, nil
}

// entry returns the entry of a name, which becomes the latest used.
func (m *mint) entry(name string) *entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at := m.kept.Find(name); at != nil {
		m.kept.Touch(at)
		return at.Value
	}
	e := &entry{making: make(chan struct{}, 1)}
	e.making <- struct{}{}
	m.kept.Put(name, e)
	for m.kept.Len() > m.keep {
		m.kept.Remove(m.kept.Oldest())
	}
	return e
}

// make signs a certificate for exactly one name. It has no common name: that is
// limited to 64 bytes, and nobody has looked at it for years.
func (m *mint) make(name string, now time.Time) (*leaf, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"sluice"}},
		NotBefore:    later(now.Add(-clockSkew), m.ca.cert.NotBefore),
		NotAfter:     earlier(now.Add(clockSkew), m.ca.cert.NotAfter),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		template.IPAddresses = []net.IP{addr.AsSlice()}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, m.ca.cert, m.key.Public(), m.ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	l := &leaf{made: now}
	l.cert = tls.Certificate{Certificate: append([][]byte{der}, m.ca.chain...), PrivateKey: m.key, Leaf: parsed}
	if _, err := rand.Read(l.ticketKey[:]); err != nil {
		return nil, fmt.Errorf("make ticket key: %w", err)
	}
	return l, nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
