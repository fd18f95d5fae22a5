package image

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// unpack makes an image's root in dir, an empty directory: see rootName,
// recordName and infoName. The blobs must be there, or come: ready waits for the
// one of a layer, by its index. Nothing but dir is changed; when it returns
// without error all is on the disk.
func (s *Store) unpack(ctx context.Context, m *manifest, dir string, ready func(layer int) error, p *progress) error {
	if err := os.Mkdir(filepath.Join(dir, rootName), 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(filepath.Join(dir, rootName))
	if err != nil {
		return err
	}
	defer root.Close()
	d := newDisk(root, s.owners)
	defer d.close()
	a := newApplier(d, s.limits)
	// In order, since each changes what those below it made; later ones are being
	// fetched meanwhile.
	for i := range m.Layers {
		if err := ready(i); err != nil {
			return err
		}
		if err := s.unpackLayer(ctx, m, i, a, p); err != nil {
			return fmt.Errorf("unpack layer %d of %d (%v): %w", i+1, len(m.Layers), m.Layers[i].Digest, err)
		}
	}
	// Only now directories get their modes and times, which what is made in them
	// would change, or be kept from.
	if err := d.seal(a.root); err != nil {
		return err
	}
	return finishRoot(dir, a, s.owners)
}

// unpackLayer applies one layer, and checks the digests of what it read and of
// what that unpacked to.
func (s *Store) unpackLayer(ctx context.Context, m *manifest, layer int, a *applier, p *progress) error {
	want := m.Layers[layer]
	f, err := os.Open(s.blobPath(want.Digest))
	if err != nil {
		return err
	}
	defer f.Close()
	// The blob was verified when it came, and is again: that was perhaps months
	// ago, and hashing costs little beside decompressing. What was unpacked of a
	// blob that turns out to be wrong is in the scratch, which goes.
	compressed, content := sha256.New(), sha256.New()
	mt := &meter{src: io.TeeReader(f, compressed), limits: s.limits, report: p.layer(Unpacking, m, layer)}
	z, err := decompress(mt)
	if err != nil {
		return err
	}
	defer z.Close()
	if err := a.apply(ctx, io.TeeReader(z, content), mt); err != nil {
		return s.asDamage(want.Digest, err)
	}
	// What follows the compressed stream's end is part of the digest.
	if _, err := io.Copy(io.Discard, contextReader{ctx, mt}); err != nil {
		return err
	}
	if got := hashOf(compressed); got != want.Digest {
		return s.asDamage(want.Digest, refused("its digest is %v", got))
	}
	if got := hashOf(content); got != m.config.RootFS.DiffIDs[layer] {
		return refused("it unpacks to %v, not to the %v of the image's configuration", got, m.config.RootFS.DiffIDs[layer])
	}
	return nil
}

// asDamage returns err, the failure to unpack a blob. If the blob is no longer
// what it was when it came, it is removed, so that it comes again.
func (s *Store) asDamage(h v1.Hash, err error) error {
	if !errors.Is(err, ErrContent) { // no room, or the context's end: the blob isn't to blame
		return err
	}
	f, openErr := os.Open(s.blobPath(h))
	if openErr != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, readErr := io.Copy(sum, f); readErr != nil || hashOf(sum) == h {
		return err
	}
	return errors.Join(fmt.Errorf("the cache's copy was damaged and is removed, pull again: %w", err), os.Remove(s.blobPath(h)))
}

// finishRoot writes record and information beside a root, and waits until all is
// on the disk.
func finishRoot(dir string, a *applier, owners *Owners) error {
	record, err := os.OpenFile(filepath.Join(dir, recordName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	info, err := writeRecord(record, a.root, owners)
	if err = errors.Join(err, record.Close()); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	info.Bytes = a.written
	text, err := json.Marshal(info)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, infoName), append(text, '\n'), 0o600); err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syncTree(f); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

// A contextReader reads until its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

// Read fails with the context's error once that has ended; a Read under way is
// not interrupted.
func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
