//go:build !linux || !cgo

package krun

// roles are what this binary is besides a test, by argv[0]: no guest here.
var roles = map[string]func(){Role: Main}
