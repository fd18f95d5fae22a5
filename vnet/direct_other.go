//go:build !linux

package vnet

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// direct is nil here: every flow goes through the stack.
type direct struct{}

// directFlow is a flow that there is none of.
type directFlow struct{}

func newDirect(*Network) (*direct, error)            { return nil, nil }
func (*direct) takes(*tcpFlow) bool                  { return false }
func (*direct) open(*tcpFlow, header.TCP, time.Time) {}
func (*direct) segment(*packet, time.Time) bool      { return false }
func (*direct) flush(time.Time)                      {}
func (*direct) keepAlive(time.Time)                  {}
func (*direct) run()                                 {}
func (*direct) close() error                         { return nil }
func (*directFlow) reviewed()                        {}
