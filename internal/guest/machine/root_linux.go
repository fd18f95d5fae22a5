package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// rootMode is that of a root directory that the image doesn't have: an upper's.
const rootMode = 0o755

// mountRoot mounts the root at rootDir.
func mountRoot(s Setup, devices *deviceWatch) error {
	for _, dir := range []string{lowerDir, upperDir, rootDir} {
		if err := os.Mkdir(dir, rootMode); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	disk := RootDisk // the tag of a directory
	if s.Root != virtiofs {
		var err error
		if disk, err = findDisk(s, devices, RootDisk); err != nil {
			return err
		}
	}
	if s.Writable {
		return mountDisk(disk, rootDir, s.Root, 0)
	}
	if err := mountDisk(disk, lowerDir, s.Root, unix.MS_RDONLY); err != nil {
		return err
	}
	if err := mountUpper(s, devices); err != nil {
		return err
	}
	if err := mountOverlay(); err != nil {
		return err
	}
	if s.Root == virtiofs {
		return tryCopyUp(rootDir)
	}
	return nil
}

// tryCopyUp finds out whether what is in the root can be changed, by changing nothing
// of a directory in it. An overlay asks a FUSE file system for a file's flags before
// it copies the file up, and takes ENOTTY for "it has none"; libkrun up to 1.19 says
// EOPNOTSUPP (libkrun issue 867), whereupon every change fails.
func tryCopyUp(root string) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(root, e.Name()), info.Mode()); err != nil {
			return fmt.Errorf("change what is in the root directory: %w (this libkrun's directories can't be written over: use a disk image)", err)
		}
		return nil
	}
	return nil // nothing in it that could be changed
}

// findDisk waits for the disk of a serial number, or for the one in its place.
func findDisk(s Setup, devices *deviceWatch, serial string) (string, error) {
	if !s.ByOrder {
		return devices.find("block", "serial", serial)
	}
	return devices.named("block", map[string]string{RootDisk: "vda", UpperDisk: "vdb"}[serial])
}

// mountDisk mounts the file system of a disk.
func mountDisk(disk, target, fsType string, flags uintptr) error {
	if err := unix.Mount(disk, target, fsType, flags, ""); err != nil {
		return fmt.Errorf("mount %s, the disk for %s, as %s: %w", disk, target, fsType, err)
	}
	return nil
}

// mountUpper mounts what the guest's writes go to.
func mountUpper(s Setup, devices *deviceWatch) error {
	if s.Upper == "" {
		if err := unix.Mount("tmpfs", upperDir, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("mount memory for %s: %w", upperDir, err)
		}
		return nil
	}
	disk, err := findDisk(s, devices, UpperDisk)
	if err != nil {
		return err
	}
	return mountDisk(disk, upperDir, s.Upper, 0)
}

// mountOverlay puts the upper directory over the image. An upper that was used
// before keeps what was written.
func mountOverlay() error {
	var lower unix.Stat_t
	if err := unix.Stat(lowerDir, &lower); err != nil {
		return err
	}
	for _, dir := range []string{upperDir + "/upper", upperDir + "/work"} {
		if err := os.Mkdir(dir, rootMode); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	// The root directory itself is the upper's: it gets the image's owner and mode.
	upper := upperDir + "/upper"
	if err := os.Chown(upper, int(lower.Uid), int(lower.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(upper, lower.Mode&0o7777); err != nil {
		return err
	}
	options := "lowerdir=" + lowerDir + ",upperdir=" + upper + ",workdir=" + upperDir + "/work"
	if err := unix.Mount("overlay", rootDir, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount the overlay: %w", err)
	}
	return nil
}

// enterRoot makes rootDir the root and moves the kernel's file systems there.
//
// No path in it is followed: a directory that the image has a symbolic link for,
// "/proc" to "/etc", or a file, is replaced. Names are looked up one by one in
// the open root directory.
func enterRoot() error {
	root, err := os.OpenRoot(rootDir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, m := range kernelMounts {
		name := m.target[1:]
		if err := realDirectory(root, name); err != nil {
			return err
		}
		// The directory is there now and is none but itself: nobody else runs.
		if err := unix.Mount(m.target, rootDir+m.target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", m.target, err)
		}
	}
	if err := realDirectory(root, "run"); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", rootDir+"/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	// Nothing is mounted on it: whatever the image has there stays.
	if _, err := root.Lstat("tmp"); errors.Is(err, fs.ErrNotExist) {
		if err := makeDirectory(root, "tmp", 0o777|fs.ModeSticky); err != nil {
			return err
		}
	}
	if err := os.Chdir(rootDir); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return os.Chdir("/")
}

// realDirectory makes sure that name in root is a directory, not a link to one.
func realDirectory(root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if err == nil && info.IsDir() {
		return nil
	}
	if err == nil {
		err = root.Remove(name)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	return makeDirectory(root, name, rootMode)
}

// makeDirectory makes the directory name in root, with exactly that mode.
func makeDirectory(root *os.Root, name string, mode fs.FileMode) error {
	if err := root.Mkdir(name, mode.Perm()); err != nil {
		return err
	}
	// Mkdir leaves out what the process's mask takes, and the sticky bit. Root's
	// Chmod needs a kernel of 6.6.
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Chmod(mode)
}
