package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Files of an OCI layout beside its blobs, and where those are.
const (
	layoutFile   = "oci-layout"
	layoutIndex  = "index.json"
	layoutBlobs  = "blobs/sha256/"
	layoutMarker = `{"imageLayoutVersion":"1.0.0"}`
)

// Annotations that name the image in a layout's index. containerd's, which
// docker writes too, is the whole name; OCI's is often the tag alone.
const (
	annotationName = "io.containerd.image.name"
	annotationRef  = "org.opencontainers.image.ref.name"
)

// An offer is an image that a layout or an archive has.
type offer struct {
	top   v1.Descriptor
	names []string // canonical; may be empty
}

// A layout is a directory in the OCI image layout as a source. It must be
// closed.
type layout struct{ root *os.Root }

var _ source = (*layout)(nil)

// openLayout opens the layout at path, and returns what it offers.
func openLayout(path string, limits Limits) (*layout, []offer, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, nil, err
	}
	l := &layout{root}
	f, err := root.Open(layoutIndex)
	if err != nil {
		l.close()
		return nil, nil, fmt.Errorf("it is no OCI layout: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limits.DocumentBytes))
	if err != nil {
		l.close()
		return nil, nil, err
	}
	offers, err := parseLayoutIndex(text)
	if err != nil {
		l.close()
		return nil, nil, err
	}
	return l, offers, nil
}

// close closes the directory.
func (l *layout) close() { l.root.Close() }

// open returns a blob.
func (l *layout) open(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	f, err := l.root.Open(layoutBlobs + d.Digest.Hex)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: the layout lacks the blob %v", ErrNotFound, d.Digest)
	}
	return f, err
}

// parseLayoutIndex returns what the index of a layout offers.
func parseLayoutIndex(text []byte) ([]offer, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(text))
	if err != nil {
		return nil, refused("parse %s: %v", layoutIndex, err)
	}
	var offers []offer
	for _, d := range index.Manifests {
		o := offer{top: d}
		called := d.Annotations[annotationName]
		if ref := d.Annotations[annotationRef]; called == "" && strings.ContainsAny(ref, ":/") {
			called = ref
		}
		if r, err := parseReference(called); err == nil && r.name != "" {
			o.names = []string{r.name}
		}
		offers = append(offers, o)
	}
	return offers, nil
}

// chooseOffer returns the only offer; or, of several that are one image for
// several platforms, that for the platform.
func chooseOffer(offers []offer, platform v1.Platform) (offer, error) {
	if len(offers) == 1 {
		return offers[0], nil
	}
	var tops []v1.Descriptor
	names := make(map[string]bool)
	for _, o := range offers {
		tops = append(tops, o.top)
		names[strings.Join(o.names, " ")] = true
	}
	if len(names) > 1 {
		return offer{}, refused("it has several images; load it to have all of them, by their names")
	}
	top, err := choosePlatform(tops, platform)
	return offer{top: top}, err
}
