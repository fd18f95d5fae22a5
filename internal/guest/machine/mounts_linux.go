package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A mount is a file system without a disk.
type mount struct {
	target  string
	fsType  string
	flags   uintptr
	options string
}

// kernelMounts are what process 1 needs itself. They move to the root later.
var kernelMounts = []mount{
	{"/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"/dev", "devtmpfs", unix.MS_NOSUID, "mode=755"},
}

// conveniences are what programs expect of a machine. Their directories are in
// the kernel's own file systems, apart from /run.
var conveniences = []mount{
	{"/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=620,ptmxmode=666,gid=5"},
	{"/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
}

// deviceLinks are names in /dev that userland makes, not the kernel.
var deviceLinks = [][2]string{
	{"/proc/self/fd", "/dev/fd"}, {"fd/0", "/dev/stdin"}, {"fd/1", "/dev/stdout"}, {"fd/2", "/dev/stderr"},
}

// mountKernel mounts what the kernel shows of itself.
func mountKernel() error {
	for _, m := range kernelMounts {
		if err := m.mount(); err != nil {
			return err
		}
	}
	return nil
}

// mount makes the directory and mounts.
func (m mount) mount() error {
	if err := os.Mkdir(m.target, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	err := unix.Mount(m.fsType, m.target, m.fsType, m.flags, m.options)
	// A kernel with CONFIG_DEVTMPFS_MOUNT has done so.
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	return nil
}

// mountConveniences mounts the rest in the new root. A kernel that lacks one of
// the file systems (libkrunfw's has few) has a guest without it.
func mountConveniences() error {
	for _, m := range conveniences {
		if err := m.mount(); err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	for _, l := range deviceLinks {
		if err := os.Symlink(l[0], l[1]); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// mountMemory mounts directories in memory. A symbolic link on the way to one is
// followed as the guest would: all that it can lead to is the guest's.
func mountMemory(dirs []MemoryDir) error {
	for _, d := range dirs {
		if err := os.MkdirAll(d.Path, 0o755); err != nil {
			return fmt.Errorf("mount memory: %w", err)
		}
		var flags uintptr = unix.MS_NOSUID | unix.MS_NODEV
		if d.ReadOnly {
			flags |= unix.MS_RDONLY
		}
		if d.NoExec {
			flags |= unix.MS_NOEXEC
		}
		options := "mode=1777"
		if d.SizeMiB != 0 {
			options += fmt.Sprintf(",size=%dm", d.SizeMiB)
		}
		if err := unix.Mount("tmpfs", d.Path, "tmpfs", flags, options); err != nil {
			return fmt.Errorf("mount memory on %s: %w", d.Path, err)
		}
	}
	return nil
}

// loadModules loads the modules in dir in the order of their names. dir may be
// missing: then the kernel has built in what it needs.
func loadModules(dir string) error {
	entries, err := os.ReadDir(dir) // sorted
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := loadModule(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("load module %s: %w", e.Name(), err)
		}
	}
	return os.RemoveAll(dir) // it is memory
}

// loadModule loads the module at path.
func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if filepath.Ext(path) == ".xz" {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	err = unix.FinitModule(int(f.Fd()), "", flags)
	if errors.Is(err, unix.EEXIST) { // built in, or loaded by the one before
		return nil
	}
	return err
}
