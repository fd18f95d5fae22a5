package image

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// makeFIFO makes a FIFO. See disk.
func makeFIFO(dir *os.Root, name string) error {
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Mknodat(int(f.Fd()), name, unix.S_IFIFO|0o600, 0); err != nil {
		return &os.PathError{Op: "mkfifo", Path: name, Err: err}
	}
	return nil
}

// setXattr sets an extended attribute. See disk. What a file system has no room
// for is as good as unsupported: ext4 gives a file's attributes one block.
func setXattr(f *os.File, key, value string) error {
	err := unix.Fsetxattr(int(f.Fd()), key, []byte(value), 0)
	for _, cannot := range []error{unix.ENOTSUP, unix.EPERM, unix.ENOSPC, unix.E2BIG, unix.ERANGE, unix.EINVAL} {
		if errors.Is(err, cannot) {
			return errors.ErrUnsupported
		}
	}
	return err
}

// syncTree puts all that was written to f's file system on the disk. One call
// for the file system is faster than one per file by two orders of magnitude.
func syncTree(f *os.File) error { return unix.Syncfs(int(f.Fd())) }
