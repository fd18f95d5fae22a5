package krun

import (
	"fmt"
	"strings"
	"syscall"

	"github.com/sluicenet/sluice/internal/guest/machine"
)

// Levels and options of libkrun's log.
const (
	logWarn     = 2
	styleNever  = 2 // no colours
	optionNoEnv = 1 // RUST_LOG doesn't count
)

// A step is a call of libkrun's, which must succeed.
type step struct {
	function string
	call     func() int32
}

// run makes calls in order, up to the first that fails.
func run(steps []step) error {
	for _, s := range steps {
		if err := result(s.function, s.call()); err != nil {
			return err
		}
	}
	return nil
}

// openLog sends libkrun's log to the process's standard error. It comes before
// all else: creating a context logs.
func openLog(f functions, level uint32) error {
	if f.has("krun_init_log") {
		return result("krun_init_log", f.initLog(2, level, styleNever, optionNoEnv))
	}
	if f.has("krun_set_log_level") {
		return result("krun_set_log_level", f.setLogLevel(level))
	}
	return nil // it logs errors
}

// configure makes a VM of s that is ready to be started, and returns its context.
// The library fits s.
//
// What libkrun adds by itself is switched off first, so that a call which fails
// later leaves nothing switched on: its vsock carries the guest's connections to
// the host's kernel (TSI), its console is this process's standard files, its init
// would run instead of the agent.
func configure(f functions, s spec) (uint32, error) {
	if err := openLog(f, s.LogLevel); err != nil {
		return 0, err
	}
	if f.has("krun_get_max_vcpus") {
		if most := f.maxCPUs(); most > 0 && int32(s.CPUs) > most {
			return 0, fmt.Errorf("%d processors are more than KVM's %d", s.CPUs, most)
		}
	}
	// This also opens libkrunfw, by its bare name: see openFirmware.
	created := f.createContext()
	if err := result("krun_create_ctx", created); err != nil {
		return 0, err
	}
	ctx := uint32(created)
	if err := switchOff(f, ctx); err != nil {
		return 0, err
	}
	steps := []step{{"krun_set_vm_config", func() int32 { return f.setVMConfig(ctx, s.CPUs, s.MemoryMiB) }}}
	steps = append(steps, fileSteps(f, ctx, s)...)
	if s.Card {
		steps = append(steps, step{"krun_add_net_unixstream", func() int32 {
			return f.addNetStream(ctx, cardFD, s.MAC, s.Features, 0)
		}})
	}
	if err := run(steps); err != nil {
		return 0, err
	}
	if s.Kernel == "" {
		if err := tellProcess1(f, ctx, s.Words); err != nil {
			return 0, err
		}
	}
	if len(s.Vsock) > 0 {
		return ctx, run(vsockSteps(f, ctx, s.Vsock))
	}
	return ctx, addPorts(f, ctx)
}

// switchOff switches off what the library would add, as far as it can do
// without. -ENOTSUP is the answer of a library that has no such thing any more.
func switchOff(f functions, ctx uint32) error {
	for _, s := range []step{
		{"krun_disable_implicit_vsock", func() int32 { return f.disableImplicitVsock(ctx) }},
		{"krun_disable_implicit_console", func() int32 { return f.disableImplicitConsole(ctx) }},
		{"krun_disable_implicit_init", func() int32 { return f.disableImplicitInit(ctx) }},
	} {
		if !f.has(s.function) {
			continue
		}
		returned := s.call()
		// All but vsock: where that can't be switched off, TSI is on.
		if returned == -int32(syscall.ENOTSUP) && s.function != "krun_disable_implicit_vsock" {
			continue
		}
		if err := result(s.function, returned); err != nil {
			return err
		}
	}
	return nil
}

// fileSteps are the calls that give the VM its kernel, directories and disks.
func fileSteps(f functions, ctx uint32, s spec) []step {
	var steps []step
	if s.Kernel != "" {
		steps = append(steps, step{"krun_set_kernel", func() int32 {
			return f.setKernel(ctx, s.Kernel, s.KernelFormat, s.Initrd, commandLine(s))
		}})
	}
	// The window of memory that a guest may map files through (DAX) is 0 bytes: one for
	// the agent alone isn't worth the half GiB of addresses that krun_set_root takes.
	if f.has("krun_add_virtiofs3") {
		steps = append(steps, step{"krun_add_virtiofs3", func() int32 { return f.addVirtioFS(ctx, bootTag, s.boot(), 0, true) }})
	} else {
		steps = append(steps, step{"krun_set_root", func() int32 { return f.setRoot(ctx, s.boot()) }})
	}
	if s.Root != "" {
		steps = append(steps, step{"krun_add_virtiofs3", func() int32 { return f.addVirtioFS(ctx, rootTag, s.Root, 0, true) }})
	}
	// krun_add_disk takes its image for a raw one. Those that look at an image's format
	// (krun_add_disk2) would follow one that a guest wrote into it to files of the host.
	for i, d := range s.Disks {
		id := fmt.Sprintf("disk%d", i)
		steps = append(steps, step{"krun_add_disk", func() int32 { return f.addDisk(ctx, id, d.Path, d.ReadOnly) }})
	}
	return steps
}

// commandLine returns the command line for a kernel that isn't libkrunfw's: what
// libkrun gives its own, and the words. The machine ends by a reset of the keyboard's
// controller (reboot=k), which is the one that libkrun plays; a panic resets at once.
func commandLine(s spec) string {
	words := []string{"reboot=k", "panic=-1", "panic_print=0", "nomodule", "console=hvc0", "quiet"}
	if s.Initrd == "" {
		words = append(words, "root="+bootTag, "rootfstype=virtiofs", "ro")
	}
	return strings.Join(append(words, s.Words...), " ")
}

// tellProcess1 puts the words onto the command line of libkrunfw's kernel.
// Newer libraries have a function for that. With the others the words travel as an
// environment, which libkrun puts there word by word, in quotes; the last "init="
// is the one that counts, and should the kernel start libkrun's init all the same,
// that is told to become the agent. An environment is always given: without one
// libkrun takes the host's.
func tellProcess1(f functions, ctx uint32, words []string) error {
	if f.has("krun_append_kernel_cmdline") {
		for _, word := range words {
			if err := result("krun_append_kernel_cmdline", f.appendCommandLine(ctx, word)); err != nil {
				return err
			}
		}
		return nil
	}
	env := append([]string{"KRUN_INIT_PID1=1"}, words...)
	return result("krun_set_exec", f.setExec(ctx, machine.Role, nil, env))
}

// vsockSteps are the calls by which the agent connects to the host's socket. The
// device that they add hands no connections of the guest's on: explicitly, or,
// with an older library, because there is a card.
func vsockSteps(f functions, ctx uint32, paths []string) []step {
	var steps []step
	if f.has("krun_disable_implicit_vsock") && f.has("krun_add_vsock") {
		steps = append(steps, step{"krun_add_vsock", func() int32 { return f.addVsock(ctx, 0) }})
	}
	for i, path := range paths {
		steps = append(steps, step{"krun_add_vsock_port", func() int32 { return f.addVsockPort(ctx, vsockPort+uint32(i), path) }})
	}
	return steps
}

// addPorts adds the console and the agent's ports. A console without a terminal
// would have its text mixed into libkrun's log.
func addPorts(f functions, ctx uint32) error {
	// The first port is hvc0, so the terminal comes first.
	added := f.addConsole(ctx)
	if err := result("krun_add_virtio_console_multiport", added); err != nil {
		return err
	}
	console := uint32(added)
	return run([]step{
		{"krun_add_console_port_tty", func() int32 { return f.addConsoleTTY(ctx, console, "console", consoleFD) }},
		{"krun_add_console_port_inout", func() int32 { return f.addConsolePort(ctx, console, machine.AgentPort, agentFD, agentFD) }},
		{"krun_add_console_port_inout", func() int32 { return f.addConsolePort(ctx, console, machine.StatusPort, statusFD, statusFD) }},
	})
}
