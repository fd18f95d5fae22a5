// Package guest is the agent inside a guest, and its client on the host.
//
// On the host, [NewClient] takes the byte stream that a hypervisor hands over;
// Boot tells the guest what it is to be, Run runs its command. In the guest,
// [Serve] is the other end of that stream, and a [System] is what it acts on:
// [NewSystem] is the machine that the agent is process 1 of.
//
//	host                                   guest
//	Client.Boot ──── boot: Bootstrap ────► System.Boot       addresses, routes, files
//	            ◄─── done ────────────────
//	Client.Run ───── run: Command ───────► System.Start      one command
//	Client.Signal ── signal: 15 ─────────► Process.Signal
//	            ◄─── exit: code or signal  Process.Wait      and the agent ends
//
// Setting up (network_linux.go, files.go) and reaping (reap_linux.go) know
// nothing of the stream, so that another transport can carry them.
//
// The guest is hostile to the host: whatever it sends, the client allocates at
// most [maxReply] bytes for it and fails the calls that wait. What the package
// won't do: start the guest (package hv does), or trust its word for anything
// but the outcome of its own command.
package guest

import (
	"net"
	"net/netip"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// Bootstrap is the first message to the agent: what the guest is to be. No
// command runs before it is acknowledged.
type Bootstrap struct {
	Hostname string   `json:"hostname"`          // "" leaves the guest's own
	Network  *Network `json:"network,omitempty"` // nil: only loopback
}

// Network is the guest's network configuration.
type Network struct {
	Interface   string         `json:"interface"` // "" is the only card
	MTU         int            `json:"mtu"`       // bytes of IP packet; 0 leaves the card's own
	Addrs       []netip.Prefix `json:"addrs"`     // with the on-link prefix length
	Gateways    []netip.Addr   `json:"gateways"`  // on-link routes always, default routes for Default
	Default4    bool           `json:"default4"`  // the host can use IPv4
	Default6    bool           `json:"default6"`  // the host can use IPv6
	Nameservers []netip.Addr   `json:"nameservers"`
	Hosts       []HostEntry    `json:"hosts"` // lines for /etc/hosts
	// GatewayMAC, unless empty, is entered as every gateway's permanent
	// neighbour, which saves the first packet an ARP or NDP exchange.
	GatewayMAC HardwareAddr `json:"gateway_mac,omitempty"`
}

// HostEntry is a line of /etc/hosts.
type HostEntry struct {
	Addr  netip.Addr `json:"addr"`
	Names []string   `json:"names"`
}

// HardwareAddr is a net.HardwareAddr whose JSON is its text form.
type HardwareAddr net.HardwareAddr

// String returns the address as net.HardwareAddr does.
func (a HardwareAddr) String() string { return net.HardwareAddr(a).String() }

// MarshalText returns the text form; the empty address is empty text.
func (a HardwareAddr) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText parses what MarshalText returns.
func (a *HardwareAddr) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*a = nil
		return nil
	}
	mac, err := net.ParseMAC(string(text))
	if err != nil {
		return err
	}
	*a = HardwareAddr(mac)
	return nil
}

// Command is a program to run in the guest.
type Command struct {
	Args []string `json:"args"` // Args[0] is looked up in the PATH of Env
	Env  []string `json:"env"`  // the whole environment, as NAME=value
	Dir  string   `json:"dir"`  // "" is the root directory
}

// An Exit says how a command ended.
type Exit struct {
	Code   int `json:"code"`   // exit code, 0…255; -1 if a signal ended it
	Signal int `json:"signal"` // number of that signal, 1…64; 0 if none
}

// Status returns the exit as a shell's $? shows it: the code, or 128 and the
// signal's number.
func (e Exit) Status() int {
	if e.Signal != 0 {
		return 128 + e.Signal
	}
	return e.Code
}

// The codes of a StartError, as shells and container tools use them.
const (
	CodeRefused       = 125 // the agent could not try
	CodeNotExecutable = 126 // found, but it can't be run
	CodeNotFound      = 127 // no such program
)

// A StartError says that a command was not started.
type StartError struct {
	Code int `json:"code"` // CodeRefused, CodeNotExecutable or CodeNotFound
	// Message is the agent's words. From a Client it is fit for a terminal.
	Message string `json:"message"`
}

// Error returns the agent's words.
func (e *StartError) Error() string { return "start command: " + e.Message }

// A RemoteError is the agent's answer that it could not do what it was asked.
// Its text is the guest's word: show it, but never act on it.
type RemoteError struct {
	Message string // fit for a terminal
}

// Error returns the agent's words.
func (e *RemoteError) Error() string { return "agent: " + e.Message }

// printable returns s, quoted if a character of it doesn't print: a guest must
// not reach the user's terminal with control sequences in an error.
func printable(s string) string {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}
