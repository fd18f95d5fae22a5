// Package qemu is the hypervisor that runs everywhere: guests are machines of
// QEMU's, with hardware help (kvm on Linux, hvf on macOS) or emulated (tcg).
//
// Call [New], and call [Main] early in every program that uses it: QEMU runs
// below a supervisor, which is the program's own executable, run again with
// argv[0] set to [Role]. In a test, TestMain calls it.
//
//	Start                       supervisor              QEMU              guest
//	kernel, initramfs ─ exec ──► lifeline (3) ─ exec ──► kernel, disks ──► machine.Main
//	nic ◄──────────────────────── stream of frames ────► virtio-net
//	agent ◄────────────────────── bytes ───────────────► virtio-console ─► guest.Serve
//	status ◄───────────────────── lines ───────────────► virtio-console ── "ready"
//	console ◄──────────────────── stdout ──────────────── serial port
//
// Start returns when the guest's process 1 has told that its agent serves, or says
// why not: QEMU's words, the guest's, or that the time was up.
//
// # What the guest and QEMU can reach
//
// QEMU gets files as open descriptors and no path of ours; disks that are
// ReadOnly are opened so. It has no monitor, no default devices, no network of its
// own, and on Linux a seccomp filter (-sandbox) that forbids it to execute
// anything. The lifeline ends it, on every system, when its starter is gone.
//
// # Which accelerator
//
// That a host offers one proves nothing: where KVM is nested, creating a machine
// may succeed and an ordinary kernel hang. So a boot is watched, one that isn't
// ready in time is killed, and what was learnt is remembered (see memory.go).
// Emulation is ten to fifty times slower than the machine itself: it is used only
// where [Config.Accelerators], or SLUICE_QEMU_ACCEL, names it.
package qemu

import (
	"cmp"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Role is argv[0] of a guest's supervisor.
const Role = "sluice:qemu"

// Environment variables that stand in for fields of Config.
const (
	acceleratorsVariable = "SLUICE_QEMU_ACCEL"
	kernelVariable       = "SLUICE_KERNEL"
)

// A Config says how guests are run. Its zero value is useful.
type Config struct {
	// Accelerators are those that may be used, in the order in which they are
	// tried: "kvm", "hvf", "tcg". Nil is the variable SLUICE_QEMU_ACCEL, a list
	// separated by commas; without it, the host's own.
	Accelerators []string
	// Kernel is what guests boot where hv.Config.Kernel is empty: an image as
	// /boot has them, libkrunfw's library, or a directory with boot and
	// lib/modules in it. "" is the variable SLUICE_KERNEL, else what kernel.Find
	// finds.
	Kernel string
	// Program is QEMU. "" looks for qemu-system-x86_64 or -aarch64 in PATH.
	Program string
	// Arch is the guests' processor as GOARCH has it. "" is the host's.
	Arch string
	// Agent is a static Linux executable for Arch that calls machine.Main. "" is
	// what guest.Executable finds.
	Agent string
	// BootTimeout bounds a boot. 0 means 15 s, twenty times what a boot takes with
	// hardware help; and 90 s with tcg, as much on a machine that has other work.
	BootTimeout time.Duration
	// Memory is the directory that keeps what was learnt of accelerators. "" is
	// one in the user's cache directory; if there is none, nothing is kept.
	Memory string

	board *board // a test's; nil chooses one that fits
}

// A Hypervisor starts QEMU's machines. Use New. Its methods may be called by
// several goroutines.
type Hypervisor struct {
	cfg Config

	probing sync.Mutex // held by the one Probe that boots
}

// New returns a Hypervisor.
func New(cfg Config) *Hypervisor {
	cfg.Arch = cmp.Or(cfg.Arch, runtime.GOARCH)
	cfg.Kernel = cmp.Or(cfg.Kernel, os.Getenv(kernelVariable))
	if cfg.Accelerators == nil {
		cfg.Accelerators = defaultAccelerators(os.Getenv(acceleratorsVariable))
	}
	if dir, err := os.UserCacheDir(); err == nil {
		cfg.Memory = cmp.Or(cfg.Memory, filepath.Join(dir, "sluice", "qemu"))
	}
	return &Hypervisor{cfg: cfg}
}

// Name returns "qemu".
func (h *Hypervisor) Name() string { return "qemu" }

// Accelerators.
const (
	kvm = "kvm"
	hvf = "hvf"
	tcg = "tcg"
)

// defaultAccelerators returns the accelerators that a list names, or the host's
// own if it names none.
func defaultAccelerators(list string) []string {
	if names := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }); len(names) > 0 {
		return names
	}
	switch runtime.GOOS {
	case "linux":
		return []string{kvm}
	case "darwin":
		return []string{hvf}
	}
	return nil
}

// bootTimeout returns how long a boot with an accelerator may take.
func (h *Hypervisor) bootTimeout(accelerator string) time.Duration {
	if accelerator == tcg {
		return cmp.Or(h.cfg.BootTimeout, 90*time.Second)
	}
	return cmp.Or(h.cfg.BootTimeout, 15*time.Second)
}
