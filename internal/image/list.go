package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// An Info is what a list of images says about one.
type Info struct {
	Name     string // as docker shows it; "" if it has none
	Digest   string // of its manifest, "sha256:..."
	Platform string // "linux/amd64"
	// Resolved is the digest that the name had where it was found: an index's,
	// or Digest.
	Resolved string
	Size     int64     // bytes of its layers as they travel
	Created  time.Time // when it was built, as it says itself; zero if it doesn't
	Named    time.Time // when it came into the cache under this name
	// Damaged says that the cache's copy can't be read; to pull it again
	// replaces it.
	Damaged bool
}

// A Details is all that is known about an image.
type Details struct {
	Info
	Names  []string // all of them
	Config RunConfig
	Layers []Layer // bottom first
	// Manifest and RawConfig are the documents as they came.
	Manifest, RawConfig json.RawMessage
}

// A Layer is a layer of an image.
type Layer struct {
	Digest    string // of what travels
	DiffID    string // of what that unpacks to
	MediaType string
	Size      int64 // bytes of what travels
}

// List returns the images in the cache: first those with names, sorted by them,
// then those without.
func (s *Store) List() ([]Info, error) {
	names, err := s.allNames()
	if err != nil {
		return nil, &Error{Op: "list images", Err: err}
	}
	roots, err := s.unpacked()
	if err != nil {
		return nil, &Error{Op: "list images", Err: err}
	}
	var list []Info
	for _, rec := range names {
		list = append(list, s.infoOf(rec))
	}
	for _, digest := range nameless(roots, names) {
		list = append(list, s.infoOf(&nameRecord{Digest: digest, Resolved: digest}))
	}
	return list, nil
}

// nameless returns those of digests that no record means, sorted.
func nameless(digests map[v1.Hash]bool, names []*nameRecord) []v1.Hash {
	var out []v1.Hash
	for d := range digests {
		if !slices.ContainsFunc(names, func(r *nameRecord) bool { return r.Digest == d }) {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b v1.Hash) int { return strings.Compare(a.Hex, b.Hex) })
	return out
}

// unpacked returns the manifests of which there are roots, whoever owns their
// files.
func (s *Store) unpacked() (map[v1.Hash]bool, error) {
	entries, err := os.ReadDir(s.path(rootsDir))
	if err != nil {
		return nil, err
	}
	found := make(map[v1.Hash]bool)
	for _, e := range entries {
		hex, _, _ := strings.Cut(e.Name(), "-") // see rootPath; locks are files
		if h, err := parseHash("sha256:" + hex); err == nil && e.IsDir() {
			found[h] = true
		}
	}
	return found, nil
}

// infoOf returns what a list says about a record.
func (s *Store) infoOf(rec *nameRecord) Info {
	i := Info{Name: familiar(rec.Name), Digest: rec.Digest.String(), Platform: rec.Platform, Resolved: rec.Resolved.String(), Named: rec.Time}
	m, err := s.known(rec.Digest)
	if err != nil {
		// One bad image must not hide the others.
		i.Damaged = true
		return i
	}
	for _, l := range m.Layers {
		i.Size += l.Size
	}
	i.Created = m.config.Created.Time
	if i.Platform == "" && m.config.OS != "" {
		i.Platform = m.config.Platform().String()
	}
	return i
}

// find returns the records that ref means in the cache: of a name, on every
// platform; of a digest, or of its first 12 digits or more, every name of it, or
// a record without a name.
func (s *Store) find(ref string) ([]*nameRecord, error) {
	names, err := s.allNames()
	if err != nil {
		return nil, err
	}
	// A name comes first: "deadbeef1234" may be one.
	var found []*nameRecord
	if r, err := parseReference(ref); err == nil && r.path == "" {
		for _, rec := range names {
			if rec.Name == r.name {
				found = append(found, rec)
			}
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	// Twelve digits, as docker shows them: fewer could soon mean several.
	prefix := strings.TrimPrefix(ref, "sha256:")
	if len(prefix) < 12 || strings.Trim(prefix, "0123456789abcdef") != "" {
		return nil, fmt.Errorf("%w: the cache has no such name", ErrNotFound)
	}
	roots, err := s.unpacked()
	if err != nil {
		return nil, err
	}
	digests := make(map[v1.Hash]bool)
	for _, rec := range names {
		if strings.HasPrefix(rec.Digest.Hex, prefix) || strings.HasPrefix(rec.Resolved.Hex, prefix) {
			found = append(found, rec)
			digests[rec.Digest] = true
		}
	}
	for _, d := range nameless(roots, names) {
		if strings.HasPrefix(d.Hex, prefix) {
			found = append(found, &nameRecord{Digest: d, Resolved: d})
			digests[d] = true
		}
	}
	switch { // many names of one image are one answer, two images are none
	case len(digests) == 0:
		return nil, fmt.Errorf("%w: the cache has no such digest", ErrNotFound)
	case len(digests) > 1:
		return nil, fmt.Errorf("%w: %d images have digests that begin so", ErrReference, len(digests))
	}
	return found, nil
}

// findOne returns that of the records that ref means which is for the cache's
// platform, or else the first.
func (s *Store) findOne(ref string) (*nameRecord, error) {
	found, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	for _, rec := range found {
		if rec.Platform == s.platform.String() {
			return rec, nil
		}
	}
	return found[0], nil
}

// Get acquires an image that the cache has, by its name, its digest or the first
// 12 digits of that. No registry is asked. The caller must Close the image. The
// error matches ErrNotFound, or ErrContent if the cache was damaged.
func (s *Store) Get(ctx context.Context, ref string) (*Image, error) {
	p := newProgress(ref, s.cfg.Progress)
	defer p.close()
	rec, err := s.findOne(ref)
	var img *Image
	if err == nil {
		img, err = s.acquire(ctx, rec.Digest, familiar(rec.Name), nil, p)
	}
	if err != nil {
		return nil, explainFind("get image", ref, err)
	}
	return img, nil
}

// Inspect returns all that is known about an image that the cache has. ref is as
// in Get. The error matches ErrNotFound, or ErrContent if the cache was damaged.
func (s *Store) Inspect(ref string) (Details, error) {
	d, err := s.inspect(ref)
	if err != nil {
		return Details{}, explainFind("inspect image", ref, err)
	}
	return d, nil
}

func (s *Store) inspect(ref string) (Details, error) {
	rec, err := s.findOne(ref)
	if err != nil {
		return Details{}, err
	}
	m, err := s.known(rec.Digest)
	if err != nil {
		return Details{}, err
	}
	d := Details{Info: s.infoOf(rec), Config: runConfig(m.config.Config)}
	for i, l := range m.Layers {
		d.Layers = append(d.Layers, Layer{l.Digest.String(), m.config.RootFS.DiffIDs[i].String(), string(l.MediaType), l.Size})
	}
	names, err := s.allNames()
	if err != nil {
		return Details{}, err
	}
	for _, other := range names {
		if other.Digest == rec.Digest {
			d.Names = append(d.Names, familiar(other.Name))
		}
	}
	if d.Manifest, err = s.readDocument(rec.Digest); err != nil {
		return Details{}, err
	}
	d.RawConfig, err = s.readDocument(m.Config.Digest)
	return d, err
}

// explainFind returns the error of an operation on what the cache has.
func explainFind(op, ref string, err error) error {
	e := &Error{Op: op, Ref: ref, Err: err}
	if errors.Is(err, ErrNotFound) {
		e.Hint = "sluice images ls shows what there is"
	}
	return e
}
