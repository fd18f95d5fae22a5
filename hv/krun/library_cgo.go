//go:build linux && cgo

package krun

/*
#cgo LDFLAGS: -ldl
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

// libkrun's prototypes, each behind a function that takes the address of it: cgo
// can't call a pointer. They are those of include/libkrun.h, written out here so
// that neither header nor library is needed to build.
#define CALL(ret, types, ...) return ((ret (*) types)f)(__VA_ARGS__)

static int32_t call_has_feature(void *f, uint64_t feature) { CALL(int32_t, (uint64_t), feature); }
static int32_t call_init_log(void *f, int fd, uint32_t level, uint32_t style, uint32_t options) {
	CALL(int32_t, (int, uint32_t, uint32_t, uint32_t), fd, level, style, options);
}
static int32_t call_level(void *f, uint32_t level) { CALL(int32_t, (uint32_t), level); }
static int32_t call_none(void *f) { CALL(int32_t, (void)); }
static int32_t call_ctx(void *f, uint32_t ctx) { CALL(int32_t, (uint32_t), ctx); }
static int32_t call_vm_config(void *f, uint32_t ctx, uint8_t cpus, uint32_t mib) {
	CALL(int32_t, (uint32_t, uint8_t, uint32_t), ctx, cpus, mib);
}
static int32_t call_add_vsock(void *f, uint32_t ctx, uint32_t tsi) { CALL(int32_t, (uint32_t, uint32_t), ctx, tsi); }
static int32_t call_vsock_port(void *f, uint32_t ctx, uint32_t port, const char *path) {
	CALL(int32_t, (uint32_t, uint32_t, const char *), ctx, port, path);
}
static int32_t call_string(void *f, uint32_t ctx, const char *s) { CALL(int32_t, (uint32_t, const char *), ctx, s); }
static int32_t call_virtiofs3(void *f, uint32_t ctx, const char *tag, const char *path, uint64_t shm, bool ro) {
	CALL(int32_t, (uint32_t, const char *, const char *, uint64_t, bool), ctx, tag, path, shm, ro);
}
static int32_t call_add_disk(void *f, uint32_t ctx, const char *id, const char *path, bool ro) {
	CALL(int32_t, (uint32_t, const char *, const char *, bool), ctx, id, path, ro);
}
static int32_t call_set_kernel(void *f, uint32_t ctx, const char *path, uint32_t format, const char *initrd, const char *line) {
	CALL(int32_t, (uint32_t, const char *, uint32_t, const char *, const char *), ctx, path, format, initrd, line);
}
static int32_t call_set_exec(void *f, uint32_t ctx, const char *path, const char *const *argv, const char *const *envp) {
	CALL(int32_t, (uint32_t, const char *, const char *const *, const char *const *), ctx, path, argv, envp);
}
static int32_t call_add_net(void *f, uint32_t ctx, int fd, uint8_t *mac, uint32_t features, uint32_t flags) {
	CALL(int32_t, (uint32_t, const char *, int, uint8_t *, uint32_t, uint32_t), ctx, NULL, fd, mac, features, flags);
}
static int32_t call_port_tty(void *f, uint32_t ctx, uint32_t console, const char *name, int fd) {
	CALL(int32_t, (uint32_t, uint32_t, const char *, int), ctx, console, name, fd);
}
static int32_t call_port_inout(void *f, uint32_t ctx, uint32_t console, const char *name, int in, int out) {
	CALL(int32_t, (uint32_t, uint32_t, const char *, int, int), ctx, console, name, in, out);
}
static const char *file_of(void *symbol) {
	Dl_info info;
	return dladdr(symbol, &info) ? info.dli_fname : NULL;
}
*/
import "C"

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unsafe"
)

// A library is an open libkrun. It stays open for the life of the process.
type library struct {
	handle unsafe.Pointer
	path   string
}

var _ functions = (*library)(nil)

// openLibrary opens the first of the candidates that can be, and libkrunfw beside
// it: libkrun itself would look for that only where the system does. The library
// needn't be fit for anything; see examine.
func openLibrary(names []string) (functions, string, error) {
	var why []string
	for _, name := range names {
		if _, err := os.Stat(name); filepath.IsAbs(name) && errors.Is(err, fs.ErrNotExist) && len(names) > 1 {
			continue // one place of many, where it isn't
		}
		c := C.CString(name)
		// NOW: a library that lacks one of its own is found out here, and not by the
		// process's death in the middle of a call. It is never closed: Rust's threads
		// and destructors don't survive that.
		handle := C.dlopen(c, C.RTLD_NOW|C.RTLD_LOCAL)
		C.free(unsafe.Pointer(c))
		if handle == nil {
			why = append(why, C.GoString(C.dlerror()))
			continue
		}
		l := &library{handle: handle, path: name}
		if file := C.file_of(l.symbol("krun_create_ctx")); file != nil {
			l.path = C.GoString(file)
		}
		l.openFirmware()
		return l, l.path, nil
	}
	return nil, "", &libraryError{"libkrun can't be opened: " + strings.Join(why, "; "), fixInstall}
}

// openFirmware opens libkrunfw, if it lies beside libkrun. That nobody finds it
// later is libkrun's error to report: a kernel of the caller's needs none.
func (l *library) openFirmware() {
	if !filepath.IsAbs(l.path) {
		return
	}
	c := C.CString(filepath.Join(filepath.Dir(l.path), "libkrunfw.so.5"))
	defer C.free(unsafe.Pointer(c))
	// libkrun opens it again by its bare name, which finds what is open.
	C.dlopen(c, C.RTLD_NOW|C.RTLD_GLOBAL)
}

// symbol returns the address of a function; nil if the library has none.
func (l *library) symbol(name string) unsafe.Pointer {
	c := C.CString(name)
	defer C.free(unsafe.Pointer(c))
	return C.dlsym(l.handle, c)
}

func (l *library) has(function string) bool { return l.symbol(function) != nil }

// with calls f with the address of a function, and returns errMissing if the
// library has none.
func (l *library) with(function string, f func(unsafe.Pointer) C.int32_t) int32 {
	symbol := l.symbol(function)
	if symbol == nil {
		return errMissing
	}
	return int32(f(symbol))
}

// A bundle holds C strings for the length of a call: libkrun makes Rust strings of
// all that it is given. (Only krun_fs_add_overlay_file keeps the caller's memory.)
type bundle []unsafe.Pointer

func (b *bundle) string(s string) *C.char {
	c := C.CString(s)
	*b = append(*b, unsafe.Pointer(c))
	return c
}

// array returns a NULL-terminated array of strings. NULL instead of an array would
// mean the host's environment to krun_set_exec.
func (b *bundle) array(strings []string) **C.char {
	memory := C.calloc(C.size_t(len(strings)+1), C.size_t(unsafe.Sizeof((*C.char)(nil))))
	*b = append(*b, memory)
	array := unsafe.Slice((**C.char)(memory), len(strings)+1)
	for i, s := range strings {
		array[i] = b.string(s)
	}
	return (**C.char)(memory)
}

func (b *bundle) free() {
	for _, p := range *b {
		C.free(p)
	}
}

func (l *library) hasFeature(feature uint64) int32 {
	return l.with("krun_has_feature", func(f unsafe.Pointer) C.int32_t { return C.call_has_feature(f, C.uint64_t(feature)) })
}

func (l *library) initLog(fd int, level, style, options uint32) int32 {
	return l.with("krun_init_log", func(f unsafe.Pointer) C.int32_t {
		return C.call_init_log(f, C.int(fd), C.uint32_t(level), C.uint32_t(style), C.uint32_t(options))
	})
}

func (l *library) setLogLevel(level uint32) int32 {
	return l.with("krun_set_log_level", func(f unsafe.Pointer) C.int32_t { return C.call_level(f, C.uint32_t(level)) })
}

func (l *library) createContext() int32 { return l.none("krun_create_ctx") }

func (l *library) maxCPUs() int32 { return l.none("krun_get_max_vcpus") }

// none calls a function without arguments.
func (l *library) none(function string) int32 {
	return l.with(function, func(f unsafe.Pointer) C.int32_t { return C.call_none(f) })
}

// ofContext calls a function whose only argument is the context.
func (l *library) ofContext(function string, ctx uint32) int32 {
	return l.with(function, func(f unsafe.Pointer) C.int32_t { return C.call_ctx(f, C.uint32_t(ctx)) })
}

// ofString calls a function whose arguments are the context and a string.
func (l *library) ofString(function string, ctx uint32, s string) int32 {
	var b bundle
	defer b.free()
	return l.with(function, func(f unsafe.Pointer) C.int32_t { return C.call_string(f, C.uint32_t(ctx), b.string(s)) })
}

func (l *library) setVMConfig(ctx uint32, cpus uint8, memoryMiB uint32) int32 {
	return l.with("krun_set_vm_config", func(f unsafe.Pointer) C.int32_t {
		return C.call_vm_config(f, C.uint32_t(ctx), C.uint8_t(cpus), C.uint32_t(memoryMiB))
	})
}

func (l *library) disableImplicitVsock(ctx uint32) int32 {
	return l.ofContext("krun_disable_implicit_vsock", ctx)
}

func (l *library) disableImplicitConsole(ctx uint32) int32 {
	return l.ofContext("krun_disable_implicit_console", ctx)
}

func (l *library) disableImplicitInit(ctx uint32) int32 {
	return l.ofContext("krun_disable_implicit_init", ctx)
}

func (l *library) addVsock(ctx, tsiFeatures uint32) int32 {
	return l.with("krun_add_vsock", func(f unsafe.Pointer) C.int32_t {
		return C.call_add_vsock(f, C.uint32_t(ctx), C.uint32_t(tsiFeatures))
	})
}

func (l *library) addVsockPort(ctx, port uint32, path string) int32 {
	var b bundle
	defer b.free()
	return l.with("krun_add_vsock_port", func(f unsafe.Pointer) C.int32_t {
		return C.call_vsock_port(f, C.uint32_t(ctx), C.uint32_t(port), b.string(path))
	})
}

func (l *library) setRoot(ctx uint32, path string) int32 {
	return l.ofString("krun_set_root", ctx, path)
}

func (l *library) addVirtioFS(ctx uint32, tag, path string, sharedMemory uint64, readOnly bool) int32 {
	var b bundle
	defer b.free()
	return l.with("krun_add_virtiofs3", func(f unsafe.Pointer) C.int32_t {
		return C.call_virtiofs3(f, C.uint32_t(ctx), b.string(tag), b.string(path), C.uint64_t(sharedMemory), C.bool(readOnly))
	})
}

func (l *library) addDisk(ctx uint32, id, path string, readOnly bool) int32 {
	var b bundle
	defer b.free()
	return l.with("krun_add_disk", func(f unsafe.Pointer) C.int32_t {
		return C.call_add_disk(f, C.uint32_t(ctx), b.string(id), b.string(path), C.bool(readOnly))
	})
}

// setKernel: libkrun takes a nil initrd for none, and would look for one named "".
func (l *library) setKernel(ctx uint32, path string, format uint32, initrd, commandLine string) int32 {
	var b bundle
	defer b.free()
	return l.with("krun_set_kernel", func(f unsafe.Pointer) C.int32_t {
		var initramfs *C.char // NULL is none
		if initrd != "" {
			initramfs = b.string(initrd)
		}
		return C.call_set_kernel(f, C.uint32_t(ctx), b.string(path), C.uint32_t(format), initramfs, b.string(commandLine))
	})
}

func (l *library) appendCommandLine(ctx uint32, word string) int32 {
	return l.ofString("krun_append_kernel_cmdline", ctx, word)
}

func (l *library) setExec(ctx uint32, path string, argv, env []string) int32 {
	var b bundle
	defer b.free()
	return l.with("krun_set_exec", func(f unsafe.Pointer) C.int32_t {
		return C.call_set_exec(f, C.uint32_t(ctx), b.string(path), b.array(argv), b.array(env))
	})
}

// addNetStream gives the descriptor, and so NULL for the path: the library refuses
// both. It copies the address; the descriptor becomes libkrun's when the VM starts.
func (l *library) addNetStream(ctx uint32, fd int, mac [6]byte, features, flags uint32) int32 {
	return l.with("krun_add_net_unixstream", func(f unsafe.Pointer) C.int32_t {
		return C.call_add_net(f, C.uint32_t(ctx), C.int(fd), (*C.uint8_t)(unsafe.Pointer(&mac[0])), C.uint32_t(features), C.uint32_t(flags))
	})
}

func (l *library) addConsole(ctx uint32) int32 {
	return l.ofContext("krun_add_virtio_console_multiport", ctx)
}

func (l *library) addConsoleTTY(ctx, console uint32, name string, fd int) int32 {
	var b bundle
	defer b.free()
	return l.with("krun_add_console_port_tty", func(f unsafe.Pointer) C.int32_t {
		return C.call_port_tty(f, C.uint32_t(ctx), C.uint32_t(console), b.string(name), C.int(fd))
	})
}

func (l *library) addConsolePort(ctx, console uint32, name string, in, out int) int32 {
	var b bundle
	defer b.free()
	return l.with("krun_add_console_port_inout", func(f unsafe.Pointer) C.int32_t {
		return C.call_port_inout(f, C.uint32_t(ctx), C.uint32_t(console), b.string(name), C.int(in), C.int(out))
	})
}

// startEnter returns only what went wrong before the VM ran: then libkrun has the
// thread, and ends the process by _exit, so that neither defers nor atexit run.
func (l *library) startEnter(ctx uint32) int32 { return l.ofContext("krun_start_enter", ctx) }

// builtWithCgo reports whether openLibrary can work.
const builtWithCgo = true
