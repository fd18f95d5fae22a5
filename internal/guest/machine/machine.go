// Package machine is what a virtual machine does before its agent serves, and
// what its host has to know of that.
//
// In the guest, [Main] is process 1: the kernel runs it from the initramfs, or
// from a small disk, as [Role]. On the host, [SetupOf] says what the machine is told,
// [Setup.Words] are that on the kernel's command line, and [Follow] reads what
// process 1 tells.
//
//	kernel ─► Main: /proc, /sys, /dev ─► modules ─► status port: the host can hear
//	          ─► the root's disk, an overlay on it, everything moved there
//	          ─► agent's port ─► "ready" ─► guest.Serve ─► "exit N" ─► reset
//
// All is virtio, so that one process 1 does for every hypervisor: the agent's
// stream and the status are console ports with the names [AgentPort] and
// [StatusPort], disks are known by their serial numbers [RootDisk] and
// [UpperDisk], and the network card is the only one there is. A machine ends by
// resetting itself: with "reboot=t" or "reboot=k" and "panic=-1" on the command
// line, each way out, a panic included, is a reset, and a hypervisor that is told
// not to reboot ends then.
//
// The image that becomes the root is somebody's: no path of it is followed while
// the machine is set up (see root_linux.go). What the guest says on the status
// port is as untrusted as all else of it.
package machine

import "slices"

// Role is the path, and so argv[0], of process 1.
const Role = "/sluice:machine"

// ModulesDir is where process 1 looks for modules, to be loaded in the order of
// their names.
const ModulesDir = "/modules"

// BootDirs returns the directories that process 1 mounts on before it has a root.
// In an initramfs it makes them itself, on a read-only disk it can't.
func BootDirs() []string {
	return []string{"/dev", "/proc", "/sys", lowerDir, upperDir, rootDir}
}

// Directories that the root is put together in.
const (
	lowerDir = "/lower" // the image's disk
	upperDir = "/upper" // the upper disk, or memory
	rootDir  = "/root"  // what becomes the root
)

// Names of the console ports.
const (
	AgentPort  = "sluice.agent"
	StatusPort = "sluice.status"
)

// Serial numbers of the disks.
const (
	RootDisk  = "root"
	UpperDisk = "upper"
)

// Modules returns the modules that process 1 needs, beside the one for the bus
// that the devices are on; and those that it is well to have, which not every
// kernel calls so: the checksum of file systems, which they ask for by a name that
// nobody looks up in an initramfs.
func (s Setup) Modules() (needed, helpful []string) {
	needed = []string{"virtio_console", "virtio_net", "virtio_blk", "overlay"}
	for _, fs := range []string{s.Root, s.Upper} {
		if fs != "" && !slices.Contains(needed, fs) {
			needed = append(needed, fs)
		}
	}
	return needed, []string{"crc32c_generic"}
}
