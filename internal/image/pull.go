package image

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A Policy says when a registry is asked.
type Policy string

// The policies. The zero value is IfMissing's.
const (
	Always    Policy = "always"     // each time; only what changed is fetched
	IfMissing Policy = "if-missing" // when the cache doesn't have the image
	Never     Policy = "never"      // not at all
)

// PullOptions say how a pull is done. The zero value is useful.
type PullOptions struct {
	Policy Policy // "" is IfMissing
	// Platform is as in Config; "" is the cache's.
	Platform string
	// Username and Password are credentials for the registry, and go to none of
	// its mirrors. Without them those of Config.Keychain are used.
	Username, Password string
	// Insecure takes any certificate from the registry, and plain HTTP.
	Insecure bool
	// CACerts are certificate authorities to trust for registries beside the
	// host's; PEM.
	CACerts []byte
}

// Pull returns the image that ref names, from the cache or through it. ref is a
// name as docker takes it, with a tag or a digest or neither, or the path of an
// OCI layout, an OCI archive or a docker archive: absolute, or with "./" or
// "../" in front. The caller must Close the image.
//
// A name with a digest is never asked for twice, whatever the policy. What a
// path names is read each time.
//
// The error matches ErrNotFound if there is no such image, also under Never;
// ErrPull if it could not be had for any reason; ErrReference; ErrContent if it
// was refused; and the context's error.
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions) (*Image, error) {
	p := newProgress(ref, s.cfg.Progress)
	defer p.close()
	img, err := s.pull(ctx, ref, o, p)
	if err != nil {
		return nil, explainPull(ref, err)
	}
	p.post(Event{Kind: Finished, Digest: img.Digest, Layers: img.layers})
	return img, nil
}

func (s *Store) pull(ctx context.Context, ref string, o PullOptions, p *progress) (*Image, error) {
	platform := s.platform
	if o.Platform != "" {
		var err error
		if platform, err = platformOf(o.Platform); err != nil {
			return nil, err
		}
	}
	r, err := parseReference(ref)
	if err != nil {
		return nil, err
	}
	switch o.Policy {
	case "", Always, IfMissing, Never:
	default:
		return nil, fmt.Errorf("policy %q is none of %q, %q and %q", o.Policy, Always, IfMissing, Never)
	}
	if r.path != "" {
		return s.pullFile(ctx, r.path, platform, p)
	}
	if o.Policy != Always || r.pinned != (v1.Hash{}) {
		// What is damaged here is fetched anew, as if it weren't.
		img, err := s.cached(ctx, r, platform, p)
		if err == nil || !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrContent) {
			return img, err
		}
	}
	if s.cfg.Offline || o.Policy == Never {
		return nil, &notCached{offline: s.cfg.Offline, policy: o.Policy}
	}
	return s.pullRemote(ctx, r, platform, o, p)
}

// cached returns the image if the cache has it. The error matches ErrNotFound if
// it doesn't.
func (s *Store) cached(ctx context.Context, r reference, platform v1.Platform, p *progress) (*Image, error) {
	rec, err := s.lookUp(r.name, platform)
	if err != nil {
		return nil, err
	}
	if rec != nil {
		return s.acquire(ctx, rec.Digest, familiar(r.name), nil, p)
	}
	if r.pinned == (v1.Hash{}) {
		return nil, ErrNotFound
	}
	// It may have come under another name: a digest means the same anywhere.
	m, err := s.resolve(ctx, nil, v1.Descriptor{Digest: r.pinned}, platform, nil)
	if err != nil {
		return nil, err
	}
	return s.acquire(ctx, m.digest, familiar(r.name), nil, p)
}

// pullRemote fetches what the registry has and the cache lacks.
func (s *Store) pullRemote(ctx context.Context, r reference, platform v1.Platform, o PullOptions, p *progress) (*Image, error) {
	src, err := s.newRegistry(r.ref, o)
	if err != nil {
		return nil, err
	}
	defer src.close()
	p.post(Event{Kind: Resolving})
	if rec, err := s.lookUp(r.name, platform); err != nil {
		return nil, err
	} else if rec != nil && s.current(ctx, src) == rec.Resolved {
		if img, err := s.acquire(ctx, rec.Digest, familiar(r.name), nil, p); err == nil {
			return img, nil
		}
	}
	document, err := s.manifestOf(ctx, src)
	if err != nil {
		return nil, err
	}
	if got := hashBytes(document); r.pinned != (v1.Hash{}) && got != r.pinned {
		return nil, refused("what came for %v has the digest %v", r.pinned, got)
	}
	return s.bring(ctx, incoming{src: src, document: document, names: []string{r.name}, platform: platform}, p)
}

// current is registry.current within the time that a document has.
func (s *Store) current(ctx context.Context, src *registry) v1.Hash {
	ctx, cancel := s.forDocument(ctx)
	defer cancel()
	return src.current(ctx)
}

// manifestOf is registry.manifest within the time that a document has.
func (s *Store) manifestOf(ctx context.Context, src *registry) ([]byte, error) {
	ctx, cancel := s.forDocument(ctx)
	defer cancel()
	document, err := src.manifest(ctx)
	if err != nil {
		return nil, causeOf(ctx, err)
	}
	return document, nil
}

// An incoming is an image on its way into the cache.
type incoming struct {
	src source
	// document is its manifest or index; nil if src has that too.
	document []byte
	top      v1.Descriptor // of the document, unless that is given
	names    []string      // canonical; may be empty
	platform v1.Platform
}

// bring makes the cache have an image, under its names, and acquires it.
func (s *Store) bring(ctx context.Context, in incoming, p *progress) (*Image, error) {
	// Until the image has a root or a name, nothing says that its blobs are needed:
	// the lock keeps them.
	l, err := lockAt(ctx, s.path(blobsLock), shared, nil)
	if err != nil {
		return nil, err
	}
	defer l.release()
	t, err := s.newScratch()
	if err != nil {
		return nil, err
	}
	defer t.remove()
	if in.document != nil {
		if in.top, err = s.keepDocument(in.document, t); err != nil {
			return nil, err
		}
	}
	m, err := s.resolve(ctx, in.src, in.top, in.platform, t)
	if err != nil {
		return nil, err
	}
	name := ""
	if len(in.names) > 0 {
		name = familiar(in.names[0])
	}
	img, err := s.acquire(ctx, m.digest, name, in.src, p)
	if err != nil {
		return nil, err
	}
	for _, name := range in.names { // last, when all of the image is on the disk
		if err := s.setName(t, name, in.platform, m.digest, in.top.Digest); err != nil {
			return nil, errors.Join(err, img.Close())
		}
	}
	return img, nil
}

// maxIndexes bounds how many indexes lead to a manifest. One does in practice.
const maxIndexes = 4

// resolve returns the manifest for a platform that a descriptor leads to, with
// its configuration. Without src and t all must be in the cache.
func (s *Store) resolve(ctx context.Context, src source, d v1.Descriptor, platform v1.Platform, t *scratch) (*manifest, error) {
	for range maxIndexes {
		document, err := s.document(ctx, src, d, t)
		if err != nil {
			return nil, err
		}
		index, err := isIndex(document)
		if err != nil {
			return nil, err
		}
		if !index {
			return s.configured(ctx, src, document, platform, t)
		}
		if d, err = chooseFrom(document, platform); err != nil {
			return nil, err
		}
	}
	return nil, refused("more than %d indexes, one in the other", maxIndexes-1)
}

// configured returns a manifest with its configuration.
func (s *Store) configured(ctx context.Context, src source, document []byte, platform v1.Platform, t *scratch) (*manifest, error) {
	m, err := parseManifest(document, s.limits)
	if err != nil {
		return nil, err
	}
	config, err := s.document(ctx, src, m.Config, t)
	if err != nil {
		return nil, err
	}
	if err := m.configure(config); err != nil {
		return nil, err
	}
	return m, m.checkPlatform(platform)
}

// A notCached says that an image is missing which nobody may be asked for. It
// matches ErrNotFound.
type notCached struct {
	offline bool
	policy  Policy
}

func (e *notCached) Error() string {
	switch {
	case e.offline && e.policy == Always:
		return `the policy "always" needs the registry, and the cache is offline`
	case e.offline:
		return "it is not in the cache, and the cache is offline"
	}
	return `it is not in the cache, and the policy is "never"`
}

func (e *notCached) Is(target error) bool { return target == ErrNotFound }

// explainPull returns the error of a pull, with what to do about it.
func explainPull(ref string, err error) error {
	e := &Error{Op: "pull image", Ref: ref, Kind: ErrPull, Err: err}
	var absent *notCached
	var platform *noPlatform
	var authority x509.UnknownAuthorityError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
	case errors.Is(err, ErrReference):
		e.Hint = `write a name like "alpine:3.22", or a path that begins with / or ./`
	case errors.As(err, &absent):
		e.Hint = fmt.Sprintf("sluice images import %s FILE brings it in from an archive", ref)
	case errors.As(err, &platform):
		e.Hint = "ask for a platform that it has"
	case errors.Is(err, errPlainHTTP), errors.As(err, &authority):
		e.Hint = "give the registry's CA certificate, or allow it to be insecure"
	case isUnauthorized(err):
		e.Hint = "it doesn't exist, or needs credentials: give them, or docker login"
	case errors.Is(err, fs.ErrNotExist):
		e.Hint = "give the path of an OCI layout, or of an OCI or docker archive"
	case errors.Is(err, ErrNotFound):
		e.Hint = "check the name and the tag"
	case errors.Is(err, errHost), errors.Is(err, ErrContent):
	default:
		e.Hint = fmt.Sprintf("without the registry, sluice images import %s FILE brings it in from an archive", ref)
	}
	return e
}
