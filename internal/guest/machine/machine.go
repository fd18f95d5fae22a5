// Package machine is what a virtual machine does before its agent serves, and
// what its host has to know of that.
//
// In the guest, [Main] is process 1: the kernel runs it from the initramfs, or
// from a small disk, as [Role]. On the host, [Setup.Words] are what goes onto the
// kernel's command line, and [Follow] reads what process 1 tells.
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

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

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

// A Setup is what a machine is told on its kernel's command line.
type Setup struct {
	// Root is the type of the file system on RootDisk, "ext4" or "erofs"; or
	// "virtiofs", a directory of the host's with the tag RootDisk.
	Root string
	// Writable mounts it for writing, without an overlay.
	Writable bool
	// Upper is the type of the file system on UpperDisk, which holds what the
	// guest writes over a root that isn't Writable; "" is the guest's memory.
	Upper string
	// ByOrder finds the disks by their order, the root first, with a hypervisor
	// that gives serial numbers of its own.
	ByOrder bool
	// Vsock is the port on the host, at CID 2, that carries what AgentPort would,
	// and the next one StatusPort's, with a hypervisor that has no console ports;
	// 0 where there are ports.
	Vsock uint32
	// Off ends the machine by switching it off, with a hypervisor that starts it
	// anew after a reset.
	Off bool
}

// Words that a Setup has on the command line. The kernel leaves alone what has a
// dot in it and names none of its modules.
const (
	rootWord  = "sluice.root="
	upperWord = "sluice.upper="
	writable  = ",rw"
	orderWord = "sluice.disks=order"
	vsockWord = "sluice.vsock="
	offWord   = "sluice.end=off"
)

// Words returns the words for the kernel's command line.
func (s Setup) Words() []string {
	root := rootWord + s.Root
	if s.Writable {
		root += writable
	}
	words := []string{root}
	if s.Upper != "" {
		words = append(words, upperWord+s.Upper)
	}
	if s.ByOrder {
		words = append(words, orderWord)
	}
	if s.Vsock != 0 {
		words = append(words, fmt.Sprint(vsockWord, s.Vsock))
	}
	if s.Off {
		words = append(words, offWord)
	}
	return words
}

// fileSystems are what is mounted as a root; the first over one as well.
var fileSystems = []string{"ext4", "erofs", virtiofs}

// virtiofs is the file system that has no disk.
const virtiofs = "virtiofs"

// parseSetup returns the Setup on a kernel's command line. A word may be in quotes,
// as libkrun puts them. Beside an error the Setup says all the same how the host is
// to be told, and how the machine ends.
func parseSetup(commandLine string) (Setup, error) {
	var s Setup
	for word := range strings.FieldsSeq(commandLine) {
		word = strings.Trim(word, `"`)
		s.ByOrder = s.ByOrder || word == orderWord
		s.Off = s.Off || word == offWord
		if value, ok := strings.CutPrefix(word, vsockWord); ok {
			port, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return s, fmt.Errorf("the command line names %q as a port of the host's", value)
			}
			s.Vsock = uint32(port)
		}
		if value, ok := strings.CutPrefix(word, rootWord); ok {
			s.Root, s.Writable = strings.CutSuffix(value, writable)
		}
		if value, ok := strings.CutPrefix(word, upperWord); ok {
			s.Upper = value
		}
	}
	if s.Root == "" {
		return s, errors.New("the command line names no root")
	}
	for _, fs := range []string{s.Root, s.Upper} {
		if fs != "" && !slices.Contains(fileSystems, fs) {
			return s, fmt.Errorf("the command line names %q, which is no file system for a root", fs)
		}
	}
	if s.Upper != "" && (s.Writable || s.Upper != "ext4") {
		return s, errors.New("the command line names an upper disk that can't be one")
	}
	return s, nil
}
