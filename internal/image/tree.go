package image

import (
	"archive/tar"
	"maps"
	"slices"
	"strings"
	"time"
)

// A node is a name in an image: what the layers applied so far put there. A
// name with its inode is to the tree what it is to a file system, and hard links
// are nodes that share an inode.
//
// The three numbers make whiteouts cheap however often a layer repeats them.
// Layers count from 1.
type node struct {
	*inode
	name     string
	parent   *node // nil for the root
	children map[string]*node
	depth    int // directories above it
	pathLen  int // bytes of its path

	wrote int // the last layer that put this name here
	below int // the last layer that put anything at or below it
	swept int // below it are only names of this layer, as long as it lasts
}

// An inode is what a name stands for.
type inode struct {
	kind         byte // a type of archive/tar
	mode         uint32
	uid, gid     uint32
	mtime        time.Time
	link         string // target of a symbolic link
	major, minor int64  // of a device
	xattrs       map[string]string
	shared       bool // more than one name has stood for it
	xattrsUnset  bool // the disk doesn't have all of xattrs
}

// newTree returns the root of an empty image.
func newTree() *node {
	return &node{inode: implicitDir()}
}

// implicitDir returns the inode of a directory that no entry describes.
func implicitDir() *inode {
	return &inode{kind: tar.TypeDir, mode: 0o755, mtime: time.Unix(0, 0)}
}

func (n *node) isDir() bool { return n.kind == tar.TypeDir }

// path returns the path from the root, "." for the root.
func (n *node) path() string {
	if n.parent == nil {
		return "."
	}
	names := make([]string, 0, n.depth+1)
	for ; n.parent != nil; n = n.parent {
		names = append(names, n.name)
	}
	slices.Reverse(names)
	return strings.Join(names, "/")
}

// add puts a name for i into the directory n.
func (n *node) add(name string, i *inode, layer int) *node {
	child := &node{inode: i, name: name, parent: n, depth: n.depth + 1, pathLen: n.pathLen + 1 + len(name), swept: layer}
	if n.children == nil {
		n.children = make(map[string]*node)
	}
	n.children[name] = child
	child.touch(layer)
	return child
}

// touch notes that layer wrote the name.
func (n *node) touch(layer int) {
	n.wrote = layer
	for ; n != nil && n.below < layer; n = n.parent {
		n.below = layer
	}
}

// detach takes the name, and all below it, out of the tree.
func (n *node) detach() { delete(n.parent.children, n.name) }

// isBelow reports whether n is dir or lies in it.
func (n *node) isBelow(dir *node) bool {
	for ; n != nil; n = n.parent {
		if n == dir {
			return true
		}
	}
	return false
}

// sweep takes away what layers lower than layer put at and below n, as a
// whiteout in layer does. remove is called for each name that goes with all below
// it, before it goes. A directory that stays only for what layer put into it is
// one that no entry describes.
func (n *node) sweep(layer int, remove func(*node) error) error {
	if n.below < layer {
		if err := remove(n); err != nil {
			return err
		}
		n.detach()
		return nil
	}
	if err := n.sweepChildren(layer, remove); err != nil {
		return err
	}
	if n.wrote < layer {
		n.inode = implicitDir()
		n.wrote = layer
	}
	return nil
}

// sweepChildren is sweep for all that n contains, as an opaque whiteout asks.
func (n *node) sweepChildren(layer int, remove func(*node) error) error {
	if n.swept == layer {
		return nil
	}
	for _, child := range n.sorted() {
		if err := child.sweep(layer, remove); err != nil {
			return err
		}
	}
	n.swept = layer
	return nil
}

// sorted returns the children by name.
func (n *node) sorted() []*node {
	return slices.SortedFunc(maps.Values(n.children), func(a, b *node) int { return strings.Compare(a.name, b.name) })
}

// walk calls visit for n and all below it, each directory before its children.
func (n *node) walk(visit func(*node) error) error {
	if err := visit(n); err != nil {
		return err
	}
	for _, child := range n.sorted() {
		if err := child.walk(visit); err != nil {
			return err
		}
	}
	return nil
}
