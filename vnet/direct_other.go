//go:build !linux

package vnet

import "time"

// direct is nil here: every flow goes through the stack.
type direct struct{}

// directFlow is a flow that there is none of.
type directFlow struct{}

func newDirect(*Network) (*direct, error)         { return nil, nil }
func (*direct) takes(*tcpFlow) bool               { return false }
func (*direct) open(*tcpFlow, *packet, time.Time) {}
func (*direct) run(*reader) error                 { return nil }
func (*direct) segment(*packet, time.Time) bool   { return false }
func (*direct) keepAlive(time.Time)               {}
func (*direct) close()                            {}
func (*directFlow) reviewed()                     {}
