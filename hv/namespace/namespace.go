// Package namespace is the hypervisor without a kernel of its own: a guest is a
// process tree in Linux namespaces (user, mount, PID, network, IPC, UTS,
// cgroup), with the kernel's TAP as its network card. It needs no privilege.
//
// Call [New], and call [Main] early in every program that uses it: process 1 of
// a guest is the program's own executable, run again with argv[0] set to
// [Role]. In a test, TestMain calls it.
//
//	host: Start                           guest: Main, process 1
//	clone + exec of a sealed memfd ─────► waits
//	uid_map, gid_map
//	setup ──────────────────────────────► opens the TAP, becomes the guest's root
//	                                      builds its root, pivots, drops the host
//	◄────────────── TAP descriptor, ready confines itself
//	agent's stream ◄────────────────────► guest.Serve
//
// Three descriptors reach process 1 besides its standard files' three: the
// control socket (3), which is also the lifeline on both sides, and the agent's
// stream (4). All others are closed.
//
// # What the guest sees
//
// Without a Root it sees the host's files, read-only and through overlays: an
// overlay's inodes are its own, so a unix socket or a FIFO of the host's that
// shows in it leads nowhere, wherever it lies and whenever it was made. Empty
// directories cover the host's temporary and runtime directories. The resolver's
// files and the bundles of certificates are its own, for the agent to write. With
// a Root it sees that directory, and what it writes goes to memory, or to
// Config.Files.
//
// # Commands
//
// Process 1 lives until its host asks for the end, or goes away. Each command has
// pipes or a terminal of its own, or inherits process 1's standard files, which
// are Config.Stdio: the caller's terminal is passed straight through then.
//
// # What it won't do
//
// It is no kernel boundary: a flaw in the host's kernel is a flaw here. A VM
// that is asked for must never be replaced by it in silence. It does not limit
// processors or memory, apart from the guest's files in memory (Config.MemoryMiB).
// What it keeps by Config.Files takes as much of the host's disk as the guest writes.
package namespace

import (
	"cmp"
	"os"
	"sync"
)

// Role is argv[0] of a guest's process 1.
const Role = "sluice:namespace"

// A Hypervisor starts guests in namespaces. Use New. Its methods may be called
// by several goroutines.
type Hypervisor struct {
	// Processes bounds the processes and threads of a guest; 0 means 4096, what
	// container engines and systemd give a service, give or take. Since Linux 5.14
	// it holds for each user of the guest, since 6.14 for all of them together;
	// before, there is no bound.
	Processes uint32

	tun string // the clone device of TAPs; a test replaces it

	mu         sync.Mutex // guards the following field
	executable *os.File   // sealed copy of this program; nil before the first start
}

// New returns a Hypervisor.
func New() *Hypervisor { return &Hypervisor{tun: "/dev/net/tun"} }

// processes returns Processes with its default.
func (h *Hypervisor) processes() uint32 { return cmp.Or(h.Processes, 4096) }

// Name returns "namespace".
func (h *Hypervisor) Name() string { return "namespace" }
