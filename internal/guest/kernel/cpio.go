package kernel

import (
	"fmt"
	"io"
	"io/fs"
)

// A cpioWriter writes a cpio archive in the "newc" format, the only one that the
// kernel unpacks: https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
// All files belong to root and are of the epoch, so that equal contents give equal
// archives.
type cpioWriter struct {
	w     io.Writer
	inode uint32
	size  int64 // bytes written
	err   error // the first of a write; all that follow do nothing
}

// Bits of a mode that say what a file is (stat.h).
const (
	cpioDirectory = 0o040000
	cpioRegular   = 0o100000
	cpioCharacter = 0o020000
)

// directory adds a directory. Its parent must have been added, or be the root.
func (c *cpioWriter) directory(name string, mode fs.FileMode) {
	c.entry(name, cpioDirectory|uint32(mode.Perm()), 0, 0, 0)
}

// device adds a character device.
func (c *cpioWriter) device(name string, mode fs.FileMode, major, minor uint32) {
	c.entry(name, cpioCharacter|uint32(mode.Perm()), 0, major, minor)
}

// file adds a file with size bytes of r.
func (c *cpioWriter) file(name string, mode fs.FileMode, r io.Reader, size int64) {
	if size > 1<<32-1 { // the field's eight digits
		c.err = fmt.Errorf("%q is too large for an initramfs", name)
		return
	}
	c.entry(name, cpioRegular|uint32(mode.Perm()), uint32(size), 0, 0)
	if c.err == nil {
		var n int64
		n, c.err = io.CopyN(c.w, r, size)
		c.size += n
	}
	c.pad()
}

// close writes the archive's end and returns the first error.
func (c *cpioWriter) close() error {
	c.entry("TRAILER!!!", 0, 0, 0, 0)
	return c.err
}

// entry writes a header and a name.
func (c *cpioWriter) entry(name string, mode, size, major, minor uint32) {
	if c.err != nil {
		return
	}
	c.inode++
	const links, modified = 1, 0
	var n int
	n, c.err = fmt.Fprintf(c.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.inode, mode, 0, 0, links, modified, size, 0, 0, major, minor, len(name)+1, 0, name)
	c.size += int64(n)
	c.pad()
}

// pad writes zeros up to a multiple of four bytes.
func (c *cpioWriter) pad() {
	if rest := c.size % 4; rest != 0 && c.err == nil {
		_, c.err = c.w.Write(make([]byte, 4-rest))
		c.size += 4 - rest
	}
}
