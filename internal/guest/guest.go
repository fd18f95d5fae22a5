// Package guest is the agent inside a guest, and its client on the host.
package guest

import "net/netip"

// Bootstrap is the first message to the agent: what the guest is to be. No
// command runs before it is acknowledged.
type Bootstrap struct {
	Hostname string   `json:"hostname"`
	Network  *Network `json:"network,omitempty"` // nil: only loopback
}

// Network is the guest's network configuration.
type Network struct {
	Interface   string         `json:"interface"` // "" is the only card
	MTU         int            `json:"mtu"`
	Addrs       []netip.Prefix `json:"addrs"`    // with the on-link prefix length
	Gateways    []netip.Addr   `json:"gateways"` // on-link routes always, default routes for Default
	Default4    bool           `json:"default4"` // the host can use IPv4
	Default6    bool           `json:"default6"`
	Nameservers []netip.Addr   `json:"nameservers"`
	Hosts       []HostEntry    `json:"hosts"` // lines for /etc/hosts
}

// HostEntry is a line of /etc/hosts.
type HostEntry struct {
	Addr  netip.Addr `json:"addr"`
	Names []string   `json:"names"`
}

// Command is a program to run in the guest.
type Command struct {
	Args []string `json:"args"` // Args[0] is looked up in the guest's PATH
	Env  []string `json:"env"`
	Dir  string   `json:"dir"`
}
