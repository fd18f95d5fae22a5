//go:build !linux

package vnet

import (
	"net/netip"

	"github.com/sluicenet/sluice/policy"
)

// withHolder has nothing to add here: no interface without a helper tells who
// holds a port.
func withHolder(err error, _ netip.AddrPort, _ policy.Protocol) error { return err }
