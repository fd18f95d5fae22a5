//go:build !linux

package holder

import "net/netip"

// See holder.go.
func of(netip.AddrPort, bool) string { return "" }
