package namespace

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/guest"
)

// commandCapabilities are those that the guest's commands have in their user
// namespace: what package managers, servers and ping need of root, and what
// container engines leave. They say nothing outside of the namespace.
//
// NET_RAW is among them: a raw socket makes frames that the guard expects of
// any guest (AF_PACKET is refused by the filter, though). NET_ADMIN isn't: it
// opens traffic control and packet filters, where the kernel has had most of
// its escalations, and the guest's addresses are the agent's to set. Nor are
// SYS_ADMIN (mounts), SYS_PTRACE (process 1) and MKNOD (no device of a user
// namespace can be opened).
var commandCapabilities = []int{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL, unix.CAP_SETGID,
	unix.CAP_SETUID, unix.CAP_SETPCAP, unix.CAP_SETFCAP, unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW, unix.CAP_SYS_CHROOT,
}

// allCapabilities returns the kernel's capabilities.
func allCapabilities() []uintptr {
	last := uintptr(unix.CAP_LAST_CAP)
	if text, err := os.ReadFile("/proc/sys/kernel/cap_last_cap"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			last = uintptr(n)
		}
	}
	all := make([]uintptr, last+1)
	for i := range all {
		all[i] = uintptr(i)
	}
	return all
}

// confine takes from the process what no later step needs, and returns the
// system that starts its commands. The agent's own threads keep their
// capabilities, for the network's sake; the thread that starts commands, and
// so the commands, keep commandCapabilities. Each user of the guest may have so many
// processes.
func confine(processes uint32) (guest.System, error) {
	// Commands are of the same user: without this they could read the agent's
	// memory, and follow /proc/1/exe, /proc/1/fd and /proc/1/root.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("hide process 1: %w", err)
	}
	// A core goes to the host's handler, which runs as the host's root on what
	// the guest made. For a handler that is a pipe, 0 would be no limit; 1 byte
	// is what the kernel takes for none.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}); err != nil {
		return nil, fmt.Errorf("forbid core dumps: %w", err)
	}
	if !countsByNamespace() {
		processes = 0
	}
	sys, err := guest.NewBoundedSystem(restrictThread, uint64(processes))
	if err != nil {
		return nil, err
	}
	return sys, commandFilter().Install()
}

// restrictThread leaves commandCapabilities to the calling thread and what it
// starts, and gives it a session keyring of its own, since it came with that of
// the host's session.
func restrictThread() error {
	if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil && err != unix.ENOSYS {
		return fmt.Errorf("leave the session keyring: %w", err)
	}
	var keep uint64
	for _, c := range commandCapabilities {
		keep |= 1 << c
	}
	for _, c := range allCapabilities() {
		if keep&(1<<c) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	// What is inheritable falls to none, and with it what is ambient.
	data := [2]unix.CapUserData{
		{Effective: uint32(keep), Permitted: uint32(keep)},
		{Effective: uint32(keep >> 32), Permitted: uint32(keep >> 32)},
	}
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}
