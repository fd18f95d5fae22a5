package namespace

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/hv"
)

// A mountSetup is an hv.Mount, as process 1 is told it.
type mountSetup struct {
	Target     string `json:"target"`
	Source     string `json:"source"`     // real path on the host; "" is an empty directory
	Attributes uint64 `json:"attributes"` // unix.MOUNT_ATTR_…
	SizeMiB    uint32 `json:"size_mib"`
	Tree       bool   `json:"tree"` // it came along as a mount
}

// mountSetups checks mounts and returns what process 1 is told of them. Set-id
// bits and devices never have an effect: what a guest writes to a path of the
// host must not become a way to more rights there.
func mountSetups(mounts []hv.Mount) ([]mountSetup, error) {
	if len(mounts) >= maxControlFiles {
		return nil, fmt.Errorf("%d mounts are over the limit of %d", len(mounts), maxControlFiles-1)
	}
	var setups []mountSetup
	for _, m := range mounts {
		s := mountSetup{Target: m.Target, SizeMiB: m.SizeMiB, Attributes: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
		if !path.IsAbs(m.Target) || path.Clean(m.Target) != m.Target || m.Target == "/" {
			return nil, fmt.Errorf("mount on %q: not an absolute, clean path below the root", m.Target)
		}
		if m.ReadOnly {
			s.Attributes |= unix.MOUNT_ATTR_RDONLY
		}
		if m.NoExec {
			s.Attributes |= unix.MOUNT_ATTR_NOEXEC
		}
		if m.Source != "" {
			source, err := filepath.Abs(m.Source)
			if err == nil {
				// See setup: an absolute link would lead elsewhere in there.
				source, err = filepath.EvalSymlinks(source)
			}
			if err != nil {
				return nil, fmt.Errorf("mount %q on %q: %w", m.Source, m.Target, err)
			}
			s.Source = source
		}
		setups = append(setups, s)
	}
	return setups, nil
}

// mountAll lays mounts over the guest's root. trees are those that came along.
func mountAll(mounts []mountSetup, trees []*os.File) error {
	for _, m := range mounts {
		var tree *os.File
		if m.Tree {
			if len(trees) == 0 {
				return fmt.Errorf("mount on %q: its mount is missing", m.Target)
			}
			tree, trees = trees[0], trees[1:]
		}
		if err := m.mount(tree); err != nil {
			return fmt.Errorf("mount on %q: %w", m.Target, err)
		}
	}
	return nil
}

// mount lays one mount over the guest's root.
func (m mountSetup) mount(tree *os.File) error {
	if m.Source == "" {
		return m.mountEmpty()
	}
	from := -1
	if tree != nil {
		from = int(tree.Fd())
	} else {
		fd, err := unix.OpenTree(unix.AT_FDCWD, hostRoot+m.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return fmt.Errorf("open %q: %w", m.Source, err)
		}
		defer unix.Close(fd)
		from = fd
	}
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return err
	}
	if err := m.setAttributes(from); err != nil {
		return err
	}
	to, err := m.point(st.Mode&unix.S_IFMT == unix.S_IFDIR)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	return unix.MoveMount(from, "", to, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// setAttributes makes a mount that isn't attached what was asked for. The host's
// tree was made read-only as a whole, which is taken back here; what the host has
// mounted read-only below stays so.
func (m mountSetup) setAttributes(fd int) error {
	attr := unix.MountAttr{Attr_set: m.Attributes}
	if m.Attributes&unix.MOUNT_ATTR_RDONLY == 0 {
		attr.Attr_clr = unix.MOUNT_ATTR_RDONLY
	}
	err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
	if errors.Is(err, unix.EPERM) && attr.Attr_clr != 0 {
		if err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: m.Attributes}); err == nil {
			err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr)
		}
	}
	if err != nil {
		return fmt.Errorf("set attributes of %q: %w", m.Source, err)
	}
	return nil
}

// mountEmpty mounts an empty directory in memory.
func (m mountSetup) mountEmpty() error {
	to, err := m.point(true)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	options := "mode=1777"
	if m.SizeMiB != 0 {
		options += ",size=" + strconv.FormatUint(uint64(m.SizeMiB), 10) + "m"
	}
	var flags uintptr = unix.MS_NOSUID | unix.MS_NODEV
	if m.Attributes&unix.MOUNT_ATTR_RDONLY != 0 {
		flags |= unix.MS_RDONLY
	}
	if m.Attributes&unix.MOUNT_ATTR_NOEXEC != 0 {
		flags |= unix.MS_NOEXEC
	}
	return unix.Mount("tmpfs", descriptorPath(to), "tmpfs", flags, options)
}

// point returns a descriptor of the target, made with the directories on the way
// to it where the root can be written. What is there may be a link in the guest's
// files: it is followed as the guest would, and can't lead out.
func (m mountSetup) point(directory bool) (int, error) {
	fd, err := inRoot(m.Target)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	at := ""
	for part := range strings.SplitSeq(path.Dir(m.Target)[1:], "/") {
		if part == "" {
			continue
		}
		at += "/" + part
		fd, err := mountPoint(at)
		if err != nil {
			return -1, err
		}
		unix.Close(fd)
	}
	if directory {
		return mountPoint(m.Target)
	}
	return filePoint(m.Target)
}
