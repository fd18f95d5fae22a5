package namespace

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

// shiftedTrees returns the root of s, and the paths of the host that it mounts,
// as mounts of their own, and marks them in s. The caller closes what it returns,
// also with an error.
func shiftedTrees(s *setup, pid int, log *slog.Logger) (trees []*os.File, err error) {
	if s.Root != "" {
		tree, err := shiftedTree(s.Root, unix.MOUNT_ATTR_RDONLY, 0, pid, log)
		if err != nil {
			return trees, err
		}
		if s.RootTree = tree != nil; s.RootTree {
			trees = append(trees, tree)
		}
	}
	if s.Files != "" {
		tree, err := openTree(s.Files, 0)
		if err != nil {
			return trees, err
		}
		if s.FilesTree = tree != nil; s.FilesTree {
			trees = append(trees, tree)
		}
	}
	for i := range s.Mounts {
		m := &s.Mounts[i]
		if m.Source == "" {
			continue
		}
		tree, err := shiftedTree(m.Source, 0, unix.AT_RECURSIVE, pid, log)
		if err != nil {
			return trees, err
		}
		if m.Tree = tree != nil; m.Tree {
			trees = append(trees, tree)
		}
	}
	return trees, nil
}

// shiftedTree returns the path dir as a mount of its own, on which the ids of
// the files are shifted into the user namespace of the process pid: what root
// owns is the guest's root's there. The guest's root, an unprivileged user of
// the host, needs no permission on the way to the directory.
//
// Only real root can make one. Where the file system can't shift ids, its
// files have the host's, which is nobody's in the guest; where this root may
// not make mounts, it returns nil and the guest finds the directory by its path.
// attributes are the mount's, recursive is unix.AT_RECURSIVE for what is mounted
// below too.
func shiftedTree(dir string, attributes uint64, recursive uint, pid int, log *slog.Logger) (*os.File, error) {
	tree, err := openTree(dir, recursive)
	if err != nil {
		return nil, err
	}
	if tree == nil {
		log.Warn("files will belong to nobody in the guest: this root may not shift ids", "path", dir)
		return nil, nil
	}
	userns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	if err != nil {
		tree.Close()
		return nil, err
	}
	defer userns.Close()
	shift := &unix.MountAttr{Attr_set: attributes | unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
	if err := unix.MountSetattr(int(tree.Fd()), "", unix.AT_EMPTY_PATH|recursive, shift); err != nil {
		log.Warn("files will belong to nobody in the guest: their file system can't shift ids", "path", dir, "error", err)
	}
	return tree, nil
}

// openTree returns the path dir as a mount of its own, nil where this process may
// not make one: root of a container, without CAP_SYS_ADMIN.
func openTree(dir string, recursive uint) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|recursive)
	if errors.Is(err, unix.EPERM) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", dir, err)
	}
	return os.NewFile(uintptr(fd), dir), nil
}
