//go:build !linux && !darwin

package sluice

// backends is the table of platforms without a hypervisor; everything else
// compiles there all the same.
func backends() []Backend { return nil }
