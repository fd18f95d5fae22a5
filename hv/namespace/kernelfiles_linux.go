package namespace

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Flags of mounts that have no programs in them.
const dataOnly = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// devices are the host's device nodes that the guest gets: a user namespace
// can't make its own. A read-only mount keeps the nodes from change; the
// devices can be written all the same.
var devices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}

// readOnlyFiles are parts of /proc that no command is to write, although the
// guest's root owns some of them: the settings of its network namespace. The
// values are their types.
var readOnlyFiles = map[string]uint32{"/proc/bus": unix.S_IFDIR, "/proc/fs": unix.S_IFDIR, "/proc/irq": unix.S_IFDIR,
	"/proc/sys": unix.S_IFDIR, "/proc/sysrq-trigger": unix.S_IFREG}

// buildDevices makes the guest's /dev. terminal is the host's path of a
// terminal that is among the standard files, "" if none is; groups reports that
// group 5, tty, is mapped.
func buildDevices(terminal string, groups bool) error {
	if err := mountAt("/dev", "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755,size=64k"); err != nil {
		return err
	}
	for _, name := range devices {
		if err := bindNode(hostRoot+name, name); err != nil {
			return err
		}
	}
	if terminal != "" {
		// ttyname(3) finds the terminal here by its number. Where it can't be
		// bound, the standard files are a terminal without a name.
		_ = bindNode(hostRoot+terminal, "/dev/console")
	}
	links := map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
		"stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"}
	for name, target := range links {
		if err := os.Symlink(target, newRoot+"/dev/"+name); err != nil {
			return err
		}
	}
	options := "newinstance,ptmxmode=0666,mode=0620"
	if groups {
		options += ",gid=5"
	}
	if err := mountAt("/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, options); err != nil {
		return err
	}
	if err := scratchDir("/dev/shm", 0o777|os.ModeSticky); err != nil {
		return err
	}
	return readOnly(newRoot+"/dev", 0)
}

// bindNode shows a device node of the host at name of the guest's root.
func bindNode(node, name string) error {
	target, err := filePoint(name)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return bind(node, unix.S_IFCHR, target, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
}

// mountKernelFiles mounts /proc and /sys, which show the guest's own PID and
// network namespaces, and masks parts of them.
func mountKernelFiles() error {
	if err := mountAt("/proc", "proc", dataOnly, ""); err != nil {
		return err
	}
	if err := mountAt("/sys", "sysfs", dataOnly|unix.MS_RDONLY, ""); err != nil {
		// Inside of a container that masks parts of its own, the kernel refuses
		// a second one that would show them. Programs do without.
		fd, err := mountPoint("/sys")
		if err != nil {
			return err
		}
		err = bind(emptyDir, unix.S_IFDIR, fd, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return hide(maskedFiles)
}

// sealRoot makes read-only what had to be written until now. hostFiles reports
// that the root is the tmpfs that the host's files are shown in.
func sealRoot(hostFiles bool) error {
	for name, fileType := range readOnlyFiles {
		fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "open", Path: name, Err: err}
		}
		err = bind(name, fileType, fd, unix.MOUNT_ATTR_RDONLY)
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	if !hostFiles {
		return nil
	}
	if err := readOnly("/", 0); err != nil {
		return fmt.Errorf("seal root: %w", err)
	}
	return nil
}
