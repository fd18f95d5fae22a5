package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// A disk is the directory that follows a tree. Every path it uses comes from the
// tree, so there is no link on the way, and goes through an os.Root; every name it
// makes must be new. It is not for concurrent use.
//
// Per platform, makeFIFO makes a FIFO in a directory, setXattr sets an extended
// attribute of an open file, and syncTree puts what was written to a file system
// on its disk. Where one of the first two can't, its error matches
// errors.ErrUnsupported, and the record alone has what it should have made.
type disk struct {
	root   *os.Root
	owners *Owners
	self   [2]int // ids of this process, and of what has no owner
	// keepReadable adds what its owner needs to read a file to every mode:
	// without privilege WriteTar could not read it otherwise.
	keepReadable bool

	at    *node    // the directory that atDir is; nil at first
	atDir *os.Root // archives go directory by directory, so the last is kept open
	buf   []byte
}

// newDisk returns the disk for the empty directory root, which stays the
// caller's.
func newDisk(root *os.Root, owners *Owners) *disk {
	euid := os.Geteuid()
	return &disk{root: root, owners: owners, self: [2]int{euid, os.Getegid()}, keepReadable: euid != 0, buf: make([]byte, 128<<10)}
}

// close lets go of what the disk holds open.
func (d *disk) close() {
	if d.atDir != nil {
		d.atDir.Close()
	}
	d.at, d.atDir = nil, nil
}

// in returns the directory that n is in. It is valid until the next call.
func (d *disk) in(n *node) (*os.Root, error) {
	if d.at == n.parent {
		return d.atDir, nil
	}
	dir, err := d.root.OpenRoot(n.parent.path())
	if err != nil {
		return nil, err
	}
	d.close()
	d.at, d.atDir = n.parent, dir
	return dir, nil
}

// make makes what n is; content is a regular file's. A directory gets its owner,
// mode and time when all is done: see seal.
func (d *disk) make(n *node, content io.Reader) error {
	dir, err := d.in(n)
	if err != nil {
		return err
	}
	switch n.kind {
	case tar.TypeDir:
		err = dir.Mkdir(n.name, 0o700) // its own mode may be without write permission
	case tar.TypeReg:
		err = d.file(dir, n, content)
	case tar.TypeSymlink:
		err = d.symlink(dir, n)
	case tar.TypeFifo:
		err = d.fifo(dir, n)
	}
	return d.clash(n, err)
}

// link makes n another name of what the name to stands for.
func (d *disk) link(to, n *node) error {
	if n.kind == tar.TypeChar || n.kind == tar.TypeBlock {
		return nil // there is nothing on the disk
	}
	err := d.root.Link(to.path(), n.path())
	if n.kind == tar.TypeFifo && errors.Is(err, os.ErrNotExist) {
		return nil // FIFOs can't be made here
	}
	return d.clash(n, err)
}

// clash explains that a name is there which the tree doesn't have.
func (d *disk) clash(n *node, err error) error {
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("the cache's file system takes %q for another name of the image: keep the cache on one that tells upper case from lower (%v)", n.path(), err)
	}
	return err
}

// remove removes n with all below it.
func (d *disk) remove(n *node) error {
	dir, err := d.in(n)
	if err != nil {
		return err
	}
	return dir.RemoveAll(n.name)
}

// file makes a regular file.
func (d *disk) file(dir *os.Root, n *node, content io.Reader) error {
	f, err := dir.OpenFile(n.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	// The file is not asked to read from content by itself: buf is larger than
	// what it would take, and used again.
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, content, d.buf)
	if err == nil {
		err = d.describe(dir, n.name, f, n.inode)
	}
	return errors.Join(err, f.Close())
}

// describe gives an open file or directory, name in dir, the owner, attributes,
// time and mode of i, in the order in which they don't undo each other.
func (d *disk) describe(dir *os.Root, name string, f *os.File, i *inode) error {
	uid, gid, mode := d.standing(i)
	// A change of owner takes set-id bits and capabilities away, so it is first;
	// a mode may keep even its owner from what comes before it, so it is last.
	if err := f.Chown(uid, gid); err != nil {
		return d.explainOwner(i, err)
	}
	for key, value := range i.xattrs {
		err := errors.ErrUnsupported
		if d.mayHold(key, i) {
			err = setXattr(f, key, value)
		}
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return fmt.Errorf("set attribute %q: %w", key, err)
		}
		i.xattrsUnset = i.xattrsUnset || err != nil
	}
	if err := dir.Chtimes(name, i.mtime, i.mtime); err != nil {
		return err
	}
	return f.Chmod(mode)
}

// standing returns the owner and the mode that i has on the disk.
func (d *disk) standing(i *inode) (uid, gid int, mode os.FileMode) {
	mode = os.FileMode(i.mode & 0o777)
	if i.mode&0o1000 != 0 {
		mode |= os.ModeSticky
	}
	uid, gid = d.self[0], d.self[1]
	if host, ok := d.owners.uid(i.uid); ok {
		uid = int(host)
		if i.mode&0o4000 != 0 {
			mode |= os.ModeSetuid
		}
	}
	if host, ok := d.owners.gid(i.gid); ok {
		gid = int(host)
		if i.mode&0o2000 != 0 {
			mode |= os.ModeSetgid
		}
	}
	if d.keepReadable {
		mode |= 0o400
		if i.kind == tar.TypeDir {
			mode |= 0o100
		}
	}
	return uid, gid, mode
}

// explainOwner says what to do when an owner can't be set.
func (d *disk) explainOwner(i *inode, err error) error {
	return fmt.Errorf("give it the owner %d:%d: %w: this process may give only ids that its user namespace has, with CAP_CHOWN", i.uid, i.gid, err)
}

// mayHold reports whether an extended attribute may be set on the disk. What is
// overlayfs's own would make it look elsewhere; what is a security module's
// would tell the host's; access lists hold ids that nobody has mapped; and a
// capability is root's, which in another user's file it must not be.
func (d *disk) mayHold(key string, i *inode) bool {
	if key == "security.capability" {
		root, ok := d.owners.uid(0)
		return ok && root == 0 && d.self[0] == 0 && i.kind == tar.TypeReg
	}
	return strings.HasPrefix(key, "user.") && !strings.HasPrefix(key, "user.overlay.")
}

// symlink makes a symbolic link. Its mode is the system's, its time of no use to
// anybody.
func (d *disk) symlink(dir *os.Root, n *node) error {
	if err := dir.Symlink(n.link, n.name); err != nil {
		return err
	}
	uid, gid, _ := d.standing(n.inode)
	n.xattrsUnset = len(n.xattrs) > 0
	if err := dir.Lchown(n.name, uid, gid); err != nil {
		return d.explainOwner(n.inode, err)
	}
	return nil
}

// fifo makes a FIFO where that is possible.
func (d *disk) fifo(dir *os.Root, n *node) error {
	uid, gid, mode := d.standing(n.inode)
	n.xattrsUnset = len(n.xattrs) > 0
	err := makeFIFO(dir, n.name)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := dir.Lchown(n.name, uid, gid); err != nil {
		return d.explainOwner(n.inode, err)
	}
	if err := dir.Chtimes(n.name, n.mtime, n.mtime); err != nil {
		return err
	}
	return dir.Chmod(n.name, mode)
}

// seal gives every directory its owner, mode and time, children before parents.
// After it nothing more can be made.
func (d *disk) seal(root *node) error {
	d.close()
	return d.sealBelow(d.root, root)
}

func (d *disk) sealBelow(dir *os.Root, n *node) error {
	for _, child := range n.sorted() {
		if !child.isDir() {
			continue
		}
		sub, err := dir.OpenRoot(child.name)
		if err != nil {
			return err
		}
		err = d.sealBelow(sub, child)
		sub.Close()
		if err != nil {
			return err
		}
	}
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := d.describe(dir, ".", f, n.inode); err != nil {
		return fmt.Errorf("directory %q: %w", n.path(), err)
	}
	return nil
}

// removeTree removes a directory and all below it, which may have modes that
// keep their own owner out.
func removeTree(path string) error {
	err := os.RemoveAll(path)
	if !errors.Is(err, os.ErrPermission) {
		return err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	err = openModes(root)
	root.Close()
	if err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// openModes lets their owner into dir and all directories below it.
func openModes(dir *os.Root) error {
	if err := dir.Chmod(".", 0o700); err != nil {
		return err
	}
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	f.Close()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := dir.Chmod(e.Name(), 0o700); err != nil { // or it can't be opened
			return err
		}
		sub, err := dir.OpenRoot(e.Name())
		if err != nil {
			return err
		}
		err = openModes(sub)
		sub.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
