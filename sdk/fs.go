package sdk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"

	"github.com/sluicenet/sluice/internal/control"
)

// SandboxFSOps is the guest's files, as its root sees them, over SFTP. They don't
// need a network. Paths are the guest's, from its root on. Its methods may be
// called by several goroutines; when ctx ends first, what they were doing is cut
// off wherever it was.
//
// An error has kind ErrPathNotFound for a path that isn't there, else
// ErrFilesystem, and matches fs.ErrNotExist, fs.ErrPermission and fs.ErrExist.
type SandboxFSOps struct {
	s      *Sandbox
	copied func(bytes int) // see WithProgress; nil tells nobody
}

// FS returns the guest's files.
func (s *Sandbox) FS() *SandboxFSOps { return &SandboxFSOps{s: s} }

// WithProgress returns the same files, of which CopyFromHost and CopyToHost call
// copied with the length of each piece of a file, in bytes, when it is on its way. They
// wait for it, and call it from one goroutine at a time.
func (f *SandboxFSOps) WithProgress(copied func(bytes int)) *SandboxFSOps {
	return &SandboxFSOps{s: f.s, copied: copied}
}

// An FsEntryKind says what an entry of a directory is.
type FsEntryKind string

const (
	FsEntryKindFile      FsEntryKind = "file"
	FsEntryKindDirectory FsEntryKind = "directory"
	FsEntryKindSymlink   FsEntryKind = "symlink"
	FsEntryKindOther     FsEntryKind = "other" // a device, a socket, a pipe
)

// An FsEntry is an entry of a directory. A symbolic link is not followed.
type FsEntry struct {
	Path string // from the guest's root on
	Kind FsEntryKind
	Size int64  // in bytes
	Mode uint32 // permissions, set-id and sticky bits: 07777
}

// An FsStat describes a file or directory. A symbolic link is followed.
type FsStat struct {
	Path    string // as it was asked for
	Size    int64  // in bytes
	Mode    uint32 // permissions, set-id and sticky bits: 07777
	ModTime time.Time
	IsDir   bool
}

// maxRead bounds what Read returns, in bytes: the guest chooses how long a file
// is, and /dev/zero has no end.
const maxRead = 256 << 20

// Read returns the contents of a file of at most 256 MiB. ReadStream has no such
// bound.
func (f *SandboxFSOps) Read(ctx context.Context, p string) ([]byte, error) {
	var text []byte
	err := f.do(ctx, "read", p, func(c *session) error {
		file, err := c.Open(p)
		if err != nil {
			return err
		}
		defer file.Close() // only read
		var buf boundedBuffer
		if _, err := file.WriteTo(&buf); err != nil {
			return err
		}
		text = buf.text
		return nil
	})
	return text, err
}

// A boundedBuffer keeps what is written to it, up to maxRead bytes.
type boundedBuffer struct{ text []byte }

// Write implements io.Writer.
func (b *boundedBuffer) Write(p []byte) (int, error) {
	if len(b.text)+len(p) > maxRead {
		return 0, fmt.Errorf("larger than %d bytes: use ReadStream", maxRead)
	}
	b.text = append(b.text, p...)
	return len(p), nil
}

// ReadString is Read as text.
func (f *SandboxFSOps) ReadString(ctx context.Context, p string) (string, error) {
	text, err := f.Read(ctx, p)
	return string(text), err
}

// Write makes a file, or replaces the contents of one that is there.
func (f *SandboxFSOps) Write(ctx context.Context, p string, data []byte) error {
	return f.do(ctx, "write", p, func(c *session) error {
		file, err := c.Create(p)
		if err != nil {
			return err
		}
		_, err = file.Write(data)
		return errors.Join(err, file.Close())
	})
}

// WriteString is Write with text.
func (f *SandboxFSOps) WriteString(ctx context.Context, p, content string) error {
	return f.Write(ctx, p, []byte(content))
}

// List returns what is in a directory, by name.
func (f *SandboxFSOps) List(ctx context.Context, p string) ([]FsEntry, error) {
	var entries []FsEntry
	err := f.do(ctx, "list", p, func(c *session) error {
		infos, err := c.list(ctx, p)
		for _, info := range infos {
			entries = append(entries, FsEntry{Path: path.Join(p, info.Name()), Kind: entryKind(info.Mode()), Size: info.Size(), Mode: modeBits(info)})
		}
		return err
	})
	slices.SortFunc(entries, func(a, b FsEntry) int { return cmp.Compare(a.Path, b.Path) })
	return entries, err
}

// entryKind returns what an entry of that mode is.
func entryKind(mode fs.FileMode) FsEntryKind {
	switch mode.Type() {
	case 0:
		return FsEntryKindFile
	case fs.ModeDir:
		return FsEntryKindDirectory
	case fs.ModeSymlink:
		return FsEntryKindSymlink
	}
	return FsEntryKindOther
}

// modeBits returns the permissions as Linux has them.
func modeBits(info fs.FileInfo) uint32 {
	if st, ok := info.Sys().(*sftp.FileStat); ok {
		return st.Mode & 0o7777
	}
	return uint32(info.Mode().Perm())
}

// Stat describes a file or directory.
func (f *SandboxFSOps) Stat(ctx context.Context, p string) (*FsStat, error) {
	var st *FsStat
	err := f.do(ctx, "stat", p, func(c *session) error {
		info, err := c.Stat(p)
		if err != nil {
			return err
		}
		st = &FsStat{Path: p, Size: info.Size(), Mode: modeBits(info), ModTime: info.ModTime(), IsDir: info.IsDir()}
		return nil
	})
	return st, err
}

// Exists reports whether there is something at p; a symbolic link that leads
// nowhere is nothing.
func (f *SandboxFSOps) Exists(ctx context.Context, p string) (bool, error) {
	_, err := f.Stat(ctx, p)
	if IsKind(err, ErrPathNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Mkdir makes a directory, with those above it. One that is there stays.
func (f *SandboxFSOps) Mkdir(ctx context.Context, p string) error {
	return f.do(ctx, "make directory", p, func(c *session) error { return c.MkdirAll(p) })
}

// Remove removes a file or a symbolic link, not a directory.
func (f *SandboxFSOps) Remove(ctx context.Context, p string) error {
	return f.do(ctx, "remove", p, func(c *session) error {
		info, err := c.Lstat(p)
		if err != nil {
			return err
		}
		if info.IsDir() {
			return errors.New("is a directory: use RemoveDir")
		}
		return c.Remove(p)
	})
}

// RemoveDir removes a directory with all that is in it. It follows no link.
func (f *SandboxFSOps) RemoveDir(ctx context.Context, p string) error {
	return f.do(ctx, "remove directory", p, func(c *session) error {
		info, err := c.Lstat(p)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return errors.New("is not a directory: use Remove")
		}
		return removeTree(ctx, c, p, 0)
	})
}

// maxDepth bounds how deep a tree of the guest is followed: a path is at most
// 4096 bytes long, and whoever makes a deeper one wants to exhaust us.
const maxDepth = 2048

// removeTree removes a directory of the guest.
func removeTree(ctx context.Context, c *session, dir string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%q is nested too deeply", dir)
	}
	entries, err := c.list(ctx, dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		p := path.Join(dir, e.Name())
		if e.IsDir() {
			err = removeTree(ctx, c, p, depth+1)
		} else {
			err = c.Remove(p)
		}
		if err != nil {
			return err
		}
	}
	return c.RemoveDirectory(dir)
}

// Rename moves a file or directory. A file that is at dst is replaced.
func (f *SandboxFSOps) Rename(ctx context.Context, src, dst string) error {
	return f.do(ctx, "rename", src, func(c *session) error { return c.PosixRename(src, dst) })
}

// do calls op with a session of its own, which ends with ctx.
func (f *SandboxFSOps) do(ctx context.Context, verb, p string, op func(*session) error) error {
	session, err := f.open(ctx, verb, p)
	if err != nil {
		return err
	}
	defer session.close()
	return f.failure(ctx, verb, p, op(session))
}

// A session is a conversation about files.
type session struct {
	*sftp.Client
	release func() bool // lets go of the context that would end it
	stream  *metered
	copied  func(bytes int) // not nil
}

// list returns what is in a directory, which the guest's server may make up.
func (s *session) list(ctx context.Context, dir string) ([]fs.FileInfo, error) {
	s.stream.left.Store(maxListing)
	infos, err := s.ReadDirContext(ctx, dir)
	if s.stream.left.Swap(math.MaxInt64) < 0 {
		return nil, fmt.Errorf("the directory's list is longer than %d bytes", maxListing)
	}
	return infos, err
}

// maxListing bounds the list of one directory as the guest sends it, in bytes: half a
// million names, or one without an end.
const maxListing = 64 << 20

// A metered is the stream of a session. Its reads fail when more has come than may.
type metered struct {
	io.ReadWriteCloser
	left atomic.Int64 // bytes that may come
}

// Read implements io.Reader.
func (m *metered) Read(p []byte) (int, error) {
	n, err := m.ReadWriteCloser.Read(p)
	if m.left.Add(-int64(n)) < 0 {
		return 0, errors.New("more than there may be")
	}
	return n, err
}

// concurrentRequests is how many requests of 32 KiB one transfer may have
// under way: 2 MiB keep a channel busy.
const concurrentRequests = 64

// open begins a session, which ends with ctx at the latest.
func (f *SandboxFSOps) open(ctx context.Context, verb, p string) (*session, error) {
	if err := f.s.usable(verb + " in"); err != nil {
		return nil, err
	}
	if p == "" || !isText(p) {
		return nil, f.failure(ctx, verb, p, &Error{Kind: ErrInvalidArgument, Message: "no path"})
	}
	conn, err := f.s.client.SFTP(ctx)
	if err != nil {
		return nil, f.failure(ctx, verb, p, err)
	}
	stream := &metered{ReadWriteCloser: conn}
	stream.left.Store(math.MaxInt64)
	release := context.AfterFunc(ctx, func() { _ = stream.Close() }) // wakes who waits for an answer
	client, err := sftp.NewClientPipe(stream, stream,
		sftp.UseConcurrentWrites(true), sftp.MaxConcurrentRequestsPerFile(concurrentRequests))
	if err != nil {
		release()
		return nil, f.failure(ctx, verb, p, errors.Join(err, stream.Close()))
	}
	copied := f.copied
	if copied == nil {
		copied = func(int) {}
	}
	return &session{client, release, stream, copied}, nil
}

// close ends the session. What it was used for has had its answers.
func (s *session) close() {
	s.release()
	_ = s.Close()
}

// failure is the error of something that was done with the file at p; nil if err
// is.
func (f *SandboxFSOps) failure(ctx context.Context, verb, p string, err error) error {
	if err == nil {
		return nil
	}
	op := fmt.Sprintf("%s %q in", verb, p)
	var ours *Error
	var theirs *control.Failure
	switch {
	case ctx.Err() != nil:
		err = control.Cause(ctx)
	case errors.As(err, &ours), errors.As(err, &theirs), errors.Is(err, control.ErrGone):
	case errors.Is(err, sftp.ErrSSHFxConnectionLost):
		err = fmt.Errorf("%w: %w", control.ErrGone, err)
	case errors.Is(err, fs.ErrNotExist):
		err = &Error{Kind: ErrPathNotFound, Cause: err}
	default:
		err = &Error{Kind: ErrFilesystem, Cause: err}
	}
	return f.s.failure(op, err)
}

// Copy copies a file of the guest to another path of it, with its permissions.
// It travels through this program.
func (f *SandboxFSOps) Copy(ctx context.Context, src, dst string) error {
	return f.do(ctx, "copy", src, func(c *session) error {
		from, err := c.RealPath(src)
		if err != nil {
			return err
		}
		if to, err := c.RealPath(dst); err == nil && from == to {
			return fmt.Errorf("%q is the same file", dst)
		}
		in, err := c.Open(src)
		if err != nil {
			return err
		}
		defer in.Close() // only read
		info, err := in.Stat()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return errors.New("is not a file")
		}
		return writeGuestFile(c.Client, dst, info.Mode().Perm(), in.WriteTo)
	})
}

// writeGuestFile makes a file of the guest with what fill writes.
func writeGuestFile(c *sftp.Client, p string, perm fs.FileMode, fill func(io.Writer) (int64, error)) error {
	out, err := c.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	if _, err := fill(out); err != nil {
		return errors.Join(err, out.Close())
	}
	return errors.Join(out.Chmod(perm), out.Close())
}
