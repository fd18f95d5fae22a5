// Package darwincheck type-checks what sluice is on macOS, on any machine: its
// test loads every package of the module as darwin with cgo sees it and fails on
// type errors in ours.
//
// go build and go vet can't do that without Apple's compiler and SDK, because
// packages on the way (net, vz) use cgo. go/types can: it is told to fake
// import "C".
//
// What it will not do: check a use of C itself, which is why our own darwin files
// have none; report errors in other modules, where faking C makes false ones; or
// look at test files, which go vet with CGO_ENABLED=0 does.
package darwincheck
