// Package krun is the hypervisor that runs a guest as a virtual machine in
// libkrun: KVM, virtio devices, and the kernel that libkrunfw brings along. It
// needs no privilege but access to /dev/kvm.
//
// Call [New], and call [Main] early in every program that uses it: libkrun takes
// the process over in which it runs, and ends it with the guest, so that every VM
// gets a process of its own, which is the program's own executable, run again
// with argv[0] set to [Role]. In a test, TestMain calls it.
//
//	host: Start                          VM's process: Main
//	exec ──────────────────────────────► opens libkrun where it is told to look
//	◄───────────────────────────── offer what that library can do (library.go)
//	boot directory, sockets
//	spec ──────────────────────────────► configures the VM (configure.go)
//	◄───────────────────────────── ready, sealed (seal_linux.go)
//	agent's stream, card's stream ◄────► krun_start_enter: never returns
//
// The library is neither linked nor needed to build: it is opened at run time,
// and what it has is decided function by function, never by version, of which
// libkrun tells none. A program that is built without cgo can't open it; Probe
// and Start then say so.
//
// # What the guest boots from
//
// libkrunfw's kernel takes its root from a directory of the host. That is one
// with nothing in it but the agent and mount points, which is read-only, lives as
// long as the VM and holds no file of anybody's. The agent then makes the root
// that Config names: a disk, or a directory, shown read-only. What is in a directory
// can be written over only with a libkrun newer than 1.19 (its issue 867); with others
// Start says so.
//
// # What it won't do
//
// It never uses libkrun's own networking (TSI), which hands the guest's connections
// to the host's kernel and so past sluice: a library that can't be kept from it is
// refused, and one that would do it all the same finds that its process can't make a
// socket. It passes no standard files, arguments or environment of a command to
// the guest: those go through the agent.
package krun

import (
	"context"
	"sync"

	"github.com/sluicenet/sluice/hv"
)

// Role is argv[0] of a VM's process.
const Role = "sluice:krun"

// A Hypervisor starts guests in libkrun. Use New. Its methods may be called by
// several goroutines.
type Hypervisor struct {
	libraries []string // where to look for libkrun; nil means candidates
	kvm       string   // the device of KVM
	cache     string   // directory of what Probe remembers; "" is the user's cache
	// agent returns the path of an executable that is process 1 of a guest of
	// this machine's architecture.
	agent func(ctx context.Context) (string, error)

	mu     sync.Mutex // guards the following field; held while Probe boots
	probed *memory    // what the last boot showed; nil before
}

// New returns a Hypervisor.
func New() *Hypervisor { return &Hypervisor{kvm: "/dev/kvm", agent: findAgent} }

// Name returns "krun".
func (h *Hypervisor) Name() string { return "krun" }

var _ hv.Hypervisor = (*Hypervisor)(nil)
