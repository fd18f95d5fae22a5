package image

import (
	"context"
	"errors"
	"os"
)

// lockRoot returns the shared lock of an image's root, which is there then.
//
// A shared lock can't become an exclusive one without a moment between, in which
// another process may make the root or remove it. So each turn of the loop looks
// anew: with the shared lock for a root that is there, and with the exclusive one
// whether somebody has made it meanwhile.
func (s *Store) lockRoot(ctx context.Context, m *manifest, src source, p *progress) (*fileLock, error) {
	root := s.rootPath(m.digest)
	waiting := func() { p.post(Event{Kind: Waiting, Layers: len(m.Layers)}) }
	for {
		l, err := lockAt(ctx, root+lockExt, shared, waiting)
		if err != nil {
			return nil, err
		}
		if ok, err := exists(root); ok || err != nil {
			if err != nil {
				err = errors.Join(err, l.release())
				l = nil
			}
			return l, err
		}
		if err := l.release(); err != nil {
			return nil, err
		}
		if err := s.makeRoot(ctx, m, src, p, waiting); err != nil {
			return nil, err
		}
	}
}

// makeRoot makes an image's root unless somebody else did.
func (s *Store) makeRoot(ctx context.Context, m *manifest, src source, p *progress, waiting func()) error {
	root := s.rootPath(m.digest)
	l, err := lockAt(ctx, root+lockExt, exclusive, waiting)
	if err != nil {
		return err
	}
	defer l.release()
	if ok, err := exists(root); ok || err != nil {
		return err
	}
	if err := s.build(ctx, m, src, root, p); err != nil {
		// Who holds a lock exclusively may remove its file: see tryLockAt.
		return errors.Join(err, os.Remove(root+lockExt))
	}
	return nil
}

// build fetches the layers that are missing, unpacks all, and puts the result at
// root. The caller has root's lock.
func (s *Store) build(ctx context.Context, m *manifest, src source, root string, p *progress) (err error) {
	// Blobs must stay until the root is made of them.
	l, err := lockAt(ctx, s.path(blobsLock), shared, nil)
	if err != nil {
		return err
	}
	defer l.release()
	t, err := s.newScratch()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.remove()) }()
	dir := t.path("image")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	// A layer is unpacked while those above it are still coming.
	f := s.startFetch(ctx, m, src, t, p)
	err = f.stop(s.unpack(f.ctx, m, dir, f.wait, p))
	if err != nil {
		return err
	}
	// unpack has put all that is in dir on the disk, so that after a loss of
	// power there is either no root or a whole one.
	if err := os.Rename(dir, root); err != nil {
		return err
	}
	return syncDir(s.path(rootsDir))
}
