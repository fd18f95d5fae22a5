// Package holder says which process holds a port of this host, for the error of one
// that wanted it too. Call [Of].
//
// What it will not do: look where the system doesn't tell. Only Linux does, in /proc,
// and there neither of other users' processes nor to a process that is confined, as a
// sandbox's is.
package holder

import "net/netip"

// Of returns the name and number of a process that has a socket bound to addr's port,
// on its address or on all: a TCP listener, or with udp a UDP socket. It is "" if
// there is none, or it can't be told.
func Of(addr netip.AddrPort, udp bool) string { return of(addr, udp) }
