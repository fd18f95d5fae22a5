//go:build !linux

package hvtest

// PlayMachine returns: there is no Machine but on Linux.
func PlayMachine() {}
