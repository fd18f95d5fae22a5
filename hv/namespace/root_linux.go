package namespace

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Where things are while the guest's root is built. The process's root is then
// a tmpfs of ours, the base.
const (
	hostRoot = "/host"    // the host's whole tree
	newRoot  = "/new"     // what becomes the guest's root
	emptyDir = "/empty"   // an empty directory
	lowerDir = "/lower"   // where a root that came as a mount is attached
	filesDir = "/files"   // where the host's directory for what the guest writes is
	scratch  = "/scratch" // the tmpfs that bounds all that the guest can write
)

// enterRoot builds the guest's root and pivots into it: the host's tree is
// gone afterwards, but for what the new one was made of. trees are what came
// along as mounts, and are closed; tell tells the host what of its files can't
// be shown, or kept.
func enterRoot(s setup, trees []*os.File, tell func(report) error) error {
	defer closeFiles(trees)
	var root, files *os.File // the directories s.Root and s.Files
	for _, t := range []struct {
		came bool
		to   **os.File
	}{{s.RootTree, &root}, {s.FilesTree, &files}} {
		if !t.came {
			continue
		}
		if len(trees) == 0 {
			return errors.New("a mount of the root's is missing")
		}
		*t.to, trees = trees[0], trees[1:]
	}
	mounts, err := readMounts() // while /proc is the host's
	if err != nil {
		return err
	}
	if err := enterBase(s.ScratchMiB); err != nil {
		return err
	}
	if s.Root == "" {
		v := newHostView(mounts, func(text string) error { return tell(report{Remark: text}) })
		if err := v.build(); err != nil {
			return err
		}
	} else {
		upper, err := upperDir(s.Files, files)
		if err != nil {
			return err
		}
		if err := overlayRoot(s.Root, root, upper, tell); err != nil {
			return err
		}
	}
	if err := buildDevices(s.Terminal, s.Groups); err != nil {
		return err
	}
	if err := mountKernelFiles(); err != nil {
		return err
	}
	if s.Root == "" { // the paths are the host's, and say nothing in a root of its own
		if err := hide(slices.Concat(temporary, s.Hide)); err != nil {
			return err
		}
	}
	if err := mountAll(s.Mounts, trees); err != nil {
		return err
	}
	return pivot(newRoot)
}

// enterBase makes the base the process's root, and detaches the mount
// namespace from the host's: a later mount there doesn't show here.
func enterBase(scratchMiB uint32) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("detach mounts: %w", err)
	}
	// Any directory that is there will do. /proc must be: a guest can't have
	// its own otherwise.
	const at = "/proc"
	if err := unix.Mount("sluice", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=1m"); err != nil {
		return fmt.Errorf("mount base: %w", err)
	}
	if err := os.Mkdir(at+hostRoot, 0o755); err != nil {
		return err
	}
	if err := unix.PivotRoot(at, at+hostRoot); err != nil {
		return fmt.Errorf("pivot to base: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	// From here on not even a slip of ours can write to the host.
	if err := readOnly(hostRoot, unix.AT_RECURSIVE); err != nil {
		return err
	}
	for _, dir := range []string{newRoot, emptyDir, scratch} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(emptyFile, nil, 0o644); err != nil {
		return err
	}
	// One file system for all that the guest can write, so that one size bounds
	// it.
	options := "mode=755"
	if scratchMiB != 0 {
		options += ",size=" + strconv.FormatUint(uint64(scratchMiB), 10) + "m"
	}
	if err := unix.Mount("scratch", scratch, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount scratch: %w", err)
	}
	return nil
}

// overlayRoot mounts dir of the host, or tree unless that is nil, as the guest's
// root; what the guest writes goes to the directory upper. Where the file system of
// that can't have it, and has nothing yet, it goes to the scratch.
func overlayRoot(dir string, tree *os.File, upper string, tell func(report) error) error {
	if err := os.Mkdir(lowerDir, 0o755); err != nil {
		return err
	}
	from := hostRoot + dir
	if tree != nil {
		from = lowerDir
		if err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, lowerDir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("attach root %q: %w", dir, err)
		}
	}
	lower, err := openDir(from)
	if err != nil {
		return err
	}
	defer unix.Close(lower)
	err = mountOverlay(lower, upper)
	if err != nil && upper != scratch && isEmpty(upper+"/upper") {
		if err := tell(report{NotKept: err.Error()}); err != nil {
			return err
		}
		if upper, err = upperDir("", nil); err == nil {
			err = mountOverlay(lower, upper)
		}
	}
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("overlay root %q (is something mounted below it?): %w", dir, err)
	}
	if err != nil {
		return fmt.Errorf("overlay root %q: %w", dir, err)
	}
	return nil
}

// mountOverlay mounts an overlay as the guest's root: the directory lower below what
// the directory upper has in upper and work.
func mountOverlay(lower int, upper string) error {
	// userxattr: a user namespace may not set the attributes of trusted.overlay.
	options := fmt.Sprintf("userxattr,lowerdir=%s,upperdir=%s/upper,workdir=%s/work", descriptorPath(lower), upper, upper)
	return unix.Mount("root", newRoot, "overlay", unix.MS_NOSUID|unix.MS_NODEV, options)
}

// pivot makes dir the process's root and detaches the old one.
func pivot(dir string) error {
	if err := os.Chdir(dir); err != nil {
		return err
	}
	// The old root is put on top of the new one, and taken away from there.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot to the guest's root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the host's files: %w", err)
	}
	return os.Chdir("/")
}

// openDir opens a directory to be mounted from. Mount options name it by
// descriptorPath, which needs no escaping.
func openDir(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

// descriptorPath returns a path to what fd is, while the root is the base.
func descriptorPath(fd int) string { return hostRoot + "/proc/self/fd/" + strconv.Itoa(fd) }

// inRoot opens name as the guest would, with newRoot as the root: a symbolic
// link in the guest's files can't lead out.
func inRoot(name string) (int, error) {
	return openBelow(newRoot, name, unix.O_PATH|unix.O_CLOEXEC, unix.RESOLVE_IN_ROOT)
}

// openBelow opens name below the directory root by openat2(2).
func openBelow(root, name string, flags, resolve uint64) (int, error) {
	dir, err := openDir(root)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: flags, Resolve: resolve})
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// mountPoint returns a descriptor of the directory name of the guest's root,
// made if it isn't there.
func mountPoint(name string) (int, error) {
	return place(name, unix.O_DIRECTORY, func(parent int, base string) error { return unix.Mkdirat(parent, base, 0o755) })
}

// filePoint is mountPoint for what is no directory.
func filePoint(name string) (int, error) {
	return place(name, 0, func(parent int, base string) error { return unix.Mknodat(parent, base, unix.S_IFREG|0o644, 0) })
}

// place opens name of the guest's root with additional flags, made in its parent
// if it isn't there. No part of it may be a symbolic link: the guest's files
// may be a stranger's, and what is made here would be made where the link
// points to, in the host.
func place(name string, flags uint64, create func(parent int, base string) error) (int, error) {
	const strict = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS
	parent, err := openBelow(newRoot, path.Dir(name), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, strict)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	// What is there may be on a file system that is read-only.
	if err := create(parent, path.Base(name)); err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EROFS) {
		return -1, &os.PathError{Op: "create", Path: name, Err: err}
	}
	return openBelow(newRoot, name, unix.O_PATH|unix.O_CLOEXEC|flags, strict)
}

// mountAt mounts a file system on the directory name of the guest's root.
func mountAt(name, fstype string, flags uintptr, options string) error {
	fd, err := mountPoint(name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Mount(fstype, descriptorPath(fd), fstype, flags, options); err != nil {
		return fmt.Errorf("mount %s: %w", name, err)
	}
	return nil
}

// bind shows source, which is to be a file of the given type (unix.S_IFREG, …),
// at the descriptor target, with attributes added to those that source's mount
// has. The type is that of what is shown, which a directory's entry need not be:
// something may be mounted there.
func bind(source string, fileType uint32, target int, attributes uint64) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("bind %s: %w", source, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("bind %s: %w", source, err)
	}
	if st.Mode&unix.S_IFMT != fileType {
		return fmt.Errorf("bind %s: file of type %#o is not one of %#o", source, st.Mode&unix.S_IFMT, fileType)
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: attributes}); err != nil {
		return fmt.Errorf("bind %s: set attributes: %w", source, err)
	}
	if err := unix.MoveMount(fd, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("bind %s: attach: %w", source, err)
	}
	return nil
}

// readOnly makes the mount at name of the process's root read-only, and with
// unix.AT_RECURSIVE in flags those below.
func readOnly(name string, flags uint) error {
	if err := unix.MountSetattr(unix.AT_FDCWD, name, flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("make %s read-only: %w", name, err)
	}
	return nil
}

// scratchDir makes a directory of the scratch and shows it at name.
func scratchDir(name string, mode os.FileMode) error {
	dir := scratch + "/" + strings.ReplaceAll(name[1:], "/", "-")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, mode); err != nil { // past the umask
		return err
	}
	fd, err := mountPoint(name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return bind(dir, unix.S_IFDIR, fd, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
}
