package krun

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// soname is libkrun's, of the one interface that is spoken here. The functions
// of libkrun 2 are others.
const soname = "libkrun.so.1"

// candidates returns the names to open libkrun under, in the order of trying.
// SLUICE_LIBKRUN, a file, is the only one where it is set; LIBKRUN_PATH, a file or
// a directory, comes first. A bare name is looked up as the system does; a path is
// made absolute, since the process that opens it has another directory.
func candidates(getenv func(string) string) []string {
	if path := getenv("SLUICE_LIBKRUN"); path != "" {
		return []string{located(path)}
	}
	var names []string
	if path := getenv("LIBKRUN_PATH"); path != "" {
		if !strings.Contains(filepath.Base(path), ".so") {
			path += "/" + soname
		}
		names = append(names, located(path))
	}
	return append(names, soname,
		"/home/linuxbrew/.linuxbrew/lib/"+soname,
		"/usr/lib64/"+soname, // Fedora's, on a system that doesn't look there
		"/usr/local/lib64/"+soname,
		"/usr/local/lib/"+soname,
	)
}

// located returns a path as an absolute one, and a bare name as it is.
func located(path string) string {
	if absolute, err := filepath.Abs(path); err == nil && strings.Contains(path, "/") {
		return absolute
	}
	return path
}

// Features of krun_has_feature.
const (
	featureNet  = 0
	featureDisk = 1
)

// functions is an open libkrun. Each method but has is the function of that name
// in libkrun.h, from 1.15 on; it returns what the function does: 0 or a positive
// number, or the negative number of an error, and errMissing where the library
// hasn't got it. Strings and slices are the callee's during the call only, which
// is all that libkrun needs; descriptors stay the caller's, and must stay open.
type functions interface {
	// has reports whether the library has a function, by its C name.
	has(function string) bool
	hasFeature(feature uint64) int32
	initLog(fd int, level, style, options uint32) int32
	setLogLevel(level uint32) int32
	createContext() int32
	maxCPUs() int32
	setVMConfig(ctx uint32, cpus uint8, memoryMiB uint32) int32
	disableImplicitVsock(ctx uint32) int32
	disableImplicitConsole(ctx uint32) int32
	disableImplicitInit(ctx uint32) int32
	addVsock(ctx, tsiFeatures uint32) int32
	addVsockPort(ctx, port uint32, path string) int32
	setRoot(ctx uint32, path string) int32
	addVirtioFS(ctx uint32, tag, path string, sharedMemory uint64, readOnly bool) int32 // krun_add_virtiofs3
	addDisk(ctx uint32, id, path string, readOnly bool) int32                           // a raw one
	setKernel(ctx uint32, path string, format uint32, initrd, commandLine string) int32
	appendCommandLine(ctx uint32, word string) int32
	setExec(ctx uint32, path string, argv, env []string) int32
	addNetStream(ctx uint32, fd int, mac [6]byte, features, flags uint32) int32
	addConsole(ctx uint32) int32 // krun_add_virtio_console_multiport
	addConsoleTTY(ctx, console uint32, name string, fd int) int32
	addConsolePort(ctx, console uint32, name string, in, out int) int32
	startEnter(ctx uint32) int32 // doesn't return once the VM runs
}

// The functions without which no VM is started. Who lacks krun_add_net_unixstream
// is older than 1.15, or was built without network devices: then all that the
// guest connects goes through the host's kernel.
var required = []string{
	"krun_create_ctx", "krun_set_vm_config", "krun_add_net_unixstream", "krun_start_enter",
}

// An offer is what a library can do for a VM. It is the first message of the VM's
// process.
type offer struct {
	Path string `json:"path"` // of the library's file
	// ReadOnly says that directories can be shown read-only.
	ReadOnly bool `json:"read_only"`
	// Disks says that there are disks.
	Disks bool `json:"disks"`
	// Kernel says that a kernel can be chosen.
	Kernel bool `json:"kernel"`
	// Port says that the agent gets a port of the console. Where it doesn't, it
	// connects by vsock.
	Port bool `json:"port"`
	// NoCard says that a guest without a card can be kept from the host's
	// network.
	NoCard bool `json:"no_card"`
}

// A libraryError says that a library can't be used, and what would help. It is an
// errors.ErrUnsupported.
type libraryError struct {
	what string
	fix  string
}

const (
	fixInstall = "install libkrun 1.17 or newer (Fedora: dnf install libkrun, Arch: pacman -S libkrun, " +
		"elsewhere: brew install libkrun), or set SLUICE_LIBKRUN to the path of its libkrun.so.1"
	fixNet   = "install a libkrun that was built with NET=1"
	fixNewer = "install libkrun 1.18 or newer"
)

// examine decides from a library's functions whether it can be used, and for
// what.
func examine(f functions, path string) (offer, error) {
	if f.has("krun_vmm_builder_new") && !f.has("krun_create_ctx") {
		return offer{}, &libraryError{path + " is libkrun 2, whose functions are others", fixInstall}
	}
	for _, name := range required {
		if !f.has(name) {
			fix := fixInstall
			if name == "krun_add_net_unixstream" {
				fix = fixNet
			}
			return offer{}, &libraryError{fmt.Sprintf("%s has no %s", path, name), fix}
		}
	}
	// krun_has_feature came later than the network did. Without it the proof is
	// that the call which adds the card succeeds.
	if f.has("krun_has_feature") && f.hasFeature(featureNet) != 1 {
		return offer{}, &libraryError{path + " was built without network devices: its guests would use the host's network", fixNet}
	}
	if !f.has("krun_set_root") && !f.has("krun_add_virtiofs3") {
		return offer{}, &libraryError{path + " can't give a guest a directory", fixNewer}
	}
	if !f.has("krun_append_kernel_cmdline") && !f.has("krun_set_exec") {
		return offer{}, &libraryError{path + " can't be told what a guest's process 1 is", fixNewer}
	}
	o := offer{
		Path:     path,
		ReadOnly: f.has("krun_add_virtiofs3"),
		Disks:    f.has("krun_add_disk"),
		Kernel:   f.has("krun_set_kernel"),
		Port: all(f, "krun_add_virtio_console_multiport", "krun_add_console_port_tty", "krun_add_console_port_inout",
			"krun_disable_implicit_console"),
		NoCard: f.has("krun_disable_implicit_vsock"),
	}
	if f.has("krun_has_feature") && f.hasFeature(featureDisk) != 1 {
		o.Disks = false
	}
	// Once the implicit vsock is off, krun_add_vsock_port is -ENODEV without an
	// explicit one.
	vsock := f.has("krun_add_vsock_port") && (f.has("krun_add_vsock") || !f.has("krun_disable_implicit_vsock"))
	if !o.Port && !vsock {
		return offer{}, &libraryError{path + " has no way to the agent: neither ports of a console nor vsock", fixNewer}
	}
	return o, nil
}

// all reports whether f has every one of the functions.
func all(f functions, names ...string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return !f.has(name) })
}

// errNoCgo is why a program without cgo starts no VM.
var errNoCgo = &libraryError{
	"this program was built without cgo, and can't open libkrun",
	"build with CGO_ENABLED=1 and gcc (make build-krun), or set SLUICE_EXECUTABLE to a sluice that was",
}
