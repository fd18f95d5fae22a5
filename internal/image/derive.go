package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

// Derive returns the path of a file that is made from the image, kept beside its
// root in the cache and removed with it: a disk. name is its own, for example
// "root.ext4", and must stand for all that decides what is in the file.
//
// Where there is none yet make writes it into an empty file, which appears under
// its name when make has succeeded and the bytes are on the disk. Of several
// callers, in any process, one makes it and the others wait. The image must not be
// closed before Derive returns, and as long as the file is used.
func (i *Image) Derive(ctx context.Context, name string, make func(context.Context, *os.File) error) (string, error) {
	path := filepath.Join(filepath.Dir(i.RootDir), name)
	if err := i.derive(ctx, path, make); err != nil {
		return "", &Error{Op: "derive " + name + " from image", Ref: i.Name, Err: err}
	}
	return path, nil
}

func (i *Image) derive(ctx context.Context, path string, make func(context.Context, *os.File) error) error {
	if made, err := exists(path); made || err != nil {
		return err
	}
	// What is being written is its own lock, so that the next one goes on from
	// what a killed process left: nothing piles up.
	lock, err := lockAt(ctx, path+".new", exclusive, nil)
	if err != nil {
		return err
	}
	made, err := exists(path)
	if made || err != nil { // made while we waited; the lock made a file anew
		return errors.Join(err, os.Remove(path+".new"), lock.release())
	}
	if err = lock.f.Truncate(0); err == nil {
		err = make(ctx, lock.f)
	}
	if err == nil {
		err = lock.f.Sync()
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	} else {
		err = errors.Join(err, os.Remove(path+".new"))
	}
	return errors.Join(err, lock.release())
}
