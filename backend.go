package sluice

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sluicenet/sluice/hv"
)

// A Backend is a hypervisor of this platform and how it may be chosen.
type Backend struct {
	hv.Hypervisor
	// ByNameOnly reports that it is never chosen unless it is named: its
	// guests share the host's kernel.
	ByNameOnly bool
	// Disks reports that its guests' root is a disk, hv.Config.Disks, and not a
	// directory, hv.Config.Root.
	Disks bool
	// Role is argv[0] of the processes that the backend starts from the running
	// executable, and Main what those run; it doesn't return. "" and nil if it
	// starts none.
	Role string
	Main func()
	// Executable returns the program that a sandbox's process is to be started
	// from for this backend, where the running one may not serve: on macOS it must
	// be signed. Nil: any will do.
	Executable func(ctx context.Context) (string, error)
}

// Backends returns this platform's hypervisors, the preferred first. It tries
// nothing; Probe does.
func Backends() []Backend { return backends() }

// Open returns the hypervisor of the given name. With "" it returns the first
// that is usable and may be chosen without being named; its error then lists
// each backend, why it is not usable and what would help. The error matches
// errors.ErrUnsupported.
func Open(ctx context.Context, name string) (hv.Hypervisor, error) {
	return open(ctx, backends(), name)
}

func open(ctx context.Context, table []Backend, name string) (hv.Hypervisor, error) {
	var names []string
	for _, b := range table {
		if b.Name() == name {
			return b.Hypervisor, nil
		}
		names = append(names, b.Name())
	}
	if name != "" {
		return nil, unusableError(fmt.Sprintf("open backend %q: there is %s", name, list(names)))
	}
	var why strings.Builder
	for _, b := range table {
		if b.ByNameOnly {
			fmt.Fprintf(&why, "\n\t%s: must be named to be used, since its guests share the host's kernel", b.Name())
			continue
		}
		r := b.Probe(ctx)
		if r.Usable {
			return b.Hypervisor, nil
		}
		fmt.Fprintf(&why, "\n\t%s: %s", b.Name(), r.Reason)
		if r.Fix != "" {
			fmt.Fprintf(&why, " (%s)", r.Fix)
		}
	}
	return nil, unusableError("choose a backend: none is usable" + why.String())
}

// An unusableError says that no backend can be used. It is an
// errors.ErrUnsupported whose text says more.
type unusableError string

// Error returns the text.
func (e unusableError) Error() string { return string(e) }

// Is reports whether target is errors.ErrUnsupported.
func (e unusableError) Is(target error) bool { return target == errors.ErrUnsupported }

// list returns names as words, "none on this platform" if there are none.
func list(names []string) string {
	if len(names) == 0 {
		return "none on this platform"
	}
	return strings.Join(names, ", ")
}
