package namespace

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A hostView shows the host's files at newRoot, read-only, through overlays.
//
// Why overlays and not bind mounts: connect(2) on a unix socket, and opening a
// FIFO, work through a read-only mount, and so reach the host. The kernel finds
// a socket by its inode, and an overlay has inodes of its own.
//
// An overlay shows one file system, and a user namespace may not make one of a
// directory that has a mount somewhere below: it could show what the mount
// hides. So directories on the way to a mount are directories of our own, and
// what is in them is shown entry by entry. What can't be shown is left out.
type hostView struct {
	types  map[string]string // file system type by mount point, the last mounted
	split  map[string]bool   // directories that have a mount below
	remark func(string) error
	count  int // of entries shown
}

// maxEntries bounds how many mounts a view may take: each costs 50 µs at the
// start, and half a second is what a sandbox may wait for a host that has its
// mount points among thousands of files.
const maxEntries = 8192

// Places that are the guest's own and not the host's.
var (
	// built are made elsewhere: from the kernel, not from the host's files.
	built = []string{"/proc", "/sys", "/dev"}
	// temporary are writable and empty. Sockets live in them.
	temporary = []string{"/run", "/var/run", "/tmp", "/var/tmp"}
	// resolver are the files that the agent writes.
	resolver = []string{"/etc/hosts", "/etc/resolv.conf", "/etc/hostname"}
	own      = slices.Concat(built, temporary, resolver)
)

// shown are the file system types whose files are shown. The others are the
// kernel's or unknown: they may have files that do things.
var shown = map[string]bool{
	"ext2": true, "ext3": true, "ext4": true, "xfs": true, "btrfs": true, "zfs": true, "f2fs": true, "bcachefs": true,
	"jfs": true, "reiserfs": true, "nilfs2": true, "tmpfs": true, "ramfs": true, "rootfs": true, "overlay": true,
	"squashfs": true, "erofs": true, "cramfs": true, "iso9660": true, "udf": true, "vfat": true, "exfat": true,
	"ntfs": true, "ntfs3": true, "nfs": true, "nfs4": true, "cifs": true, "smb3": true, "ceph": true, "9p": true,
	"virtiofs": true, "fuse": true, "fuseblk": true, "ecryptfs": true, "aufs": true, "vboxsf": true, "gpfs": true, "lustre": true,
}

// newHostView returns the view of a host with these mounts.
func newHostView(mounts []mount, remark func(string) error) *hostView {
	v := &hostView{types: make(map[string]string), split: make(map[string]bool), remark: remark}
	for _, m := range mounts {
		v.types[m.point] = m.fstype
		for dir := m.point; dir != "/"; {
			dir = path.Dir(dir)
			v.split[dir] = true
		}
	}
	v.split["/"] = true // its own places differ from the host's
	return v
}

// build mounts the view.
func (v *hostView) build() error {
	if err := unix.Mount("root", newRoot, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=16m"); err != nil {
		return fmt.Errorf("mount root: %w", err)
	}
	if err := layResolver(); err != nil {
		return err
	}
	if err := v.entries("/"); err != nil {
		return err
	}
	for _, name := range temporary {
		if err := v.temporary(name); err != nil {
			return err
		}
	}
	if err := showResolver(); err != nil {
		return err
	}
	return showTrust()
}

// temporary makes the guest's own directory at name. Below another directory of
// the host's there is nothing to make where the host has nothing, and a link
// (/var/run, to /run) stays one: hide covers what it leads to, if need be.
func (v *hostView) temporary(name string) error {
	if dir := path.Dir(name); dir != "/" {
		host, err := os.Lstat(hostRoot + name)
		switch {
		case err != nil:
			return nil
		case !host.IsDir() && v.split[dir]:
			return copyLink(name)
		case !host.IsDir():
			return nil // it shows in dir's overlay
		}
	}
	mode := os.FileMode(0o755)
	if strings.HasSuffix(name, "tmp") {
		mode = 0o777 | os.ModeSticky
	}
	return scratchDir(name, mode)
}

// entries shows what is in the host's directory name, which newRoot has as a
// directory of our own. An entry that can't be shown is remarked upon.
func (v *hostView) entries(name string) error {
	list, err := os.ReadDir(hostRoot + name)
	if err != nil { // one that the guest's root may not read has nothing to show
		return v.remark(err.Error())
	}
	for _, e := range list {
		child := path.Join(name, e.Name())
		if slices.Contains(own, child) {
			continue
		}
		if v.count++; v.count > maxEntries {
			return fmt.Errorf("show the host's files: more than %d entries beside its mount points", maxEntries)
		}
		if e.IsDir() && v.split[child] {
			err = v.splitDirectory(child)
		} else if showErr := v.show(child, e.Type()); showErr != nil {
			err = v.remark(child + ": " + showErr.Error())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// splitDirectory shows a directory that has a mount below.
func (v *hostView) splitDirectory(name string) error {
	if err := v.checkType(name); err != nil {
		return v.remark(name + ": " + err.Error())
	}
	if err := os.Mkdir(newRoot+name, 0o755); err != nil {
		return err
	}
	return v.entries(name)
}

// checkType returns an error if a file system is mounted at name whose files
// are not shown.
func (v *hostView) checkType(name string) error {
	fstype, mounted := v.types[name]
	family, _, _ := strings.Cut(fstype, ".") // fuse.sshfs
	if mounted && !shown[family] {
		return fmt.Errorf("files of type %q are not shown", fstype)
	}
	return nil
}

// show shows a file, directory or link that has no mount below. Sockets, FIFOs
// and devices are left out without a word.
func (v *hostView) show(name string, kind fs.FileMode) error {
	if err := v.checkType(name); err != nil {
		return err
	}
	switch {
	case kind.IsDir():
		return overlay(name)
	case kind&fs.ModeSymlink != 0:
		return copyLink(name)
	case kind.IsRegular():
		return bindFile(name)
	}
	return nil
}

// overlay shows the directory name, which has no mount below.
func overlay(name string) error {
	lower, err := openDir(hostRoot + name)
	if err != nil {
		return err
	}
	defer unix.Close(lower)
	if err := os.Mkdir(newRoot+name, 0o755); err != nil {
		return err
	}
	// An overlay without an upper directory needs two lower ones. The first
	// gives the directory its owner and mode.
	options := fmt.Sprintf("lowerdir=%s:%s", descriptorPath(lower), emptyDir)
	if name == etcLayer {
		options = fmt.Sprintf("lowerdir=%s:%s", etcLayer, descriptorPath(lower))
	}
	if err := unix.Mount("host", newRoot+name, "overlay", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	return nil
}

// copyLink makes a symbolic link like the host's.
func copyLink(name string) error {
	target, err := os.Readlink(hostRoot + name)
	if err != nil {
		return err
	}
	return os.Symlink(target, newRoot+name)
}

// bindFile shows a regular file read-only. A mount on a file is all there can
// be of it: an overlay is a directory.
func bindFile(name string) error {
	if err := os.WriteFile(newRoot+name, nil, 0o644); err != nil {
		return err
	}
	target, err := unix.Open(newRoot+name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return bind(hostRoot+name, unix.S_IFREG, target, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
}
