package mitm

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
)

// A trust says how upstreams' certificates are checked. It is immutable but for
// the union of pools, which it keeps.
type trust struct {
	skip   bool
	verify []ScopedVerify
	roots  *x509.CertPool
	scoped []scopedPool
	// sessions resumes TLS with servers seen before. What is resumed was verified
	// when it began, by the same rules.
	sessions tls.ClientSessionCache
}

type scopedPool struct {
	pattern Pattern
	pem     []byte
}

// sessionsKept bounds the upstream sessions that can be resumed; each is about as
// large as the server's chain.
const sessionsKept = 256

// newTrust reads a configuration's roots.
func newTrust(cfg *Config) (*trust, error) {
	t := &trust{skip: cfg.SkipVerify, verify: cfg.ScopedVerify, roots: cfg.Roots, sessions: tls.NewLRUClientSessionCache(sessionsKept)}
	if t.roots == nil {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("read the host's certificates: %w", err)
		}
		t.roots = pool
	}
	if len(cfg.ExtraRoots) > 0 {
		t.roots = t.roots.Clone()
		if !t.roots.AppendCertsFromPEM(cfg.ExtraRoots) {
			return nil, errors.New("read UpstreamCACerts: no certificate in PEM")
		}
	}
	for _, s := range cfg.ScopedRoots {
		if !x509.NewCertPool().AppendCertsFromPEM(s.PEM) {
			return nil, fmt.Errorf("read ScopedUpstreamCACerts for %s: no certificate in PEM", s.Pattern)
		}
		t.scoped = append(t.scoped, scopedPool{s.Pattern, s.PEM})
	}
	return t, nil
}

// verifies reports whether the certificate for a name is checked.
func (t *trust) verifies(name string) bool {
	for _, s := range t.verify {
		if s.Pattern.Match(name) {
			return s.Verify
		}
	}
	return !t.skip
}

// rootsFor returns the issuers that a name may have.
func (t *trust) rootsFor(name string) *x509.CertPool {
	pool := t.roots
	for _, s := range t.scoped {
		if s.pattern.Match(name) {
			if pool == t.roots {
				pool = pool.Clone()
			}
			pool.AppendCertsFromPEM(s.pem)
		}
	}
	return pool
}

// An upstream is the far leg of an intercepted flow: how to reach the server of
// one name over TLS. Its methods may be called concurrently.
type upstream struct {
	p     *Proxy
	flow  Flow
	name  string
	alpn  []string // the guest's offer, or what was chosen of it
	conns *conns   // what is open, to be closed with the flow

	mu    sync.Mutex
	asked bool      // the server wanted a client certificate
	spare *tls.Conn // connected before there was a request; nil once it is used
}

// A handshakeError is a failure of TLS with the upstream, where the connection
// itself succeeded.
type handshakeError struct {
	complaint complaint
	err       error
}

func (e *handshakeError) Error() string { return "upstream handshake: " + e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

// A dialError is a failure to connect.
type dialError struct{ err error }

func (e *dialError) Error() string { return "dial upstream: " + e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// dial connects to the server and verifies it. The error is a dialError or a
// handshakeError.
func (u *upstream) dial(ctx context.Context) (*tls.Conn, error) {
	raw, err := u.conns.dial(ctx, u.flow)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, u.p.limits.Handshake)
	defer cancel()
	c := tls.Client(raw, u.config())
	if err := c.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, &handshakeError{upstreamComplaint(u.name, u.wantsCertificate(), err), err}
	}
	return c, nil
}

// config returns what we show the server: of the guest's hello the name and the
// protocols; versions, cipher suites and curves are our own.
func (u *upstream) config() *tls.Config {
	return &tls.Config{
		ServerName:         u.name,
		NextProtos:         u.alpn,
		RootCAs:            u.p.trust.rootsFor(u.name),
		InsecureSkipVerify: !u.p.trust.verifies(u.name),
		MinVersion:         tls.VersionTLS12,
		Renegotiation:      tls.RenegotiateNever,
		ClientSessionCache: u.p.trust.sessions,
		Time:               u.p.now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.asked = true
			return new(tls.Certificate), nil // none: the server says whether it insists
		},
	}
}

// wantsCertificate reports whether the server asked for a client certificate.
func (u *upstream) wantsCertificate() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked
}

// take returns the connection that was made in advance, once, and then new ones.
// What a server chose first it has to choose again.
func (u *upstream) take(ctx context.Context) (net.Conn, error) {
	u.mu.Lock()
	c := u.spare
	u.spare = nil
	u.mu.Unlock()
	if c != nil {
		return c, nil
	}
	c, err := u.dial(ctx)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// conns are the connections to the upstream that a flow has open. The zero value
// is ready. Its methods may be called concurrently.
type conns struct {
	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
}

// dial connects by f. The connection is closed with the others, if not before.
func (s *conns) dial(ctx context.Context, f Flow) (net.Conn, error) {
	c, err := f.Dial(ctx)
	if err != nil {
		return nil, &dialError{err}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close()
		return nil, &dialError{net.ErrClosed}
	}
	if s.open == nil {
		s.open = make(map[net.Conn]struct{})
	}
	s.open[c] = struct{}{}
	return &member{Conn: c, of: s}, nil
}

// close closes all of them, and those to come.
func (s *conns) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.open {
		_ = c.Close()
	}
	s.open = nil
}

// A member is one of conns.
type member struct {
	net.Conn
	of *conns
}

// Close closes the connection and forgets it.
func (m *member) Close() error {
	m.of.mu.Lock()
	delete(m.of.open, m.Conn)
	m.of.mu.Unlock()
	return m.Conn.Close()
}

// CloseWrite closes the outward half.
func (m *member) CloseWrite() error { return closeWrite(m.Conn) }

// SetLinger is that of a TCP connection.
func (m *member) SetLinger(sec int) error {
	if l, ok := m.Conn.(interface{ SetLinger(int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}
