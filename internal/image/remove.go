package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Remove removes an image's name, on all platforms, and with its last name the
// image. By a digest, as in Get, it removes all names and the image. The error
// matches ErrNotFound; and ErrInUse if the image would go and somebody uses it,
// or if a digest has more than one name. Then nothing has changed, unless force
// is set: with it the names go at once, and an image in use with the first Prune
// after that.
func (s *Store) Remove(ref string, force bool) error {
	if err := s.remove(ref, force); err != nil {
		e := &Error{Op: "remove image", Ref: ref, Err: err}
		switch {
		case errors.Is(err, ErrInUse):
			e.Hint = "stop the sandboxes that use it, or force the removal"
		case errors.Is(err, ErrNotFound):
			e.Hint = "sluice images ls shows what there is"
		}
		return e
	}
	return nil
}

func (s *Store) remove(ref string, force bool) error {
	found, err := s.find(ref)
	if err != nil {
		return err
	}
	// A name means itself, on however many platforms; a digest means the image,
	// which others may know by a name.
	if r, err := parseReference(ref); !force && len(found) > 1 && (err != nil || found[0].Name != r.name) {
		var names []string
		for _, rec := range found {
			names = append(names, familiar(rec.Name))
		}
		return fmt.Errorf("%w: it has the names %s", ErrInUse, strings.Join(slices.Compact(names), ", "))
	}
	all, err := s.allNames()
	if err != nil {
		return err
	}
	leaving := make(map[v1.Hash]bool) // what has no name left
	for _, rec := range found {
		leaving[rec.Digest] = true
	}
	for _, rec := range all {
		if !slices.ContainsFunc(found, func(f *nameRecord) bool { return f.Name == rec.Name && f.Platform == rec.Platform }) {
			delete(leaving, rec.Digest)
		}
	}
	// The roots are claimed before a name goes, so that a refusal changes
	// nothing; names go before roots, so that no name means half an image.
	g, err := s.newGarbage()
	if err != nil {
		return err
	}
	defer g.collect()
	for digest := range leaving {
		if err := g.claim(digest); err != nil && !(force && errors.Is(err, ErrInUse)) {
			return err
		}
	}
	for _, rec := range found {
		if rec.Name == "" { // find made it up, for a digest
			continue
		}
		if err := s.dropName(rec); err != nil {
			return err
		}
	}
	return g.remove()
}

// Pruned says what a Prune removed.
type Pruned struct {
	Images []string // names, or digests of what had none
	Bytes  int64    // of the files and blobs that are gone
}

// Prune removes the images that have no name, or with all set every image, but
// none that somebody uses; and blobs that belong to no image, unless some process
// is pulling.
func (s *Store) Prune(ctx context.Context, all bool) (Pruned, error) {
	var p Pruned
	if err := s.prune(ctx, all, &p); err != nil {
		return p, &Error{Op: "prune images", Err: err}
	}
	return p, nil
}

func (s *Store) prune(ctx context.Context, all bool, p *Pruned) error {
	names, err := s.allNames()
	if err != nil {
		return err
	}
	digests, err := s.unpacked()
	if err != nil {
		return err
	}
	for _, rec := range names { // also of what was never unpacked here
		digests[rec.Digest] = true
	}
	g, err := s.newGarbage()
	if err != nil {
		return err
	}
	defer g.collect()
	for digest := range digests {
		if err := ctx.Err(); err != nil {
			return err
		}
		var mine []*nameRecord
		for _, rec := range names {
			if rec.Digest == digest {
				mine = append(mine, rec)
			}
		}
		if len(mine) > 0 && !all {
			continue // it has a name, so somebody wants it
		}
		if err := g.claim(digest); errors.Is(err, ErrInUse) {
			continue // a later Prune comes by again
		} else if err != nil {
			return err
		}
		for _, rec := range mine {
			if err := s.dropName(rec); err != nil {
				return err
			}
			p.Images = append(p.Images, familiar(rec.Name))
		}
		if len(mine) == 0 {
			p.Images = append(p.Images, digest.String())
		}
	}
	slices.Sort(p.Images)
	err = g.remove()
	p.Bytes = g.bytes
	return err
}

// A garbage is what is being removed: roots that are claimed, and then blobs
// that nothing needs.
type garbage struct {
	s      *Store
	t      *scratch
	claims []*claimed
	bytes  int64 // of what is removed
}

// A claimed is a root that nobody uses, exclusively locked.
type claimed struct {
	path string
	lock *fileLock
}

// newGarbage returns an empty garbage. The caller must collect it.
func (s *Store) newGarbage() (*garbage, error) {
	t, err := s.newScratch()
	if err != nil {
		return nil, err
	}
	return &garbage{s: s, t: t}, nil
}

// claim claims all roots of a manifest. The error matches ErrInUse if somebody
// uses one of them; then none is claimed.
func (g *garbage) claim(digest v1.Hash) error {
	entries, err := os.ReadDir(g.s.path(rootsDir))
	if err != nil {
		return err
	}
	before := len(g.claims)
	// One for each way of giving files their owners; see rootPath.
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), digest.Hex+"-") {
			continue
		}
		path := g.s.path(rootsDir, e.Name())
		l, err := tryLockAt(path+lockExt, exclusive)
		if errors.Is(err, errHeld) {
			err = fmt.Errorf("%w: somebody uses %v", ErrInUse, digest)
		}
		if err != nil {
			for _, c := range g.claims[before:] {
				err = errors.Join(err, c.lock.release())
			}
			g.claims = g.claims[:before]
			return err
		}
		g.claims = append(g.claims, &claimed{path, l})
	}
	return nil
}

// remove removes what is claimed, and the blobs that no image needs then.
func (g *garbage) remove() error {
	for _, c := range g.claims {
		// Who is in want of the image meanwhile waits for the lock, then finds
		// neither root nor lock, and starts anew.
		if info, err := readRootInfo(c.path); err == nil {
			g.bytes += info.Bytes
		}
		// To the scratch first: what is at a root's path is whole.
		if err := os.Rename(c.path, g.t.path(filepath.Base(c.path))); err != nil {
			return err
		}
		// The lock's file before the lock: who gets the lock of a file that is gone
		// sees so, and who comes later makes a new one.
		if err := errors.Join(os.Remove(c.path+lockExt), c.lock.release()); err != nil {
			return err
		}
	}
	g.claims = nil
	n, err := g.s.sweepBlobs()
	g.bytes += n
	return err
}

// collect lets go of claims that are left, and removes what was removed from the
// disk.
func (g *garbage) collect() error {
	var errs []error
	for _, c := range g.claims {
		errs = append(errs, c.lock.release())
	}
	return errors.Join(append(errs, g.t.remove())...)
}

// sweepBlobs removes the blobs that belong neither to a name nor to a root, and
// returns how many bytes they had. While somebody pulls it removes none.
func (s *Store) sweepBlobs() (int64, error) {
	l, err := tryLockAt(s.path(blobsLock), exclusive)
	if errors.Is(err, errHeld) {
		return 0, nil // the next removal sweeps
	}
	if err != nil {
		return 0, err
	}
	defer l.release()
	// With the lock nobody pulls, so that a blob that nothing needs now is not
	// about to be needed.
	needed, err := s.neededBlobs()
	if err != nil {
		return 0, err
	}
	entries, err := os.ReadDir(s.path(blobsDir))
	if err != nil {
		return 0, err
	}
	var bytes int64
	for _, e := range entries {
		if needed[e.Name()] {
			continue
		}
		if info, err := e.Info(); err == nil {
			bytes += info.Size()
		}
		if err := os.Remove(s.path(blobsDir, e.Name())); err != nil {
			return bytes, err
		}
	}
	return bytes, nil
}

// neededBlobs returns, by their hexadecimal digests, the blobs of all images.
func (s *Store) neededBlobs() (map[string]bool, error) {
	names, err := s.allNames()
	if err != nil {
		return nil, err
	}
	digests, err := s.unpacked()
	if err != nil {
		return nil, err
	}
	needed := make(map[string]bool)
	for _, rec := range names {
		needed[rec.Resolved.Hex] = true // an index, for a pull by its digest
		digests[rec.Digest] = true
	}
	for digest := range digests {
		needed[digest.Hex] = true
		m, err := s.known(digest)
		if err != nil {
			continue // damaged: nobody can use what it would need
		}
		for _, b := range m.blobs {
			needed[b.Digest.Hex] = true
		}
	}
	return needed, nil
}
