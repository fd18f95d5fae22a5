package krun

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
)

// everything is what libkrun 1.18 has, of what is used.
var everything = []string{
	"krun_has_feature", "krun_init_log", "krun_set_log_level", "krun_create_ctx", "krun_get_max_vcpus",
	"krun_set_vm_config", "krun_disable_implicit_vsock", "krun_disable_implicit_console", "krun_disable_implicit_init",
	"krun_add_vsock", "krun_add_vsock_port", "krun_set_root", "krun_add_virtiofs3", "krun_add_disk", "krun_set_kernel",
	"krun_set_exec", "krun_add_net_unixstream", "krun_add_virtio_console_multiport", "krun_add_console_port_tty",
	"krun_add_console_port_inout", "krun_start_enter",
}

// older is what libkrun 1.15 has: no ports of consoles, nothing to switch off,
// nothing read-only.
var older = without("krun_has_feature", "krun_get_max_vcpus", "krun_disable_implicit_vsock", "krun_disable_implicit_console",
	"krun_disable_implicit_init", "krun_add_vsock", "krun_add_virtiofs3", "krun_add_virtio_console_multiport",
	"krun_add_console_port_tty", "krun_add_console_port_inout")

// without returns everything but names.
func without(names ...string) []string {
	return slices.DeleteFunc(slices.Clone(everything), func(name string) bool { return slices.Contains(names, name) })
}

// A recorder is a libkrun that notes its calls.
type recorder struct {
	present []string
	results map[string]int32 // what functions return; 0 where it has none
	calls   []string
}

var _ functions = (*recorder)(nil)

// newRecorder returns a library with these functions, that was built with
// everything.
func newRecorder(present []string) *recorder {
	return &recorder{present: present, results: map[string]int32{"krun_has_feature": 1, "krun_get_max_vcpus": 8, "krun_create_ctx": 5, "krun_add_virtio_console_multiport": 3}}
}

func (r *recorder) has(function string) bool { return slices.Contains(r.present, function) }

// call notes a call of a function that the library must have.
func (r *recorder) call(function string, args ...any) int32 {
	if !r.has(function) {
		r.calls = append(r.calls, "MISSING "+function)
		return errMissing
	}
	r.calls = append(r.calls, strings.TrimSuffix(fmt.Sprintln(append([]any{function}, args...)...), "\n"))
	return r.results[function]
}

// called returns the names of the functions that were called.
func (r *recorder) called() []string {
	var names []string
	for _, call := range r.calls {
		name, _, _ := strings.Cut(call, " ")
		names = append(names, name)
	}
	return names
}

func (r *recorder) hasFeature(feature uint64) int32 { return r.call("krun_has_feature", feature) }
func (r *recorder) initLog(fd int, level, style, options uint32) int32 {
	return r.call("krun_init_log", fd, level, style, options)
}
func (r *recorder) setLogLevel(level uint32) int32 { return r.call("krun_set_log_level", level) }
func (r *recorder) createContext() int32           { return r.call("krun_create_ctx") }
func (r *recorder) maxCPUs() int32                 { return r.call("krun_get_max_vcpus") }
func (r *recorder) setVMConfig(ctx uint32, cpus uint8, memoryMiB uint32) int32 {
	return r.call("krun_set_vm_config", ctx, cpus, memoryMiB)
}
func (r *recorder) disableImplicitVsock(ctx uint32) int32 {
	return r.call("krun_disable_implicit_vsock", ctx)
}
func (r *recorder) disableImplicitConsole(ctx uint32) int32 {
	return r.call("krun_disable_implicit_console", ctx)
}
func (r *recorder) disableImplicitInit(ctx uint32) int32 {
	return r.call("krun_disable_implicit_init", ctx)
}
func (r *recorder) addVsock(ctx, tsi uint32) int32 { return r.call("krun_add_vsock", ctx, tsi) }
func (r *recorder) addVsockPort(ctx, port uint32, path string) int32 {
	return r.call("krun_add_vsock_port", ctx, port, path)
}
func (r *recorder) setRoot(ctx uint32, path string) int32 { return r.call("krun_set_root", ctx, path) }
func (r *recorder) addVirtioFS(ctx uint32, tag, path string, shm uint64, readOnly bool) int32 {
	return r.call("krun_add_virtiofs3", ctx, tag, path, shm, readOnly)
}
func (r *recorder) addDisk(ctx uint32, id, path string, readOnly bool) int32 {
	return r.call("krun_add_disk", ctx, id, path, readOnly)
}
func (r *recorder) setKernel(ctx uint32, path string, format uint32, initrd, line string) int32 {
	return r.call("krun_set_kernel", ctx, path, format, initrd, line)
}
func (r *recorder) appendCommandLine(ctx uint32, word string) int32 {
	return r.call("krun_append_kernel_cmdline", ctx, word)
}
func (r *recorder) setExec(ctx uint32, path string, argv, env []string) int32 {
	return r.call("krun_set_exec", ctx, path, argv, env)
}
func (r *recorder) addNetStream(ctx uint32, fd int, mac [6]byte, features, flags uint32) int32 {
	return r.call("krun_add_net_unixstream", ctx, fd, mac, features, flags)
}
func (r *recorder) addConsole(ctx uint32) int32 {
	return r.call("krun_add_virtio_console_multiport", ctx)
}
func (r *recorder) addConsoleTTY(ctx, console uint32, name string, fd int) int32 {
	return r.call("krun_add_console_port_tty", ctx, console, name, fd)
}
func (r *recorder) addConsolePort(ctx, console uint32, name string, in, out int) int32 {
	return r.call("krun_add_console_port_inout", ctx, console, name, in, out)
}
func (r *recorder) startEnter(ctx uint32) int32 { return r.call("krun_start_enter", ctx) }

// failing makes a function fail.
func (r *recorder) failing(function string, errno syscall.Errno) *recorder {
	r.results[function] = -int32(errno)
	return r
}
