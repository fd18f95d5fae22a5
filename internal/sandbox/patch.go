package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/pkg/sftp"

	"github.com/sluicenet/sluice/internal/control"
)

// A Patch is a change of the guest's root that is made before its first command.
//
// The agent's file server makes it, inside the guest: so it is the same on every
// backend, and no link in the root leads out of it.
type Patch struct {
	Kind    PatchKind
	Path    string  // in the guest, absolute
	Content string  // of PatchText and PatchAppend
	Mode    *uint32 // permissions as chmod(2) has them; nil is 0644, 0755 for a directory, or the source's
	Replace bool    // what is there may be replaced; else it is an error
	Source  string  // on the host: of PatchCopyFile and PatchCopyDir
	Target  string  // what a link leads to: of PatchSymlink
}

// A PatchKind says what a patch does.
type PatchKind string

// The kinds of patches. All make the directories above their path.
const (
	PatchText     PatchKind = "text"      // write a file
	PatchAppend   PatchKind = "append"    // add to a file, which must be there
	PatchMkdir    PatchKind = "mkdir"     // make a directory; one that is there stays
	PatchRemove   PatchKind = "remove"    // remove all that is at the path; nothing is no error
	PatchSymlink  PatchKind = "symlink"   // make a symbolic link
	PatchCopyFile PatchKind = "copy_file" // copy a file of the host
	PatchCopyDir  PatchKind = "copy_dir"  // copy a directory of the host with all that is in it
)

// patch applies the configuration's patches, in their order.
func (s *Sandbox) patch(ctx context.Context) error {
	if len(s.cfg.Patches) == 0 {
		return nil
	}
	stream, err := s.agent.SFTP(ctx)
	if err != nil {
		return startFailure("patch root", err)
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { _ = stream.Close() }) // ends what waits
	defer stop()
	files, err := sftp.NewClientPipe(stream, stream)
	if err != nil {
		return startFailure("patch root", err)
	}
	defer files.Close()
	for i, p := range s.cfg.Patches {
		if err := p.apply(patchRoot{files}); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return &control.Failure{Kind: control.KindPatchFailed, Message: fmt.Sprintf("WithPatches[%d]: %s %q: %v", i, p.Kind, p.Path, err)}
		}
	}
	return nil
}

// A patchRoot is the guest's root.
type patchRoot struct{ *sftp.Client }

// apply makes the change.
func (p Patch) apply(root patchRoot) error {
	if p.Kind == PatchRemove {
		return root.clear(p.Path)
	}
	if p.Kind == PatchAppend {
		return root.append(p.Path, p.Content)
	}
	if p.Kind == PatchMkdir {
		return root.mkdir(p.Path, p.Mode)
	}
	if err := root.MkdirAll(path.Dir(p.Path)); err != nil {
		return fmt.Errorf("make %s: %w", path.Dir(p.Path), err)
	}
	if _, err := root.Lstat(p.Path); err == nil {
		if !p.Replace {
			return fmt.Errorf("something is there: %w", fs.ErrExist)
		}
		if err := root.clear(p.Path); err != nil {
			return err
		}
	}
	switch p.Kind {
	case PatchText:
		return root.write(p.Path, p.mode(0o644), func(w io.Writer) error {
			_, err := io.WriteString(w, p.Content)
			return err
		})
	case PatchSymlink:
		return root.Symlink(p.Target, p.Path)
	case PatchCopyFile:
		return p.copyFile(root)
	case PatchCopyDir:
		return p.copyDir(root)
	}
	return fmt.Errorf("no such patch: %w", errors.ErrUnsupported)
}

// mode returns the permissions of what the patch makes.
func (p Patch) mode(unless fs.FileMode) fs.FileMode {
	if p.Mode == nil {
		return unless
	}
	return fileMode(*p.Mode)
}

// fileMode returns permissions of chmod(2) as Go has them.
func fileMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= flag
		}
	}
	return mode
}

// clear removes all that is at name; nothing is no error.
func (r patchRoot) clear(name string) error {
	info, err := r.Lstat(name)
	if err != nil {
		return removed(err)
	}
	if info.IsDir() {
		return r.RemoveAll(name)
	}
	return r.Remove(name)
}

// append adds to a file that is there.
func (r patchRoot) append(name, content string) error {
	info, err := r.Stat(name)
	if err != nil {
		return err
	}
	f, err := r.OpenFile(name, os.O_WRONLY)
	if err != nil {
		return err
	}
	// The end, not O_APPEND: what a server makes of that is its own affair.
	_, err = f.WriteAt([]byte(content), info.Size())
	return errors.Join(err, f.Close())
}

// mkdir makes a directory and those above it.
func (r patchRoot) mkdir(name string, mode *uint32) error {
	if err := r.MkdirAll(name); err != nil {
		return err
	}
	if mode == nil {
		return nil
	}
	return r.Chmod(name, fileMode(*mode))
}

// write makes a new file.
func (r patchRoot) write(name string, mode fs.FileMode, fill func(io.Writer) error) error {
	f, err := r.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(f), f.Close()); err != nil {
		return err
	}
	return r.Chmod(name, mode)
}

// copyFile copies a file of the host, where links are followed: the user named
// it.
func (p Patch) copyFile(root patchRoot) error {
	f, err := os.Open(p.Source)
	if err != nil {
		return err
	}
	defer f.Close()
	return p.copyOpen(root, f, p.Path)
}

// copyOpen copies an open file to name.
func (p Patch) copyOpen(root patchRoot, f fs.File, name string) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no file but %v", info.Name(), info.Mode().Type())
	}
	mode := info.Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	return root.write(name, p.mode(mode), func(w io.Writer) error {
		_, err := io.Copy(w, f)
		return err
	})
}

// copyDir copies a directory of the host. Links in it are copied as links, and
// none is followed: what is below the directory is copied, and nothing else.
func (p Patch) copyDir(root patchRoot) error {
	source, err := os.OpenRoot(p.Source)
	if err != nil {
		return err
	}
	defer source.Close()
	p.Mode = nil // the files' own
	return fs.WalkDir(source.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := path.Join(p.Path, name)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			mode := uint32(info.Mode().Perm())
			return root.mkdir(to, &mode)
		case d.Type() == fs.ModeSymlink:
			target, err := source.Readlink(name)
			if err != nil {
				return err
			}
			return root.Symlink(target, to)
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is no file, directory or link but %v", name, d.Type())
		}
		f, err := source.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		return p.copyOpen(root, f, to)
	})
}
