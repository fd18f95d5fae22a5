//go:build !linux && !darwin

package vnet

import (
	"fmt"
	"net"
	"runtime"

	"errors"
)

// listenPing is not to be had here.
func listenPing(bool) (*net.UDPConn, error) {
	return nil, fmt.Errorf("open ICMP socket on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
