// Package vz is the hypervisor of macOS: guests are machines of Apple's
// Virtualization.framework, on macOS 13 and later, on Apple silicon and Intel.
//
// Call [New]. Virtual machines are made by the calling process, which must be
// signed with the entitlement com.apple.security.virtualization; [Executable]
// returns a copy of the running program that is, and [Main] is what such a copy
// runs for Probe. In a test, TestMain calls Main.
//
//	Start: plan.go        what the machine is: sizes, disks, ports, card
//	       boot.go        kernel, initramfs with the agent
//	       framework.go   ─► Virtualization.framework (framework_darwin.go)
//	       vm.go          ◄─ states: one goroutine owns the machine until its end
//
// All that can be wrong is in files that every platform compiles and tests,
// against a fake of the framework. What is Apple's alone is in framework_darwin.go,
// which only passes values on.
//
// # What it won't do
//
// It gives no card of the framework's own: neither NAT nor a bridge. It shares no
// directory with the guest, and emulates no processor: the guest's is the host's.
package vz

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/sluicenet/sluice/hv"
)

// Role is argv[0] of the signed copy that Probe runs.
const Role = "sluice:vz"

// A Hypervisor starts guests of Virtualization.framework. Use New. Its methods may
// be called by several goroutines.
type Hypervisor struct {
	framework framework
	signer    signer
	// boot returns what a guest boots; see boot.go.
	boot func(ctx context.Context, cfg hv.Config, dir string) (bootFiles, error)

	mu     sync.Mutex // guards the following field; held while Probe boots
	probed *hv.Report // what a boot showed; nil before
}

var _ hv.Hypervisor = (*Hypervisor)(nil)

// New returns a Hypervisor.
func New() *Hypervisor {
	return &Hypervisor{framework: newFramework(), signer: newSigner(), boot: prepareBoot}
}

// Name returns "vz".
func (h *Hypervisor) Name() string { return "vz" }

// A Pauser is a hv.VM that can stand still. Those of this package are.
type Pauser interface {
	// Pause stops the guest's processors, and its clock.
	Pause(ctx context.Context) error
	// Resume goes on where Pause stopped.
	Resume(ctx context.Context) error
}

// A Saver is a hv.VM whose state can be kept in a file. Those of this package are;
// their error matches errors.ErrUnsupported but on Apple silicon with macOS 14.
type Saver interface {
	Pauser
	// Save writes the state of the guest, which is paused meanwhile, to a file
	// that doesn't exist. Its disks are to be kept with it. Hypervisor.Restore
	// goes on from it.
	Save(ctx context.Context, path string) error
}

var (
	_ hv.VM = (*vm)(nil)
	_ Saver = (*vm)(nil)
)

// An unusableError says that this machine, or this program, can't run guests, and
// what would help. It wraps its cause and errors.ErrUnsupported.
type unusableError struct {
	cause error
	fix   string // "" if none is known
}

func (e *unusableError) Error() string   { return e.cause.Error() }
func (e *unusableError) Help() string    { return e.fix }
func (e *unusableError) Unwrap() []error { return []error{e.cause, errors.ErrUnsupported} }

// A stream is our end of a guest's port. Its Close is told to the machine, whose
// guest doesn't learn of it by itself.
type stream struct {
	net.Conn
	once   sync.Once
	closed func()
}

// Close closes the stream.
func (s *stream) Close() error {
	err := s.Conn.Close()
	s.once.Do(s.closed)
	return err
}
