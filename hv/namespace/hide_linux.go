package namespace

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// emptyFile covers what is to be hidden and is no directory.
const emptyFile = "/empty.file"

// maskedFiles are the kernel's files that tell about the host more than a
// program needs, or that have had holes; container engines hide the same.
var maskedFiles = []string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/kmsg",
	"/proc/kpagecgroup", "/proc/kpagecount", "/proc/kpageflags", "/proc/latency_stats", "/proc/sched_debug",
	"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/proc/vmallocinfo",
	"/sys/devices/virtual/powercap", "/sys/firmware", "/sys/kernel/debug", "/sys/kernel/security", "/sys/kernel/tracing",
}

// hide covers each path of the guest's root with nothing.
func hide(names []string) error {
	for _, name := range names {
		if err := hideOne(name); err != nil {
			return fmt.Errorf("hide %s: %w", name, err)
		}
	}
	return nil
}

// hideOne covers one path. What isn't there, or where the guest's root can't
// come to because the host's user who owns it keeps others out, needs no cover.
func hideOne(name string) error {
	fd, err := inRoot(name)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EACCES):
		return nil
	case err != nil:
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	at, err := os.Readlink(descriptorPath(fd))
	if err != nil {
		return err
	}
	at = strings.TrimPrefix(at, newRoot)
	if slices.Contains(temporary, at) {
		return nil // the guest's own already
	}
	if at == "" {
		return errors.New("it is the root")
	}
	cover, fileType := emptyFile, uint32(unix.S_IFREG)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		cover, fileType = emptyDir, unix.S_IFDIR
	}
	return bind(cover, fileType, fd, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}
