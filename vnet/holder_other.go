//go:build !linux

package vnet

import "net/netip"

// withHolder has nothing to add here: no interface without a helper tells who
// holds a port.
func withHolder(err error, _ netip.AddrPort) error { return err }
