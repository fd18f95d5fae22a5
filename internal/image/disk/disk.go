// Package disk makes disks for virtual machines: an image's files as an ext4 file
// system, without root's help and without a program of the host's.
//
// Call [Root] for the disk of an image in the cache; [Upper] for an empty one that
// takes a guest's writes.
//
// A disk has all that the image says: owners, modes, times, extended attributes,
// devices, hard links. It is made from [image.Image.WriteTar], and not from the
// unpacked root, which lacks what its user could not set. The same image gives the
// same bytes.
//
// What it won't do: partitions, journals, or changing a disk that was made.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"

	"github.com/sluicenet/sluice/internal/image"
)

// rootName is the disk's file in the cache. A change of how it is made needs
// another name.
const rootName = "root.ext4"

// maxRoot bounds a root's file system in bytes. Room for the groups' descriptors
// is kept for so much at its beginning: 32 KiB.
const maxRoot = 128 << 30

// Root returns the path of a disk with an image's files, a read-only ext4 file
// system that is kept with the image in the cache: it may be shared by any number
// of guests, none of which may write to it. The image must stay open as long as
// the disk is used.
func Root(ctx context.Context, i *image.Image) (string, error) {
	return i.Derive(ctx, rootName, func(ctx context.Context, f *os.File) error {
		r, w := io.Pipe()
		written := make(chan error, 1)
		go func() {
			err := i.WriteTar(ctx, w)
			w.CloseWithError(err)
			written <- err
		}()
		err := FromTar(r, f)
		r.CloseWithError(err) // ends the writer, if it still writes
		if e := <-written; e != nil && !errors.Is(e, io.ErrClosedPipe) {
			err = e // the cause
		}
		return err
	})
}

// FromTar writes an ext4 file system, which can only be mounted read-only, with
// the files of a tar archive. A hard link comes after what it links to; there are
// no whiteouts. w is empty.
func FromTar(r io.Reader, w io.ReadWriteSeeker) error {
	if err := tar2ext4.ConvertTarToExt4(r, w, tar2ext4.MaximumDiskSize(maxRoot)); err != nil {
		return fmt.Errorf("make ext4 file system: %w", err)
	}
	return nil
}
