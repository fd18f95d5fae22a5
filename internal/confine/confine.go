// Package confine takes from a sandbox's process what it doesn't need once its guest
// runs, so that a guest that gets hold of it has got hold of little: files, other
// processes, programs, most of the kernel's interfaces.
//
// Call [Process] once, when all that needs more is done: the VM or the namespace is
// started, sockets and directories are made. There is no way back. [Probe] tells
// without confining anything what this kernel can do.
//
// In this order, each for all threads that there are and will be:
//
//	not dumpable       nobody of the same user reads its memory or descriptors
//	no core            a crash writes nothing of it anywhere
//	memory             it is ended when it grows beyond a limit, and nothing else is
//	no new privileges  what it could execute would get none
//	Landlock           of the files that are opened from now on only those that are named
//	seccomp            no programs, no other processes' memory, no mounts, …
//
// What the process has open stays open. It may signal its children, open sockets of
// the families IP and Unix, listen on ports, make threads. Of another process it
// sees only what /proc shows to everybody: not its namespaces, nor its descriptors.
//
// It won't keep it from the network: the process is the guest's network. Nor does it
// drop capabilities, which a process of root keeps where no filter is in their way.
package confine

import (
	"strings"
)

// Rules say what the process goes on needing.
type Rules struct {
	// ReadWrite are files and directories, with all that is below them, that may be
	// read, written, made and removed. Those that don't exist are skipped.
	ReadWrite []string
	// ReadOnly may be read. A file that others replace by renaming a new one over it
	// must be named by its directory: the new one is another file. See System.
	ReadOnly []string
	// RemoveEmpty are directories below which empty ones may be removed.
	RemoveEmpty []string
	// MemoryBytes bounds the private memory of the process; 0 means no bound. The
	// garbage collector works harder from three quarters of it on; at the limit
	// the process ends.
	MemoryBytes uint64
}

// A Step is one of the ways in which a process is confined.
type Step struct {
	Name string // as in the package's documentation
	Done bool   // or, in a report of Probe, possible
	// Detail says more: why not, or which version.
	Detail string
}

// A Report lists the steps in their order.
type Report []Step

// Lacks returns the steps that weren't possible, each with its reason.
func (r Report) Lacks() []string {
	var lacks []string
	for _, s := range r {
		if !s.Done {
			lacks = append(lacks, s.Name+": "+s.Detail)
		}
	}
	return lacks
}

// String lists the steps in one line.
func (r Report) String() string {
	var b strings.Builder
	for i, s := range r {
		if i > 0 {
			b.WriteString(", ")
		}
		if !s.Done {
			b.WriteString("not ")
		}
		b.WriteString(s.Name)
		if s.Detail != "" {
			b.WriteString(" (" + s.Detail + ")")
		}
	}
	return b.String()
}

// Names of the steps.
const (
	stepDumpable   = "not dumpable"
	stepCore       = "no core"
	stepMemory     = "memory limit"
	stepPrivileges = "no new privileges"
	stepLandlock   = "Landlock"
	stepSeccomp    = "seccomp"
)

// Process confines the calling process by rules. What the kernel lacks is skipped and
// said by the report; any other failure is an error, after which the process must
// end, as it may be confined by half.
func Process(rules Rules) (Report, error) { return process(rules) }

// Probe returns what Process could do here.
func Probe() Report { return probe() }

// System returns the files and directories that a network process on this platform
// goes on reading: resolver and host tables, certificates, time zones, its own
// /proc. They are for Rules.ReadOnly.
func System() []string { return system() }
