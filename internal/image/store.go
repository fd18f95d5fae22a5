package image

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A Store is a cache of images. Use Open. It holds nothing open between calls,
// and its methods may be called by several goroutines and processes at once.
type Store struct {
	dir      string
	cfg      Config
	limits   Limits
	owners   *Owners
	platform v1.Platform
}

// Directories of a cache, and the file whose lock is that of blobs without a
// name. See the package's documentation.
const (
	blobsDir  = "blobs/sha256"
	namesDir  = "names"
	rootsDir  = "roots"
	tmpDir    = "tmp"
	blobsLock = "lock"
	lockExt   = ".lock"
)

// Open opens the cache at cfg.Dir and makes it if need be. It fails if another
// user owns the directory or may look into it: files in it may be set-uid. The
// error matches errors.ErrUnsupported where files can't be locked.
func Open(cfg Config) (*Store, error) {
	s, err := open(cfg)
	if err != nil {
		return nil, &Error{Op: "open image cache", Ref: cfg.Dir, Err: err}
	}
	return s, nil
}

func open(cfg Config) (*Store, error) {
	if cfg.Dir == "" {
		return nil, errors.New("no directory")
	}
	platform, err := platformOf(cfg.Platform)
	if err != nil {
		return nil, err
	}
	if cfg.Owners == nil {
		owners := DefaultOwners()
		cfg.Owners = &owners
	}
	if err := cfg.Owners.check(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, cfg: cfg, limits: cfg.Limits.withDefaults(), owners: cfg.Owners, platform: platform}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := checkPrivate(dir); err != nil {
		return nil, err
	}
	for _, sub := range []string{blobsDir, namesDir, rootsDir, tmpDir} {
		if err := os.MkdirAll(s.path(sub), 0o700); err != nil {
			return nil, err
		}
	}
	// A system that can't lock must be known before anything depends on it.
	l, err := tryLockAt(s.path(blobsLock), shared)
	if errors.Is(err, errHeld) { // by a sweep, so locks work
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	return s, l.release()
}

// checkPrivate reports why the directory is not this user's alone. ownedByUser,
// per platform, reports whether a file is this user's.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	switch {
	case !info.IsDir():
		return fmt.Errorf("it is no directory but %v", info.Mode().Type())
	case !ownedByUser(info):
		return errors.New("it belongs to another user")
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("others may look into it (mode %v): chmod 700 it", info.Mode().Perm())
	}
	return nil
}

// path returns a path in the cache.
func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// rootPath returns where the unpacked image of a manifest is, or will be.
func (s *Store) rootPath(manifest v1.Hash) string {
	return s.path(rootsDir, manifest.Hex+"-"+s.owners.key())
}

// A scratch is a directory for what is not finished. Its lock tells the live
// from the dead.
type scratch struct {
	dir  string
	lock *fileLock
}

// newScratch makes a scratch, after those that dead processes left are removed.
func (s *Store) newScratch() (*scratch, error) {
	if err := s.sweepScratch(); err != nil {
		return nil, fmt.Errorf("remove what a dead process left: %w", err)
	}
	for {
		dir := s.path(tmpDir, rand.Text())
		l, err := tryLockAt(dir+lockExt, exclusive)
		if errors.Is(err, errHeld) {
			continue // a sweep came between
		}
		if err != nil {
			return nil, err
		}
		t := &scratch{dir, l}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, errors.Join(err, t.remove())
		}
		return t, nil
	}
}

// path returns a path in the scratch.
func (t *scratch) path(name string) string { return filepath.Join(t.dir, name) }

// remove removes the scratch with all that is in it.
func (t *scratch) remove() error {
	// The lock's file goes last: without it nobody would look for the rest.
	err := removeTree(t.dir)
	if err == nil {
		err = os.Remove(t.dir + lockExt)
	}
	return errors.Join(err, t.lock.release())
}

// sweepScratch removes what processes left in tmp that died.
func (s *Store) sweepScratch() error {
	entries, err := os.ReadDir(s.path(tmpDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, isLock := strings.CutSuffix(e.Name(), lockExt)
		if !isLock {
			continue
		}
		dir := s.path(tmpDir, name)
		l, err := tryLockAt(dir+lockExt, exclusive)
		if errors.Is(err, errHeld) {
			continue // its process lives: the kernel lets go of a dead one's locks
		}
		if err != nil {
			return err
		}
		if err := (&scratch{dir, l}).remove(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// syncDir puts a directory's names on the disk.
func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// exists reports whether there is something at path.
func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
