// Package hv says what sluice asks of a hypervisor: to start a guest with one
// network card, to hand over the other end of that card as a link, and to give
// one byte stream to the agent inside.
//
// A backend is a package below this one with a type that implements
// [Hypervisor]; package hvtest holds the conformance suite that each of them
// passes. There is no registration: the platform's table is sluice.Backends.
//
// What it will not do: configure the guest's network (the agent does), or know
// what travels over the card.
package hv

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"

	"github.com/sluicenet/sluice/vnet/link"
)

// A Hypervisor starts guests. Its methods may be called by several goroutines.
type Hypervisor interface {
	// Name returns the backend's name, for example "namespace".
	Name() string
	// Probe reports whether guests can be started here, by trying what matters.
	Probe(ctx context.Context) Report
	// Start starts a guest and returns when its card and its agent's stream
	// exist. ctx governs the start only, and its error is returned when it ends
	// first. The caller must Close the VM. A start that fails leaves nothing
	// behind; the error wraps errors.ErrUnsupported where the host can't do it.
	Start(ctx context.Context, cfg Config) (VM, error)
}

// A Report is what a backend found out about itself on this host.
type Report struct {
	Usable bool
	// Reason says why not, or what makes it usable; one line.
	Reason string
	// Fix is the command or setting that would make it usable; "" if none is
	// known or needed.
	Fix string
}

// Config describes a guest. The zero value of every field but Name is useful.
type Config struct {
	Name string // of the sandbox; names the guest's processes for a reader of ps
	// NIC is the guest's network card; nil gives it none, only loopback.
	NIC *NIC
	// Root is the directory that becomes the guest's root. Empty: a backend
	// without its own kernel shows the host's files read-only, others fail.
	Root string
	// Files is a directory of the host, the caller's and for one guest at a time,
	// in which a backend without disks keeps what the guest writes over Root: who is
	// started with both again finds it. "" keeps it in memory, and it ends with the
	// guest.
	Files string
	// Disks are the guest's, of a backend with a kernel of its own; others fail
	// if there are any. The first is the guest's root. A root that is read-only
	// gets an overlay: what the guest writes goes to the second disk if that can
	// be written and has a file system, else to the guest's memory. Further
	// disks are block devices that nothing is mounted from.
	Disks []Disk
	// Kernel and Initrd are files of a backend with a kernel of its own, others
	// fail with errors.ErrUnsupported; "" leaves them to it. Kernel may be a
	// directory with boot and lib/modules in it, where the backend looks for
	// kernels itself. An Initrd of the caller's starts the agent itself.
	Kernel string
	Initrd string
	// Console gets what the guest's kernel, and its process 1, print on the
	// console; nil drops it. It is the guest's word, escapes and all. One
	// goroutine writes to it until Wait returns; an error ends the writing, a
	// Write that blocks delays Wait and Close.
	Console io.Writer
	// Mounts are laid over the guest's root, in this order. A backend that can't
	// show the host's paths, or make directories in memory, fails with
	// errors.ErrUnsupported if there are any.
	Mounts []Mount
	// Hide names host paths, absolute and beyond a backend's own list, that a
	// guest which sees the host's files must not: empty directories, or an empty
	// file, cover them.
	Hide []string
	// CPUs and MemoryMiB size the guest; 0 is the backend's default. A backend
	// without a machine to size says in Logger what it doesn't limit.
	CPUs      uint8
	MemoryMiB uint32
	// Stdio are the standard files of the guest's first process, and so of the
	// commands that inherit them; nil entries are /dev/null. A backend that can't
	// pass files on, as into a machine of its own, fails if there are any. They
	// stay the caller's. A terminal is one in the guest, but not the controlling
	// one of anything there: signals go through the agent.
	Stdio [3]*os.File
	// Logger gets the backend's own remarks; nil is silent.
	Logger *slog.Logger
}

// NIC describes a guest's network card. Its zero value is useful.
type NIC struct {
	MAC net.HardwareAddr // nil leaves it to the backend
	MTU uint16           // bytes of IP packet; 0 means 1500
}

// A Mount is what a path of the guest shows instead of what its root has there.
type Mount struct {
	// Target is an absolute, clean path of the guest, made if it isn't there and
	// the root can be written.
	Target string
	// Source is a path of the host, a directory with all that is mounted below
	// it, or a file; "" is an empty directory in memory.
	Source   string
	ReadOnly bool
	NoExec   bool // nothing in it is executed
	// NoSUID and NoDev take the effect of set-id bits and device nodes in it. A
	// backend may do so unasked.
	NoSUID bool
	NoDev  bool
	// SizeMiB bounds an empty directory, in MiB; 0 is half the guest's memory.
	SizeMiB uint32
}

// A VM is a running guest. Its methods may be called by several goroutines.
type VM interface {
	// NIC returns the other end of the guest's card and how frames travel on
	// it; nil if Config.NIC was nil. The file becomes the caller's with the
	// first call; later calls, and calls after Close, return nil. Not every
	// card tells of the guest's end (a TAP doesn't): close it when Wait returns.
	NIC() (*os.File, link.Format)
	// Agent returns the byte stream to the guest's agent. It becomes the
	// caller's with the first call; later calls, and calls after Close, return
	// nil. The guest ends when it is closed.
	Agent() net.Conn
	// Kill ends the guest at once. It does not wait. It is no error if the
	// guest has ended.
	Kill() error
	// Wait waits until the guest has ended and says how, or returns ctx's error
	// if that ends first. Any number of calls return the same.
	Wait(ctx context.Context) (Exit, error)
	// Close kills the guest if it runs, waits for it and frees everything that
	// was not handed over. It is idempotent.
	Close() error
}

// A Disk is a block device of a guest, held by a file of the host's. The guest
// can't make a file that is ReadOnly differ by a byte.
type Disk struct {
	Path     string
	ReadOnly bool
	Format   DiskFormat
}

// A DiskFormat says what is on a disk.
type DiskFormat uint8

const (
	// Raw is anything, or nothing: nothing is mounted from it.
	Raw DiskFormat = iota
	// Ext4 is an ext4 file system, without partitions.
	Ext4
	// EROFS is an EROFS file system, without partitions; it is read-only.
	EROFS
)

// String returns the format's name as the kernel has it; "raw" for Raw.
func (f DiskFormat) String() string {
	switch f {
	case Raw:
		return "raw"
	case Ext4:
		return "ext4"
	case EROFS:
		return "erofs"
	}
	return fmt.Sprintf("DiskFormat(%d)", uint8(f))
}

// An Exit says how a guest ended.
type Exit struct {
	// Code is the exit code of the guest's first process: 0 after the agent was
	// asked to shut down, another number if it ended for another reason, -1 if a
	// signal ended it. How a command ended is not among it: its agent says so.
	Code   int
	Signal int // number of that signal; 0 if none
}
