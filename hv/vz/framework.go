package vz

import (
	"fmt"
	"os"
)

// A framework is what is used of Virtualization.framework. Its implementation
// passes values on and decides nothing.
type framework interface {
	// limits returns what a machine may have.
	limits() (limits, error)
	// create makes a machine, which is stopped, and validates it. The plan's files
	// stay the caller's, and must stay open for as long as the machine runs.
	create(p plan) (virtualMachine, error)
}

// limits are what the framework allows a machine.
type limits struct {
	minCPUs, maxCPUs     uint
	minMemory, maxMemory uint64 // bytes
}

// A virtualMachine is a machine of the framework's. The methods that change its
// state return when that is done; one goroutine calls them. The framework's objects
// belong to a dispatch queue of the machine's own, which its Go binding sees to; what
// they tell is passed on by goroutines, until close.
type virtualMachine interface {
	start() error
	pause() error
	resume() error
	stop() error // at once, without asking the guest
	state() state
	// changes gets each new state. It is never closed.
	changes() <-chan state
	// unplugged gets an error whenever the card's other end is lost; nil without
	// a card.
	unplugged() <-chan error
	// close ends what passes news on. It comes last, and once, in whatever state.
	close()
}

// A keeper is a virtualMachine whose state can be kept in a file: on Apple silicon.
type keeper interface {
	save(path string) error    // while paused
	restore(path string) error // while stopped; then it is paused
}

// A state is a VZVirtualMachineState, with its numbers.
type state int

const (
	stopped state = iota
	running
	paused
	failed
	starting
	pausing
	resuming
	stopping
	saving
	restoring
)

// names are those of states.
var names = [...]string{"stopped", "running", "paused", "failed", "starting", "pausing", "resuming", "stopping", "saving", "restoring"}

// String returns the state's name in lower case.
func (s state) String() string {
	if s < 0 || int(s) >= len(names) {
		return fmt.Sprintf("state %d", int(s))
	}
	return names[s]
}

// over reports whether a machine in that state has ended.
func (s state) over() bool { return s == stopped || s == failed }

// canStop reports whether stop works in that state.
func (s state) canStop() bool { return s == running || s == paused }

// A plan is a machine as the framework is told it.
type plan struct {
	kernel, initrd, commandLine string
	cpus                        uint
	memory                      uint64 // bytes, whole MiB
	disks                       []disk
	// console is a socket that what the guest prints is written to. Nothing comes
	// from it, ever: an end of file, as of /dev/null, might be asked for in a loop.
	console *os.File
	ports   []port
	card    *card // nil without one
}

// tooOld returns an error of the framework's Go binding, which compares versions of
// macOS, as one that says what would help.
func tooOld(err error, macOS int) error {
	return &unusableError{fmt.Errorf("%w: it takes macOS %d", err, macOS), fmt.Sprintf("use a Mac with macOS %d or later, and a program built there", macOS)}
}

// A disk is a virtio-blk device.
type disk struct {
	path       string
	readOnly   bool
	identifier string // its serial number; "" for none
}

// A port is one of the virtio console's, which the guest finds by its name.
type port struct {
	name string
	file *os.File // a socket
}

// A card is a virtio-net device.
type card struct {
	file *os.File // a connected datagram socket: bare frames
	mac  string
	mtu  int // 1500…65535
}
