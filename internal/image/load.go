package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Import brings the image of an OCI layout, an OCI archive or a docker archive
// at path into the cache under a name, as if it had been pulled. The name must
// have no digest. The error matches ErrReference, ErrNotFound or ErrContent.
func (s *Store) Import(ctx context.Context, name, path string) (Info, error) {
	p := newProgress(name, s.cfg.Progress)
	defer p.close()
	info, err := s.importFile(ctx, name, path, p)
	if err != nil {
		e := &Error{Op: "import image", Ref: name, Err: err}
		if errors.Is(err, ErrContent) {
			e.Hint = "docker save and skopeo copy write what can be imported"
		}
		return Info{}, e
	}
	return info, nil
}

func (s *Store) importFile(ctx context.Context, name, path string, p *progress) (Info, error) {
	r, err := parseReference(name)
	if err != nil {
		return Info{}, err
	}
	if r.path != "" || r.pinned != (v1.Hash{}) {
		return Info{}, fmt.Errorf("%w: it must be a name, with a tag or without", ErrReference)
	}
	img, err := s.pullFileAs(ctx, path, []string{r.name}, s.platform, p)
	if err != nil {
		return Info{}, err
	}
	defer img.Close() // until it is described nobody may remove it
	rec, err := s.lookUp(r.name, s.platform)
	if err == nil && rec == nil {
		err = ErrNotFound // somebody removed it already
	}
	if err != nil {
		return Info{}, err
	}
	return s.infoOf(rec), nil
}

// pullFile acquires the image at a path, under no name.
func (s *Store) pullFile(ctx context.Context, path string, platform v1.Platform, p *progress) (*Image, error) {
	return s.pullFileAs(ctx, path, nil, platform, p)
}

// pullFileAs brings the image at a path into the cache, under names, and
// acquires it.
func (s *Store) pullFileAs(ctx context.Context, path string, names []string, platform v1.Platform, p *progress) (*Image, error) {
	p.post(Event{Kind: Resolving})
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	in := incoming{names: names, platform: platform}
	var offers []offer
	if info.IsDir() {
		l, found, err := openLayout(path, s.limits)
		if err != nil {
			return nil, err
		}
		defer l.close()
		in.src, offers = l, found
	} else {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		// An archive says at its end what is in it, perhaps: its blobs wait in a
		// scratch until then.
		t, err := s.newScratch()
		if err != nil {
			return nil, err
		}
		defer t.remove()
		if in.src, offers, err = readArchive(ctx, f, t, s.limits); err != nil {
			return nil, err
		}
	}
	// An image under no name, or one for another platform, must not be taken for
	// what was meant.
	chosen, err := chooseOffer(offers, platform)
	if err != nil {
		return nil, err
	}
	in.top = chosen.top
	return s.bring(ctx, in, p)
}

// Load brings all images of an OCI archive or a docker archive, compressed or
// not, into the cache, under the names that they have there; one without a name
// can be had by its digest, until a Prune. The error matches ErrNotFound, if an
// image is not for the cache's platform, or ErrContent. What came before an error
// stays.
func (s *Store) Load(ctx context.Context, r io.Reader) ([]Info, error) {
	p := newProgress("", s.cfg.Progress)
	defer p.close()
	infos, err := s.load(ctx, r, p)
	if err != nil {
		return infos, &Error{Op: "load images", Err: err}
	}
	return infos, nil
}

func (s *Store) load(ctx context.Context, r io.Reader, p *progress) ([]Info, error) {
	t, err := s.newScratch()
	if err != nil {
		return nil, err
	}
	defer t.remove()
	src, offers, err := readArchive(ctx, r, t, s.limits)
	if err != nil {
		return nil, err
	}
	var infos []Info
	// One after the other, each whole under its names before the next begins.
	for _, o := range offers {
		img, err := s.bring(ctx, incoming{src: src, top: o.top, names: o.names, platform: s.platform}, p)
		if err != nil {
			return infos, fmt.Errorf("image %v: %w", o.top.Digest, err)
		}
		digest, err := parseHash(img.Digest)
		if err = errors.Join(err, img.Close()); err != nil {
			return infos, err
		}
		if len(o.names) == 0 {
			infos = append(infos, s.infoOf(&nameRecord{Platform: s.platform.String(), Digest: digest, Resolved: digest}))
		}
		for _, name := range o.names {
			infos = append(infos, s.infoOf(&nameRecord{Name: name, Platform: s.platform.String(), Digest: digest, Resolved: o.top.Digest, Time: s.cfg.now().UTC()}))
		}
	}
	return infos, nil
}
