package krun

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest/machine"
)

// Descriptors that a VM's process is started with, behind its standard files.
const (
	controlFD = 3 // messages, and the lifeline of both sides
	agentFD   = 4 // the agent's stream
	statusFD  = 5 // what process 1 of the guest tells
	consoleFD = 6 // the terminal that the guest's console is
	cardFD    = 7 // the card's frames; only with one
)

// Sizes of a guest where the caller leaves them to us: enough for a shell, a
// package manager and a compiler, and little enough for many guests.
const (
	defaultCPUs      = 1
	defaultMemoryMiB = 512
)

const (
	// bootTag is the directory that the kernel starts from: KRUN_FS_ROOT_TAG.
	bootTag = "/dev/root"
	// rootTag is the directory that the guest's process 1 makes the root from.
	rootTag = machine.RootDisk
	// vsockPort is where the agent connects to, on the host's CID 2, with a
	// library that has no ports of consoles; the next one is for its status.
	vsockPort = 1024
)

// A spec is what a VM is to be. It is the host's answer to an offer.
type spec struct {
	CPUs      uint8  `json:"cpus"`
	MemoryMiB uint32 `json:"memory_mib"`
	Dir       string `json:"dir"`             // the VM's own directory, which ends with it
	Root      string `json:"root,omitempty"`  // the directory that becomes the guest's root; else Disks[0]
	Disks     []disk `json:"disks,omitempty"` // raw ones only
	// Kernel is the guest's, "" for libkrunfw's; then the rest isn't used.
	Kernel       string `json:"kernel,omitempty"`
	KernelFormat uint32 `json:"kernel_format,omitempty"`
	Initrd       string `json:"initrd,omitempty"`
	// Words go to the kernel's command line: what the guest's process 1 is, and
	// is to do, as setup has it, which doesn't leave the host.
	Words []string `json:"words"`
	setup machine.Setup

	Card     bool    `json:"card"`
	MAC      [6]byte `json:"mac"`
	Features uint32  `json:"features"` // of the card

	// Vsock are the paths of the sockets that listen for the agent and its
	// status; empty where they get ports of the console.
	Vsock    []string `json:"vsock,omitempty"`
	LogLevel uint32   `json:"log_level"`
}

// boot returns the path of the directory that the kernel starts from.
func (s spec) boot() string { return filepath.Join(s.Dir, "boot") }

// A disk is a file of the host's that is a disk of the guest's.
type disk struct {
	Path     string `json:"path"`
	ReadOnly bool   `json:"read_only"`
}

// Features of virtio-net (virtio 1.2, section 5.1.3), of which the library takes
// CSUM, GUEST_CSUM, TSO and UFO.
const (
	guestCSUM = 1 << 1
	guestTSO4 = 1 << 7
	guestTSO6 = 1 << 8
)

// features returns what is negotiated with the guest's card for an MTU.
//
// Frames travel bare, so nothing can be left undone on the way to us: CSUM and
// HOST_TSO stay off, and the guest sends frames of its MTU with whole checksums.
// Towards the guest GUEST_TSO only makes its driver post buffers of 64 KiB, as
// larger frames than 1500 bytes need; what we send is cut to the MTU and has whole
// checksums all the same.
func features(mtu uint16) uint32 {
	if mtu <= 1500 {
		return 0
	}
	return guestCSUM | guestTSO4 | guestTSO6
}

// newSpec returns the spec of a guest, apart from what Start makes for it, or why
// it can't be one. It touches no file.
func newSpec(cfg hv.Config) (spec, error) {
	s := spec{
		CPUs:      cmp.Or(cfg.CPUs, defaultCPUs),
		MemoryMiB: cmp.Or(cfg.MemoryMiB, defaultMemoryMiB),
		Root:      cfg.Root,
		Kernel:    cfg.Kernel,
		Initrd:    cfg.Initrd,
		LogLevel:  logWarn,
	}
	if cfg.Initrd != "" && cfg.Kernel == "" {
		return spec{}, errors.New("an initrd is given without a kernel")
	}
	setup, err := machine.SetupOf(cfg)
	if err != nil {
		return spec{}, err
	}
	setup.ByOrder = len(cfg.Disks) > 0 // libkrun makes up the serial numbers of disks
	s.tell(setup)
	for _, d := range cfg.Disks {
		s.Disks = append(s.Disks, disk{Path: d.Path, ReadOnly: d.ReadOnly})
	}
	if err := s.makeAbsolute(); err != nil {
		return spec{}, err
	}
	if cfg.NIC == nil {
		return s, nil
	}
	s.Card, s.Features = true, features(cfg.NIC.MTU)
	switch len(cfg.NIC.MAC) {
	case 0:
		rand.Read(s.MAC[:])
		s.MAC[0] = s.MAC[0]&^1 | 2 // one station's, locally administered
	case len(s.MAC):
		copy(s.MAC[:], cfg.NIC.MAC)
	default:
		return spec{}, fmt.Errorf("address %v of the card is not of Ethernet", cfg.NIC.MAC)
	}
	return s, nil
}

// makeAbsolute makes the caller's paths those of the machine's process, whose
// directory is another. C cuts a path at a zero byte, and JSON and Rust know nothing
// but UTF-8: what would be another file's path on its way is refused.
func (s *spec) makeAbsolute() error {
	paths := []*string{&s.Root, &s.Kernel, &s.Initrd}
	for i := range s.Disks {
		paths = append(paths, &s.Disks[i].Path)
	}
	for _, path := range paths {
		if *path == "" {
			continue
		}
		if strings.ContainsRune(*path, 0) || !utf8.ValidString(*path) {
			return fmt.Errorf("path %q: libkrun takes UTF-8 without zero bytes", *path)
		}
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = absolute
	}
	return nil
}

// tell makes the words of what the guest's process 1 is told.
func (s *spec) tell(setup machine.Setup) {
	s.setup = setup
	s.Words = append([]string{"init=" + machine.Role}, setup.Words()...)
}

// fits reports whether a library can do what s asks for.
func (o offer) fits(s spec) error {
	switch {
	case s.Root != "" && !o.ReadOnly:
		return &libraryError{o.Path + " can show a directory only for the guest to write to; the root is not the guest's to change", fixNewer + ", or use a disk image"}
	case len(s.Disks) > 0 && !o.Disks:
		return &libraryError{o.Path + " was built without disks", "install a libkrun that was built with BLK=1"}
	case s.Kernel != "" && !o.Kernel:
		return &libraryError{o.Path + " can't be given a kernel", fixNewer}
	case !s.Card && !o.NoCard:
		return &libraryError{o.Path + " gives a guest without a card the host's network", fixNewer}
	}
	return nil
}
