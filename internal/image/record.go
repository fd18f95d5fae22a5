package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Names in the directory of an unpacked image.
const (
	rootName   = "root"         // what becomes a guest's root
	recordName = "tree.tar.zst" // a tar of all headers, in WriteTar's order, with sizes of 0
	infoName   = "info.json"    // see rootInfo
)

// writeRecord writes the headers of all that is below root, compressed, and
// counts what only they have.
func writeRecord(w io.Writer, root *node, owners *Owners) (rootInfo, error) {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return rootInfo{}, err
	}
	// Headers without content: a format that needs no parser of its own, and
	// that "zstd -dc tree.tar.zst | tar tv" shows.
	out := tar.NewWriter(z)
	var info rootInfo
	first := make(map[*inode]string) // the paths of inodes that have several
	err = root.walk(func(n *node) error {
		h := n.header()
		if path, ok := first[n.inode]; ok {
			h = &tar.Header{Format: tar.FormatPAX, Typeflag: tar.TypeLink, Name: h.Name, Linkname: path}
		} else {
			info.count(n.inode, owners)
			if n.shared {
				first[n.inode] = h.Name
			}
		}
		info.Entries++
		return out.WriteHeader(h)
	})
	if err != nil {
		return rootInfo{}, errors.Join(err, z.Close())
	}
	return info, errors.Join(out.Close(), z.Close())
}

// header returns what a tar says of the node. Sizes are not known here.
func (n *node) header() *tar.Header {
	h := &tar.Header{
		Format:   tar.FormatPAX,
		Typeflag: n.kind,
		Name:     n.path(),
		Linkname: n.link,
		Mode:     int64(n.mode),
		Uid:      int(n.uid),
		Gid:      int(n.gid),
		ModTime:  n.mtime,
		Devmajor: n.major,
		Devminor: n.minor,
	}
	if n.isDir() {
		h.Name += "/" // as every tar writes them
	}
	for key, value := range n.xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string, len(n.xattrs))
		}
		h.PAXRecords[paxXattr+key] = value
	}
	return h
}

// A rootInfo is what is kept about an unpacked image.
type rootInfo struct {
	Entries int `json:"entries"` // names, the root included
	// What of the image's files only the record has.
	Recorded Recorded `json:"recorded"`
	// Bytes is what the layers' files had, those that later layers removed
	// included.
	Bytes int64 `json:"bytes"`
}

// Recorded counts what an unpacked image's root lacks, for want of privilege or
// by choice. [Image.WriteTar] has all of it.
type Recorded struct {
	Owners  int `json:"owners"`  // files that belong to the unpacking process instead of their owner
	Devices int `json:"devices"` // device nodes, none of which is made
	Xattrs  int `json:"xattrs"`  // files without some extended attribute
}

// readRootInfo returns what is kept about the unpacked image in a directory.
func readRootInfo(dir string) (rootInfo, error) {
	var info rootInfo
	text, err := os.ReadFile(filepath.Join(dir, infoName))
	if err == nil {
		err = json.Unmarshal(text, &info)
	}
	if err != nil {
		return rootInfo{}, fmt.Errorf("read what is known of the image: %w", err)
	}
	return info, nil
}

// count counts what only the record has of i.
func (r *rootInfo) count(i *inode, owners *Owners) {
	_, uid := owners.uid(i.uid)
	_, gid := owners.gid(i.gid)
	if !uid || !gid {
		r.Recorded.Owners++
	}
	if i.kind == tar.TypeChar || i.kind == tar.TypeBlock {
		r.Recorded.Devices++
	}
	if i.xattrsUnset {
		r.Recorded.Xattrs++
	}
}

// WriteTar writes the image's files as one tar archive: sorted, hard links after
// what they link to, with the owners, modes, attributes and devices that the
// image says, whatever the root on this host could take. It is the same for the
// same image everywhere. The image must not be closed before it returns.
func (i *Image) WriteTar(ctx context.Context, w io.Writer) error {
	if err := i.writeTar(ctx, w); err != nil {
		return &Error{Op: "write tar of image", Ref: i.Name, Err: err}
	}
	return nil
}

func (i *Image) writeTar(ctx context.Context, w io.Writer) error {
	record, err := os.Open(filepath.Join(filepath.Dir(i.RootDir), recordName))
	if err != nil {
		return err
	}
	defer record.Close()
	z, err := zstd.NewReader(record, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close()
	// The contents come from the disk, by paths of the record, which follow no link
	// out of the root: what is there is an image's.
	root, err := os.OpenRoot(i.RootDir)
	if err != nil {
		return err
	}
	defer root.Close()
	out := tar.NewWriter(w)
	for headers := tar.NewReader(z); ; {
		h, err := headers.Next()
		if errors.Is(err, io.EOF) {
			return out.Close()
		}
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = writeEntry(out, h, root)
		}
		if err != nil {
			return err
		}
	}
}

// writeEntry writes one entry of the record, with the content that root has.
func writeEntry(out *tar.Writer, h *tar.Header, root *os.Root) error {
	if h.Typeflag != tar.TypeReg { // all that there is of it is in the header
		return out.WriteHeader(h)
	}
	f, err := root.Open(strings.TrimPrefix(h.Name, "./"))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%q was changed: it is %v", h.Name, info.Mode())
	}
	h.Size = info.Size() // the record has 0
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	if _, err := io.CopyN(out, f, h.Size); err != nil { // it may have shrunk since
		return fmt.Errorf("copy %q: %w", h.Name, err)
	}
	return nil
}
