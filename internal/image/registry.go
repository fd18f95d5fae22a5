package image

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// A registry is a repository as a source: of the mirrors and the registry itself
// the first that answers. It must be closed.
type registry struct {
	ref       name.Reference
	endpoints []endpoint
	transport []*http.Transport // of the endpoints
}

var _ source = (*registry)(nil)

// An endpoint is one place where the repository is.
type endpoint struct {
	repo   name.Repository
	puller *remote.Puller
}

// newRegistry returns the source for a reference that is a name. It asks nobody.
func (s *Store) newRegistry(ref name.Reference, o PullOptions) (*registry, error) {
	roots, err := certPool(o.CACerts)
	if err != nil {
		return nil, err
	}
	r := &registry{ref: ref}
	for _, m := range s.mirrorsOf(ref.Context()) {
		repo, err := mirrored(ref.Context(), m)
		if err != nil {
			return nil, err
		}
		// A user's credentials are for the registry that the user named.
		if err := r.add(repo, roots, false, remote.WithAuthFromKeychain(s.cfg.keychain())); err != nil {
			return nil, err
		}
	}
	// The registry itself comes last: see first.
	origin, auth := ref.Context(), remote.WithAuthFromKeychain(s.cfg.keychain())
	if o.Insecure {
		if origin, err = name.NewRepository(origin.Name(), name.Insecure); err != nil {
			return nil, refused("%v", err)
		}
	}
	if o.Username != "" || o.Password != "" {
		auth = remote.WithAuth(&authn.Basic{Username: o.Username, Password: o.Password})
	}
	return r, r.add(origin, roots, o.Insecure, auth)
}

// certPool returns the certificate authorities for registries: the host's, and
// those in pem.
func certPool(pem []byte) (*x509.CertPool, error) {
	if len(pem) == 0 {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in the registry's CA certificates: they must be PEM")
	}
	return pool, nil
}

// mirrorsOf returns the mirrors of a repository's registry.
func (s *Store) mirrorsOf(repo name.Repository) []string {
	for key, mirrors := range s.cfg.Mirrors {
		if reg, err := name.NewRegistry(key); err == nil && key != "" && reg.Name() == repo.RegistryStr() {
			return mirrors
		}
	}
	return s.cfg.Mirrors["*"]
}

// mirrored returns where a mirror, "host[:port][/path]", has a repository.
func mirrored(repo name.Repository, mirror string) (name.Repository, error) {
	host, prefix, _ := strings.Cut(strings.TrimSuffix(mirror, "/"), "/")
	r, err := name.NewRepository(host + "/" + path.Join(prefix, repo.RepositoryStr()))
	if err == nil && r.RegistryStr() != host {
		err = errors.New("it must begin with a host that has a dot or a port")
	}
	if err != nil {
		return name.Repository{}, fmt.Errorf("mirror %q: %w", mirror, err)
	}
	return r, nil
}

// add adds an endpoint.
func (r *registry) add(repo name.Repository, roots *x509.CertPool, insecure bool, auth remote.Option) error {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		MaxIdleConnsPerHost:   downloads,
		ForceAttemptHTTP2:     true,
		TLSClientConfig:       &tls.Config{RootCAs: roots, InsecureSkipVerify: insecure, MinVersion: tls.VersionTLS12},
	}
	r.transport = append(r.transport, t)
	host, _, err := net.SplitHostPort(repo.RegistryStr())
	if err != nil {
		host = repo.RegistryStr() // without a port
	}
	only := &onlyTLS{next: t, insecure: insecure, local: isLoopback(host)}
	puller, err := remote.NewPuller(auth, remote.WithTransport(only), remote.WithUserAgent("sluice"))
	if err != nil {
		return err
	}
	r.endpoints = append(r.endpoints, endpoint{repo, puller})
	return nil
}

// close lets idle connections go.
func (r *registry) close() {
	for _, t := range r.transport {
		t.CloseIdleConnections()
	}
}

// An onlyTLS refuses requests in plain HTTP, but to a registry on this host. The
// library would fall back to it for private addresses, and follow a redirect: a
// registry elsewhere could make us ask what listens here.
type onlyTLS struct {
	next     http.RoundTripper
	insecure bool
	local    bool // the registry is on this host
}

func (t *onlyTLS) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !t.insecure && !(t.local && isLoopback(r.URL.Hostname())) {
		return nil, fmt.Errorf("%w: %s", errPlainHTTP, r.URL.Host)
	}
	return t.next.RoundTrip(r)
}

var errPlainHTTP = errors.New("plain HTTP is refused")

// isLoopback reports whether a host is this one.
func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// current returns the digest that the reference has now, without what counts
// against a registry's limit of pulls. The result is zero if the registry doesn't
// say.
func (r *registry) current(ctx context.Context) v1.Hash {
	for _, e := range r.endpoints {
		// A HEAD costs nothing of a limit on pulls. That it failed is no error:
		// the GET that follows will say why.
		if d, err := e.puller.Head(ctx, e.rename(r.ref)); err == nil {
			return d.Digest
		}
	}
	return v1.Hash{}
}

// manifest returns the manifest, or index, that the reference means.
func (r *registry) manifest(ctx context.Context) ([]byte, error) {
	return first(r.endpoints, func(e endpoint) ([]byte, error) {
		d, err := e.puller.Get(ctx, e.rename(r.ref))
		if err != nil {
			return nil, err
		}
		return d.Manifest, nil
	})
}

// open returns a manifest or a blob.
func (r *registry) open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	return first(r.endpoints, func(e endpoint) (io.ReadCloser, error) {
		ref := e.repo.Digest(d.Digest.String())
		if d.MediaType.IsIndex() || d.MediaType.IsImage() {
			got, err := e.puller.Get(ctx, ref)
			if err != nil {
				return nil, err
			}
			return io.NopCloser(bytes.NewReader(got.Manifest)), nil
		}
		// Asked for by its digest alone: the addresses that a manifest may give
		// for foreign layers are not followed.
		layer, err := e.puller.Layer(ctx, ref)
		if err != nil {
			return nil, err
		}
		return layer.Compressed()
	})
}

// first returns what the first endpoint gives that gives something, or all
// errors. What the registry itself says of absence counts; a mirror need not
// have everything.
func first[T any](endpoints []endpoint, get func(endpoint) (T, error)) (T, error) {
	var zero T
	var mirrors error
	for _, e := range endpoints[:len(endpoints)-1] {
		v, err := get(e)
		if err == nil {
			return v, nil
		}
		mirrors = fmt.Errorf("mirror %s: %w", e.repo.RegistryStr(), err)
	}
	v, err := get(endpoints[len(endpoints)-1])
	switch {
	case err == nil:
		return v, nil
	case isAbsent(err):
		err = fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if mirrors != nil {
		err = fmt.Errorf("%w (%w)", err, mirrors)
	}
	return zero, err
}

// rename returns the endpoint's name for a reference.
func (e endpoint) rename(ref name.Reference) name.Reference {
	if _, ok := ref.(name.Digest); ok {
		return e.repo.Digest(ref.Identifier())
	}
	return e.repo.Tag(ref.Identifier())
}

// isAbsent reports whether a registry said that it doesn't have something.
func isAbsent(err error) bool {
	var e *transport.Error
	return errors.As(err, &e) && e.StatusCode == http.StatusNotFound
}

// isUnauthorized reports whether a registry wants other credentials. Some say
// so of what they don't have.
func isUnauthorized(err error) bool {
	var e *transport.Error
	return errors.As(err, &e) && (e.StatusCode == http.StatusUnauthorized || e.StatusCode == http.StatusForbidden)
}
