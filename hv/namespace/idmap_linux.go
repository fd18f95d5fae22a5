package namespace

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

// shiftedTree returns the directory as a mount of its own, on which the ids of
// the files are shifted into the user namespace of the process pid: what root
// owns is the guest's root's there. The guest's root, an unprivileged user of
// the host, needs no permission on the way to the directory.
//
// Only real root can make one. Where the file system can't shift ids, its
// files have the host's, which is nobody's in the guest; where this root may
// not make mounts, it returns nil and the guest finds the directory by its path.
func shiftedTree(dir string, pid int, log *slog.Logger) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if errors.Is(err, unix.EPERM) { // root of a container, without CAP_SYS_ADMIN
		log.Warn("the root's files will belong to nobody in the guest: this root may not shift ids", "root", dir)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open root %q: %w", dir, err)
	}
	tree := os.NewFile(uintptr(fd), dir)
	userns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	if err != nil {
		tree.Close()
		return nil, err
	}
	defer userns.Close()
	shift := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, shift); err != nil {
		log.Warn("the root's files will belong to nobody in the guest: their file system can't shift ids", "root", dir, "error", err)
	}
	return tree, nil
}
