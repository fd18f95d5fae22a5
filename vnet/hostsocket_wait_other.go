//go:build !unix

package vnet

import "net"

// waitReadable leaves the waiting to the read that follows, with a buffer.
func waitReadable(*net.UDPConn) error { return nil }
