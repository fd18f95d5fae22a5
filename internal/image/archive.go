package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// dockerManifest is the file of a docker archive that says what is in it.
const dockerManifest = "manifest.json"

// maxMembers bounds the files in an archive: an image has one or three per
// layer.
const maxMembers = 1 << 14

// An archive is a tar archive as a source: an OCI layout, or what docker saves.
// It is read once, from any stream; each file goes to the scratch under its own
// digest, so that no name in it matters to the host. The scratch stays the
// caller's.
type archive struct {
	t     *scratch
	files map[string]v1.Descriptor // by name: digest and size
	links map[string]string        // by name: the name of the same file
	have  map[v1.Hash]bool
}

var (
	_ source = (*archive)(nil)
	_ spool  = (*archive)(nil)
)

// readArchive reads the archive r, compressed or not, and returns what it offers.
func readArchive(ctx context.Context, r io.Reader, t *scratch, limits Limits) (*archive, []offer, error) {
	a := &archive{t: t, files: make(map[string]v1.Descriptor), links: make(map[string]string), have: make(map[v1.Hash]bool)}
	m := &meter{src: contextReader{ctx, r}, limits: limits}
	z, err := decompress(m)
	if err != nil {
		return nil, nil, err
	}
	defer z.Close()
	// An archive has the layers of an image, compressed or not: what they may be
	// when unpacked is more than enough for it.
	left := limits.ImageBytes
	members := tar.NewReader(z)
	for range maxMembers {
		h, err := members.Next()
		if errors.Is(err, io.EOF) {
			offers, err := a.offers(limits)
			return a, offers, err
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, nil, m.blame(err)
		}
		// Names are kept, and a header may have a megabyte of one.
		if n := max(len(h.Name), len(h.Linkname)); n > limits.PathBytes {
			return nil, nil, refused("a name of %d bytes; %d are the most", n, limits.PathBytes)
		}
		if left -= h.Size; left < 0 {
			return nil, nil, refused("an archive of more than %d bytes", limits.ImageBytes)
		}
		if err := a.member(h, members, m); err != nil {
			return nil, nil, fmt.Errorf("read %q: %w", h.Name, err)
		}
	}
	return nil, nil, refused("an archive of more than %d files", maxMembers)
}

// cleanName returns the name of a file in an archive in the one way in which it
// is looked for.
func cleanName(name string) string { return path.Clean("/" + name)[1:] }

// member takes in one file. Docker's older archives have links for layers that
// images share.
func (a *archive) member(h *tar.Header, r io.Reader, m *meter) error {
	switch h.Typeflag {
	case tar.TypeReg:
		d, err := a.keep(r, m)
		a.files[cleanName(h.Name)] = d
		return err
	case tar.TypeSymlink:
		a.links[cleanName(h.Name)] = cleanName(path.Join(path.Dir(h.Name), h.Linkname))
	case tar.TypeLink:
		a.links[cleanName(h.Name)] = cleanName(h.Linkname)
	case tar.TypeDir, tar.TypeXGlobalHeader:
	default:
		return refused("type %q in an archive of images", h.Typeflag)
	}
	return nil
}

// keep writes a file of the archive into the scratch.
func (a *archive) keep(r io.Reader, m *meter) (v1.Descriptor, error) {
	// Its name in the cache is known when it has been read.
	f, err := os.CreateTemp(a.t.dir, "member")
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), r)
	if err = errors.Join(m.blame(err), f.Close()); err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{Digest: hashOf(sum), Size: n}
	a.have[d.Digest] = true
	return d, os.Rename(f.Name(), a.path(d.Digest))
}

// path returns where a file is kept.
func (a *archive) path(h v1.Hash) string { return a.t.path("kept-" + h.Hex) }

// file returns where a blob is kept.
func (a *archive) file(h v1.Hash) (string, bool) { return a.path(h), a.have[h] }

// open returns a blob.
func (a *archive) open(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	if !a.have[d.Digest] {
		return nil, fmt.Errorf("%w: the archive lacks the blob %v", ErrNotFound, d.Digest)
	}
	return os.Open(a.path(d.Digest))
}

// offers returns what the archive offers.
func (a *archive) offers(limits Limits) ([]offer, error) {
	// Docker writes both kinds into one archive. The layout's manifests are the
	// builder's own, so that the digests are those of the registry.
	if _, ok := a.files[layoutFile]; ok {
		text, err := a.read(layoutIndex, limits.DocumentBytes)
		if err != nil {
			return nil, err
		}
		return parseLayoutIndex(text)
	}
	if _, ok := a.files[dockerManifest]; ok {
		return a.dockerOffers(limits)
	}
	return nil, refused("neither an OCI archive nor a docker archive: it has neither %s nor %s", layoutFile, dockerManifest)
}

// find returns the file that a name means, through links.
func (a *archive) find(name string) (v1.Descriptor, error) {
	at := cleanName(name)
	for range maxLinks {
		if d, ok := a.files[at]; ok {
			return d, nil
		}
		at = a.links[at]
	}
	return v1.Descriptor{}, refused("the archive lacks %q", name)
}

// read returns the content of a file.
func (a *archive) read(name string, limit int64) ([]byte, error) {
	d, err := a.find(name)
	if err != nil {
		return nil, err
	}
	if err := checkDescriptor(d, limit); err != nil {
		return nil, err
	}
	return os.ReadFile(a.path(d.Digest))
}

// dockerOffers makes manifests of what docker saved: it has none of its own. The
// same archive always gives the same.
func (a *archive) dockerOffers(limits Limits) ([]offer, error) {
	text, err := a.read(dockerManifest, limits.DocumentBytes)
	if err != nil {
		return nil, err
	}
	var images []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(text, &images); err != nil {
		return nil, refused("parse %s: %v", dockerManifest, err)
	}
	var offers []offer
	for _, i := range images {
		m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: []v1.Descriptor{}}
		if m.Config, err = a.find(i.Config); err != nil {
			return nil, err
		}
		m.Config.MediaType = types.OCIConfigJSON
		for _, l := range i.Layers {
			d, err := a.layer(l)
			if err != nil {
				return nil, err
			}
			m.Layers = append(m.Layers, d)
		}
		text, err := json.Marshal(m)
		if err != nil {
			return nil, err
		}
		o := offer{}
		if o.top, err = a.keep(bytes.NewReader(text), &meter{}); err != nil {
			return nil, err
		}
		for _, tag := range i.RepoTags {
			if r, err := parseReference(tag); err == nil && r.name != "" {
				o.names = append(o.names, r.name)
			}
		}
		offers = append(offers, o)
	}
	return offers, nil
}

// layer returns the descriptor of a layer, with the type that its first bytes
// tell.
func (a *archive) layer(name string) (v1.Descriptor, error) {
	d, err := a.find(name)
	if err != nil {
		return d, err
	}
	f, err := os.Open(a.path(d.Digest))
	if err != nil {
		return d, err
	}
	defer f.Close()
	magic := make([]byte, 4)
	n, err := io.ReadFull(f, magic)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return d, err
	}
	switch compressionOf(magic[:n]) {
	case gzipped:
		d.MediaType = types.OCILayer
	case zstandard:
		d.MediaType = types.OCILayerZStd
	default:
		d.MediaType = types.OCIUncompressedLayer
	}
	return d, nil
}
