package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Save writes images that the cache has to an archive that Load, docker and
// podman read: an OCI layout which is a docker archive as well. Each ref is as in
// Get; one that is a name gives the image this name there. The error matches
// ErrNotFound, or ErrContent if the cache was damaged.
func (s *Store) Save(ctx context.Context, w io.Writer, refs ...string) error {
	out := &saver{s: s, w: tar.NewWriter(w), have: make(map[v1.Hash]bool)}
	for _, ref := range refs {
		if err := out.image(ctx, ref); err != nil {
			return explainFind("save image", ref, err)
		}
	}
	if err := out.finish(); err != nil {
		return &Error{Op: "save images", Err: err}
	}
	return nil
}

// A saver writes an archive.
type saver struct {
	s      *Store
	w      *tar.Writer
	have   map[v1.Hash]bool // what is written already
	index  v1.IndexManifest
	docker []dockerImage
}

// A dockerImage is an image in a docker archive's manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// image writes an image's blobs.
func (o *saver) image(ctx context.Context, ref string) error {
	rec, err := o.s.findOne(ref)
	if err != nil {
		return err
	}
	// An image in use stays, and its blobs with it.
	img, err := o.s.acquire(ctx, rec.Digest, "", nil, nil)
	if err != nil {
		return err
	}
	defer img.Close()
	m, err := o.s.known(rec.Digest)
	if err != nil {
		return err
	}
	document, err := o.s.readDocument(rec.Digest)
	if err != nil {
		return err
	}
	// The manifest of one platform stands in the archive's index by itself: the
	// index that it came from names others, which aren't here.
	top := v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: rec.Digest, Size: int64(len(document)), Platform: m.config.Platform()}
	if m.MediaType != "" {
		top.MediaType = m.MediaType
	}
	di := dockerImage{Config: layoutBlobs + m.Config.Digest.Hex, Layers: []string{}}
	if tag, ok := tagOf(rec.Name, ref); ok {
		top.Annotations = map[string]string{annotationName: rec.Name, annotationRef: tag}
		di.RepoTags = []string{familiar(rec.Name)}
	}
	for _, l := range m.Layers {
		di.Layers = append(di.Layers, layoutBlobs+l.Digest.Hex)
	}
	for _, d := range append([]v1.Descriptor{top}, m.blobs...) {
		if err := o.blob(ctx, d); err != nil { // what images share is written once
			return err
		}
	}
	o.index.Manifests = append(o.index.Manifests, top)
	o.docker = append(o.docker, di)
	return nil
}

// tagOf returns the tag in a record's name, if ref is that name and it has one.
func tagOf(recorded, ref string) (string, bool) {
	r, err := parseReference(ref)
	if err != nil || r.name != recorded || r.pinned != (v1.Hash{}) {
		return "", false
	}
	return r.ref.Identifier(), true
}

// blob writes a blob that isn't there yet, if it is still what it was when it
// came.
func (o *saver) blob(ctx context.Context, d v1.Descriptor) error {
	if o.have[d.Digest] {
		return nil
	}
	o.have[d.Digest] = true // also if it fails, which ends the archive
	f, err := os.Open(o.s.blobPath(d.Digest))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := o.header(layoutBlobs+d.Digest.Hex, d.Size); err != nil {
		return err
	}
	// A copy of another length is an error of the archive's writer, and one of the
	// same length shows by its digest, when it is written but not yet finished.
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(o.w, sum), contextReader{ctx, f}); err != nil {
		return fmt.Errorf("write %v: %w", d.Digest, err)
	}
	if hashOf(sum) != d.Digest {
		return refused("the cache's copy of %v was damaged", d.Digest)
	}
	return nil
}

// header writes the header of a file.
func (o *saver) header(name string, size int64) error {
	return o.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size})
}

// finish writes what says what is in the archive, and ends it.
func (o *saver) finish() error {
	o.index.SchemaVersion = 2
	o.index.MediaType = types.OCIImageIndex
	index, err := json.Marshal(o.index)
	if err != nil {
		return err
	}
	docker, err := json.Marshal(o.docker)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name    string
		content []byte
	}{{layoutFile, []byte(layoutMarker)}, {layoutIndex, index}, {dockerManifest, docker}} {
		if err := o.header(f.name, int64(len(f.content))); err != nil {
			return err
		}
		if _, err := o.w.Write(f.content); err != nil {
			return err
		}
	}
	return o.w.Close()
}
