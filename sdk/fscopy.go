package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/pkg/sftp"
)

// CopyFromHost copies a file of the host to the path guest, with its permissions;
// or a directory with all that is in it, symbolic links as they are.
func (f *SandboxFSOps) CopyFromHost(ctx context.Context, host, guest string) error {
	info, err := os.Stat(host)
	if err != nil {
		return f.hostFailure("copy", host, err)
	}
	return f.do(ctx, "copy to", guest, func(c *session) error {
		if !info.IsDir() {
			return sendFile(c, host, guest)
		}
		return filepath.WalkDir(host, func(p string, e fs.DirEntry, err error) error {
			if err != nil {
				return hostError(err)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			rel, err := filepath.Rel(host, p)
			if err != nil {
				return err
			}
			return sendEntry(c, p, path.Join(guest, filepath.ToSlash(rel)), e)
		})
	})
}

// sendEntry copies one entry of a directory of the host.
func sendEntry(c *session, host, guest string, e fs.DirEntry) error {
	switch {
	case e.IsDir():
		return c.MkdirAll(guest)
	case e.Type().IsRegular():
		return sendFile(c, host, guest)
	case e.Type() != fs.ModeSymlink:
		return &Error{Kind: ErrIO, Message: fmt.Sprintf("%q is neither file nor directory", host)}
	}
	target, err := os.Readlink(host)
	if err != nil {
		return hostError(err)
	}
	if err := c.Remove(guest); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return c.Symlink(target, guest)
}

// sendFile copies a file of the host.
func sendFile(c *session, host, guest string) error {
	in, err := os.Open(host)
	if err != nil {
		return hostError(err)
	}
	defer in.Close() // only read
	info, err := in.Stat()
	if err != nil {
		return hostError(err)
	}
	return writeGuestFile(c.Client, guest, info.Mode().Perm(), func(w io.Writer) (int64, error) {
		// The guest's file reads, and so has many writes under way.
		return w.(io.ReaderFrom).ReadFrom(countedFile{in, c.copied})
	})
}

// A countedFile tells of what is read from, or written to, a file. Package sftp asks it
// for the file's size, by which it chooses how many pieces are under way at once.
type countedFile struct {
	*os.File
	copied func(bytes int)
}

// Read implements io.Reader.
func (f countedFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	f.copied(n)
	return n, err
}

// Write implements io.Writer.
func (f countedFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.copied(n)
	return n, err
}

// CopyToHost copies a file of the guest to the path host, with its permissions;
// or a directory with all that is in it, symbolic links as they are. Nothing is
// written outside host, whatever the guest calls its files.
func (f *SandboxFSOps) CopyToHost(ctx context.Context, guest, host string) error {
	return f.do(ctx, "copy", guest, func(c *session) error {
		info, err := c.Stat(guest)
		if err != nil {
			return err
		}
		switch entryKind(info.Mode()) {
		case FsEntryKindDirectory:
		case FsEntryKindFile:
			dir, name := filepath.Split(host)
			if dir == "" {
				dir = "."
			}
			return inHostDir(dir, func(root *os.Root) error { return receiveFile(c, guest, root, name, info) })
		default: // a FIFO would be waited for
			return fmt.Errorf("%q is neither file nor directory", guest)
		}
		if err := os.MkdirAll(host, 0o777); err != nil {
			return hostError(err)
		}
		return inHostDir(host, func(root *os.Root) error { return receiveTree(ctx, c, guest, root, ".", 0) })
	})
}

// inHostDir calls do with a directory of the host.
func inHostDir(dir string, do func(*os.Root) error) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return hostError(err)
	}
	defer root.Close() // nothing was written to the directory itself
	return do(root)
}

// receiveTree copies what is in a directory of the guest to the directory dir
// below root.
func receiveTree(ctx context.Context, c *session, guest string, root *os.Root, dir string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%q is nested too deeply", guest)
	}
	entries, err := c.list(ctx, guest)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != path.Base(e.Name()) || !filepath.IsLocal(e.Name()) || filepath.Base(e.Name()) != e.Name() {
			return fmt.Errorf("%q can't be a file's name", e.Name())
		}
		from, to := path.Join(guest, e.Name()), filepath.Join(dir, e.Name())
		switch entryKind(e.Mode()) {
		case FsEntryKindDirectory:
			if err := root.MkdirAll(to, 0o777); err != nil {
				return hostError(err)
			}
			err = receiveTree(ctx, c, from, root, to, depth+1)
		case FsEntryKindFile:
			err = receiveFile(c, from, root, to, e)
		case FsEntryKindSymlink:
			err = receiveLink(c.Client, from, root, to)
		default:
			err = fmt.Errorf("%q is neither file, directory nor symbolic link", from)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// receiveLink copies a symbolic link of the guest, wherever it leads.
func receiveLink(c *sftp.Client, guest string, root *os.Root, host string) error {
	target, err := c.ReadLink(guest)
	if err != nil {
		return err
	}
	if err := root.Remove(host); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return hostError(err)
	}
	return hostError(root.Symlink(target, host))
}

// receiveFile copies a file of the guest, without its set-id bits.
func receiveFile(c *session, guest string, root *os.Root, host string, info fs.FileInfo) error {
	in, err := c.Open(guest)
	if err != nil {
		return err
	}
	defer in.Close() // only read
	out, err := root.OpenFile(host, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, info.Mode().Perm()|0o200)
	if err != nil {
		return hostError(err)
	}
	if _, err := in.WriteTo(countedFile{out, c.copied}); err != nil {
		return errors.Join(err, out.Close())
	}
	if err := out.Close(); err != nil {
		return hostError(err)
	}
	return hostError(root.Chmod(host, info.Mode().Perm()))
}

// hostError marks an error as one of the host's files; nil if err is.
func hostError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return &Error{Kind: ErrPathNotFound, Cause: err}
	}
	return &Error{Kind: ErrIO, Cause: err}
}

// hostFailure is the error of something that was done with a file of the host.
func (f *SandboxFSOps) hostFailure(verb, p string, err error) error {
	return f.s.failure(fmt.Sprintf("%s %q to", verb, p), hostError(err))
}
