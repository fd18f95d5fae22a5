//go:build linux && !cgo

package krun

// openLibrary says that this program can't open a library: without cgo it has no
// dynamic linker.
func openLibrary([]string) (functions, string, error) { return nil, "", errNoCgo }

// builtWithCgo reports whether openLibrary can work.
const builtWithCgo = false
