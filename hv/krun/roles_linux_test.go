//go:build cgo

package krun

// roles are what this binary is besides a test, by argv[0].
var roles = map[string]func(){Role: Main, hostRole: hostMain, sealRole: sealMain}
