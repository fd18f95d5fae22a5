package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A source is where an image's blobs come from. Nothing that it says is trusted.
type source interface {
	// open returns the blob that has d's digest. The caller closes it. The error
	// matches ErrNotFound if the source doesn't have it.
	open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error)
}

// A spool is a source that has blobs as files of the cache's own, whose digests
// are known to be right, so that they need not be copied.
type spool interface {
	file(h v1.Hash) (path string, ok bool)
}

// attempts is how often a blob is asked for: connections of minutes do break.
const attempts = 3

// blobPath returns where a blob is, or will be.
func (s *Store) blobPath(h v1.Hash) string { return s.path(blobsDir, h.Hex) }

// hasBlob reports whether a blob is there. Whether it still is what it was when
// it came, its readers see.
func (s *Store) hasBlob(d v1.Descriptor) (bool, error) {
	info, err := os.Lstat(s.blobPath(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && (d.Size == 0 || info.Size() == d.Size), err
}

// document returns a manifest, an index or a configuration: the cache's, or else
// the source's, which the cache then has too. Its digest is right. d.Size may be
// 0 for a size that isn't known.
func (s *Store) document(ctx context.Context, src source, d v1.Descriptor, t *scratch) ([]byte, error) {
	if err := checkDescriptor(d, s.limits.DocumentBytes); err != nil {
		return nil, err
	}
	if text, err := s.readDocument(d.Digest); err == nil || src == nil {
		return text, err
	}
	ctx, cancel := s.forDocument(ctx)
	defer cancel()
	r, err := src.open(ctx, d)
	if err != nil {
		return nil, causeOf(ctx, err)
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, s.limits.DocumentBytes+1))
	if err != nil {
		return nil, causeOf(ctx, err)
	}
	if got := hashBytes(text); got != d.Digest || d.Size != 0 && int64(len(text)) != d.Size {
		return nil, refused("%v: what came has %d bytes and the digest %v", d.Digest, len(text), got)
	}
	_, err = s.keepDocument(text, t)
	return text, err
}

// forDocument returns a context in which a document is to come.
func (s *Store) forDocument(ctx context.Context) (context.Context, context.CancelFunc) {
	patience := s.cfg.documentTimeout()
	return context.WithTimeoutCause(ctx, patience, fmt.Errorf("no manifest or configuration came within %v", patience))
}

// readDocument returns a document that the cache has. The error matches
// ErrNotFound if it doesn't, and ErrContent if it was damaged since.
func (s *Store) readDocument(h v1.Hash) ([]byte, error) {
	f, err := os.Open(s.blobPath(h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: the cache doesn't have %v", ErrNotFound, h)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, s.limits.DocumentBytes+1))
	if err != nil {
		return nil, err
	}
	if got := hashBytes(text); got != h {
		return nil, refused("the cache's copy of %v was damaged: its digest is %v", h, got)
	}
	return text, nil
}

// keepDocument puts a document into the cache.
func (s *Store) keepDocument(text []byte, t *scratch) (v1.Descriptor, error) {
	d := v1.Descriptor{Digest: hashBytes(text), Size: int64(len(text))}
	if err := checkDescriptor(d, s.limits.DocumentBytes); err != nil {
		return d, err
	}
	path := t.path(d.Digest.Hex)
	if err := writeSynced(path, text); err != nil {
		return d, err
	}
	return d, os.Rename(path, s.blobPath(d.Digest))
}

// fetchBlob brings a layer into the cache unless it is there. Of what arrived
// report is told.
func (s *Store) fetchBlob(ctx context.Context, src source, d v1.Descriptor, t *scratch, report func(int64)) error {
	if ok, err := s.hasBlob(d); err != nil {
		return err
	} else if ok {
		report(d.Size)
		return nil
	}
	if src == nil {
		return fmt.Errorf("%w: the cache doesn't have the layer %v", ErrNotFound, d.Digest)
	}
	if sp, ok := src.(spool); ok {
		if path, ok := sp.file(d.Digest); ok {
			if err := os.Link(path, s.blobPath(d.Digest)); err == nil || errors.Is(err, fs.ErrExist) {
				report(d.Size)
				return nil
			}
		} // else, or where there are no hard links, it is copied
	}
	for attempt, pause := 1, s.cfg.retryDelay(); ; attempt, pause = attempt+1, 2*pause {
		err := s.copyBlob(ctx, src, d, t, report)
		// What the source says, or what is wrong with the blob, stays; a line
		// that broke may be whole again.
		if err == nil || ctx.Err() != nil || attempt == attempts ||
			errors.Is(err, ErrNotFound) || errors.Is(err, ErrContent) || errors.Is(err, errHost) {
			return err
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// errHost marks failures of this host: its disk may be full.
var errHost = errors.New("write to the cache")

// copyBlob brings a blob into the cache, if it turns out to be what d says.
func (s *Store) copyBlob(ctx context.Context, src source, d v1.Descriptor, t *scratch, report func(int64)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := newWatchdog(s.cfg.stallTimeout(), cancel)
	defer w.stop()
	r, err := src.open(ctx, d)
	if err != nil {
		return causeOf(ctx, err)
	}
	defer r.Close()
	path := t.path(d.Digest.Hex)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("%w: %w", errHost, err)
	}
	defer f.Close()
	sum := sha256.New()
	n, err := copyTo(f, io.TeeReader(io.LimitReader(r, d.Size+1), sum), func(n int64) { w.fed(); report(n) })
	// An error when all is there is the digest's, or doesn't matter.
	if err != nil && (n < d.Size || errors.Is(err, errHost)) {
		return causeOf(ctx, err)
	}
	if got := hashOf(sum); n != d.Size || got != d.Digest {
		return refused("layer %v of %d bytes: what came has %d and the digest %v", d.Digest, d.Size, n, got)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("%w: %w", errHost, err)
	}
	if err := os.Rename(path, s.blobPath(d.Digest)); err != nil {
		return fmt.Errorf("%w: %w", errHost, err)
	}
	return nil
}

// copyTo is io.Copy that tells after each piece how many bytes there were, and
// marks failures to write with errHost.
func copyTo(w io.Writer, r io.Reader, report func(int64)) (int64, error) {
	buf := make([]byte, 128<<10)
	for sum := int64(0); ; {
		n, err := r.Read(buf)
		if _, err := w.Write(buf[:n]); err != nil {
			return sum, fmt.Errorf("%w: %w", errHost, err)
		}
		sum += int64(n)
		report(sum)
		if errors.Is(err, io.EOF) {
			return sum, nil
		}
		if err != nil {
			return sum, err
		}
	}
}

// causeOf returns why ctx was cancelled if it was, else err.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
