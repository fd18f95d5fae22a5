package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// Names that layers give a meaning of their own (OCI image layer specification,
// "Whiteouts"). Other names that begin with whiteoutMeta are notes of aufs.
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// Bounds on one path's resolution in a tree. The kernel follows 40 links too.
const (
	maxLinks = 40
	maxSteps = 1024 // names; four times the depth of a tree, links included
)

// An applier applies layers, bottom first, to a tree and to the disk below it.
// It is not for concurrent use.
type applier struct {
	root   *node
	disk   *disk
	limits Limits

	layer    int   // number of the layer at work; the first is 1
	entries  int   // names written so far, in all layers
	metadata int64 // bytes of names, link targets and extended attributes so far
	written  int64 // bytes of files so far
}

// newApplier returns an applier of an image without layers. d stays the
// caller's.
func newApplier(d *disk, limits Limits) *applier {
	return &applier{root: newTree(), disk: d, limits: limits}
}

// apply applies the next layer, the tar archive r, and reads r to its end, which
// may be beyond the archive's. m is what r unpacks. After an error tree and disk
// are of no use.
func (a *applier) apply(ctx context.Context, r io.Reader, m *meter) error {
	a.layer++
	for entries := tar.NewReader(r); ; {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			// Archives are padded to blocks of any size, and the digest is of all.
			_, err := io.Copy(io.Discard, contextReader{ctx, r})
			return err
		}
		// Whether a name leads outside is for us to see, below.
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return m.blame(err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := a.entry(h, &meteredFile{r: entries, m: m, a: a}); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
}

// entry applies one entry, whose content is r.
func (a *applier) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // comments, and defaults that nobody writes
	}
	dir, base, err := splitName(h.Name)
	switch {
	case err != nil:
		return err
	case ignored(h.Name):
		return nil
	case base == "":
		return a.rootEntry(h)
	case strings.HasPrefix(base, whiteoutPrefix):
		return a.whiteout(dir, base)
	}
	// Before anything is kept of it: the bounds are on what an entry may cost.
	if err := a.charge(h); err != nil {
		return err
	}
	i, err := a.newInode(h)
	if err != nil {
		return err
	}
	parent, err := a.directory(dir, true)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeLink {
		return a.hardLink(parent, base, h.Linkname)
	}
	old := parent.children[base]
	if old != nil && old.isDir() && i.kind == tar.TypeDir {
		// The disk learns of it when all is sealed. The inode is new, so that a
		// lower layer's attributes don't shine through.
		old.inode = i
		old.touch(a.layer)
		return nil
	}
	if old != nil { // what isn't a directory before and after replaces, with all that was below
		if err := a.remove(old); err != nil {
			return err
		}
	}
	n, err := a.add(parent, base, i)
	if err != nil {
		return err
	}
	return a.disk.make(n, r)
}

// rootEntry applies an entry for the image's root.
func (a *applier) rootEntry(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return refused("the root of an image is a directory, not type %q", h.Typeflag)
	}
	if err := a.charge(h); err != nil {
		return err
	}
	i, err := a.newInode(h)
	if err != nil {
		return err
	}
	a.root.inode = i
	a.root.touch(a.layer)
	return nil
}

// whiteout applies the whiteout base of the directory dir.
func (a *applier) whiteout(dir, base string) error {
	if err := a.chargeEntry(len(base)); err != nil {
		return err
	}
	target := strings.TrimPrefix(base, whiteoutPrefix)
	if target == "" || target == "." || target == ".." { // it would take away the directory, or the one above
		return refused("a whiteout of %q", target)
	}
	parent, err := a.directory(dir, false)
	if parent == nil || err != nil {
		return err // where there is no directory there is nothing to take away
	}
	// Only what lower layers made: a whiteout may follow, in its own layer, what it
	// makes room for.
	if base == whiteoutOpaque {
		return parent.sweepChildren(a.layer, a.disk.remove)
	}
	if n := parent.children[target]; n != nil {
		return n.sweep(a.layer, a.disk.remove)
	}
	return nil
}

// hardLink makes base in parent another name of what target names.
func (a *applier) hardLink(parent *node, base, target string) error {
	dir, last, err := splitName(target)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	var to *node
	if in, err := a.directory(dir, false); err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	} else if in != nil {
		to = in.children[last]
	}
	// What is in the way is removed only when the link can be made: its target
	// may be what is in the way, or in that.
	old := parent.children[base]
	switch {
	case to == nil:
		return refused("hard link to %q, which the image doesn't have", target)
	case to.isDir():
		return refused("hard link to %q, a directory", target)
	case to == old: // itself: it is there, and this layer says so
		old.touch(a.layer)
		return nil
	case old != nil && to.isBelow(old):
		return refused("hard link to %q, which it replaces", target)
	}
	if old != nil {
		if err := a.remove(old); err != nil {
			return err
		}
	}
	n, err := a.add(parent, base, to.inode)
	if err != nil {
		return err
	}
	n.shared = true
	return a.disk.link(to, n)
}

// directory returns the directory that a path names. Links on the way lead where
// they would lead a process whose root is the image's: never outside. What is
// missing is made if create is set; else the result is nil, as it is where
// something on the way is no directory.
//
// It is a loop over names and not a recursion, so that links that lead through
// links cost steps, which are counted, and no stack.
func (a *applier) directory(path string, create bool) (*node, error) {
	at, todo := a.root, strings.Split(path, "/")
	for steps, links := 0, 0; len(todo) > 0; steps++ {
		name := todo[0]
		todo = todo[1:]
		if steps == maxSteps {
			return nil, refused("more than %d names on the way", maxSteps)
		}
		if name == "" || name == "." {
			continue
		}
		if name == ".." { // of a link's target; entries' own names have none
			if at.parent != nil {
				at = at.parent // above the root is the root
			}
			continue
		}
		next := at.children[name]
		switch {
		case next == nil && !create:
			return nil, nil
		case next == nil:
			var err error
			if next, err = a.implicit(at, name); err != nil {
				return nil, err
			}
		case next.kind == tar.TypeSymlink:
			if links++; links > maxLinks {
				return nil, refused("more than %d symbolic links on the way", maxLinks)
			}
			// A relative target counts from where the link is, which at still is.
			if strings.HasPrefix(next.link, "/") {
				at = a.root
			}
			todo = append(strings.Split(next.link, "/"), todo...)
			continue
		case !next.isDir() && !create:
			return nil, nil
		case !next.isDir():
			return nil, refused("%q on the way is no directory", next.path())
		}
		at = next
	}
	return at, nil
}

// implicit makes a directory that no entry describes.
func (a *applier) implicit(parent *node, name string) (*node, error) {
	if err := a.chargeEntry(len(name)); err != nil {
		return nil, err
	}
	n, err := a.add(parent, name, implicitDir())
	if err != nil {
		return nil, err
	}
	return n, a.disk.make(n, nil)
}

// add puts a name into the tree if its path is within bounds.
func (a *applier) add(parent *node, name string, i *inode) (*node, error) {
	switch {
	case len(name) > 255:
		return nil, refused("a name of %d bytes; 255 are the most", len(name))
	case strings.HasPrefix(name, whiteoutPrefix):
		// No layer can remove it again, and to others it is a whiteout.
		return nil, refused("%q within a path", name)
	case strings.ContainsRune(name, 0):
		return nil, refused("a name with a NUL")
	case parent.pathLen+1+len(name) > a.limits.PathBytes:
		return nil, refused("a path of %d bytes; %d are the most", parent.pathLen+1+len(name), a.limits.PathBytes)
	case parent.depth >= a.limits.Depth:
		return nil, refused("more than %d directories in a path", a.limits.Depth)
	}
	return parent.add(name, i, a.layer), nil
}

// remove takes a name, and all below it, out of disk and tree.
func (a *applier) remove(n *node) error {
	if err := a.disk.remove(n); err != nil {
		return err
	}
	n.detach()
	return nil
}

// splitName returns the directory and the last name of an entry's name, which
// is relative to the image's root however it begins; base is "" for the root.
func splitName(name string) (dir, base string, err error) {
	var names []string
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			return "", "", refused("a name with %q", "..")
		default:
			names = append(names, part)
		}
	}
	if len(names) == 0 {
		return "", "", nil
	}
	last := len(names) - 1
	return strings.Join(names[:last], "/"), names[last], nil
}

// ignored reports whether a name is among aufs's notes, which are no part of an
// image.
func ignored(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, whiteoutMeta) && part != whiteoutOpaque {
			return true
		}
	}
	return false
}

// newInode returns what a header describes. Hard links have an inode already,
// but what their header says must be sound all the same.
func (a *applier) newInode(h *tar.Header) (*inode, error) {
	i := &inode{
		kind:  h.Typeflag,
		mode:  uint32(h.Mode) & 0o7777,
		uid:   uint32(h.Uid),
		gid:   uint32(h.Gid),
		mtime: clampTime(h.ModTime),
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > maxID || int64(h.Gid) > maxID {
		return nil, refused("owner %d:%d; ids are 0 to %d", h.Uid, h.Gid, uint32(maxID))
	}
	// By type, and nothing that a type doesn't have is taken over: the rest of a
	// header may hold anything.
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		// The size of a sparse file is what it expands to.
		i.kind = tar.TypeReg
		if h.Size > a.limits.ImageBytes-a.written {
			return nil, refused("%d bytes; the image's files may have %d", h.Size, a.limits.ImageBytes)
		}
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > a.limits.PathBytes || strings.ContainsRune(h.Linkname, 0) {
			return nil, refused("a symbolic link to %q", abbreviated(h.Linkname))
		}
		i.link = h.Linkname
		i.mode = 0o777 // what Linux gives every symbolic link
	case tar.TypeChar, tar.TypeBlock:
		// Linux packs them into 12 and 20 bits (makedev(3)).
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return nil, refused("device %d:%d; Linux has up to 4095:1048575", h.Devmajor, h.Devminor)
		}
		i.major, i.minor = h.Devmajor, h.Devminor
	case tar.TypeDir, tar.TypeFifo, tar.TypeLink:
	default:
		return nil, refused("type %q", h.Typeflag)
	}
	return i, a.readXattrs(i, h)
}

// abbreviated returns s, or its begin if it is long.
func abbreviated(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

// paxXattr is how PAX records name extended attributes, as star, GNU tar and
// libarchive write them.
const paxXattr = "SCHILY.xattr."

// readXattrs sets i's extended attributes from the header.
func (a *applier) readXattrs(i *inode, h *tar.Header) error {
	size := 0
	// Which of them a file gets is the disk's to decide; the record has all.
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		size += len(name) + len(value)
		if name == "" || len(name) > 255 || strings.ContainsRune(name, 0) {
			return refused("an extended attribute %q", abbreviated(name))
		}
		if i.xattrs == nil {
			i.xattrs = make(map[string]string)
		}
		i.xattrs[name] = value
	}
	if size > a.limits.XattrBytes {
		return refused("%d bytes of extended attributes; %d are the most", size, a.limits.XattrBytes)
	}
	return nil
}

// latest is the last second whose nanoseconds fit into 64 bits, as package os
// needs them (2262-04-11). ext4 goes to 2446.
const latest = math.MaxInt64 / int64(time.Second)

// clampTime returns t, or the nearest time that a file can have: a header may say
// any.
func clampTime(t time.Time) time.Time {
	if t.Unix() < 0 {
		return time.Unix(0, 0)
	}
	if t.Unix() > latest {
		return time.Unix(latest, 0)
	}
	return t
}

// charge counts an entry, and what of it stays in memory, against the limits.
func (a *applier) charge(h *tar.Header) error {
	bytes := len(h.Name) + len(h.Linkname)
	for key, value := range h.PAXRecords {
		bytes += len(key) + len(value)
	}
	return a.chargeEntry(bytes)
}

// chargeEntry is charge for an entry with so many bytes of metadata.
func (a *applier) chargeEntry(bytes int) error {
	a.entries++
	a.metadata += int64(bytes)
	switch {
	case a.entries > a.limits.Entries:
		return refused("more than %d entries in the image", a.limits.Entries)
	case a.metadata > a.limits.MetadataBytes:
		return refused("more than %d bytes of names, links and attributes in the image", a.limits.MetadataBytes)
	}
	return nil
}

// A meteredFile is the content of an entry. What a sparse entry expands to is in
// no stream, so the meter must see it here.
type meteredFile struct {
	r io.Reader
	m *meter
	a *applier
}

// Read reads from the entry as far as the bound on the ratio allows. That on the
// image's bytes was seen to by newInode: an entry has what its header says.
func (f *meteredFile) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	f.a.written += int64(n) // a short archive has less than its headers say
	if err := f.m.expand(int64(n)); err != nil {
		return n, err
	}
	return n, f.m.blame(err)
}
