package vnet

import (
	"net"
	"net/netip"
)

// A Block is one sandbox's part of the address pools: a /30 and a /64.
type Block struct {
	Prefix4, Prefix6   netip.Prefix
	Gateway4, Gateway6 netip.Addr // +1, ::1
	Guest4, Guest6     netip.Addr // +2, ::2
	GuestMAC           net.HardwareAddr
	GatewayMAC         net.HardwareAddr
}
