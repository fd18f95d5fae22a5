package namespace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/hv"
)

// What a guest writes over its root is the upper directory of an overlay, which
// wants another one beside it to work in. Both are on the scratch, or in
// hv.Config.Files: there they are the guest's root's, whoever that is on the host,
// and no more than the host's disk bounds them.

// keptFiles returns the real path of cfg.Files; "" if nothing is to be kept.
func keptFiles(cfg hv.Config) (string, error) {
	if cfg.Files == "" {
		return "", nil
	}
	if cfg.Root == "" {
		return "", fmt.Errorf("files to keep in %q: the host's own are shown read-only, and nothing is written over them", cfg.Files)
	}
	dir, err := filepath.Abs(cfg.Files)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir) // see setup
	}
	if err != nil {
		return "", fmt.Errorf("files to keep in %q: %w", cfg.Files, err)
	}
	return dir, nil
}

// prepareFiles makes what an overlay needs in the directory dir, unless that is "",
// for a guest with those ids.
func prepareFiles(dir string, ids idMaps) error {
	if dir == "" {
		return nil
	}
	for _, d := range []string{dir, dir + "/upper", dir + "/work"} {
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("keep files: %w", err)
		}
		if !ids.privileged {
			continue
		}
		if err := os.Lchown(d, int(ids.uids[0].outside), int(ids.gids[0].outside)); err != nil {
			return fmt.Errorf("keep files: %w", err)
		}
	}
	return nil
}

// upperDir returns the directory of the base that has upper and work: dir of the
// host, or tree unless that is nil, or for "" one on the scratch.
func upperDir(dir string, tree *os.File) (string, error) {
	if dir == "" {
		for _, d := range []string{"/upper", "/work"} {
			if err := os.Mkdir(scratch+d, 0o755); err != nil {
				return "", err
			}
		}
		return scratch, nil
	}
	if err := os.Mkdir(filesDir, 0o755); err != nil {
		return "", err
	}
	if tree == nil {
		fd, err := unix.OpenTree(unix.AT_FDCWD, hostRoot+dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return "", fmt.Errorf("open %q: %w", dir, err)
		}
		tree = os.NewFile(uintptr(fd), dir)
		defer tree.Close()
	}
	m := mountSetup{Source: dir, Attributes: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := m.setAttributes(int(tree.Fd())); err != nil {
		return "", err
	}
	if err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, filesDir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return "", fmt.Errorf("attach files %q: %w", dir, err)
	}
	return filesDir, nil
}

// isEmpty reports whether a directory has nothing in it.
func isEmpty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) == 0
}

// RemoveFiles removes a directory that was hv.Config.Files. Its files may be of ids
// that only the guest's user namespace has, and some that its overlay left may be
// closed to their owner: where that keeps this process from it, one in such a
// namespace does it.
func (h *Hypervisor) RemoveFiles(ctx context.Context, dir string) error {
	err := os.RemoveAll(dir)
	if !errors.Is(err, os.ErrPermission) {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	v, err := h.start(ctx, hv.Config{Name: "remove", Root: dir}, setup{Remove: dir})
	if err != nil {
		return fmt.Errorf("remove files of a guest: %w", err)
	}
	return v.Close()
}
