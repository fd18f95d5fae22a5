// Package guest is the agent inside a guest, and its client on the host.
//
// On the host, [NewClient] takes the byte stream that a hypervisor hands over;
// Boot tells the guest what it is to be, and Start, SFTP and Dial do things in
// it, many at once. In the guest, [Serve] is the other end of that stream, and a
// [System] is what it acts on: [NewSystem] is the machine that the agent is
// process 1 of.
//
// # Theory of operation
//
// The stream carries SSH (golang.org/x/crypto/ssh), the host being its client,
// with channel types of our own. Only the host opens channels, at most
// [maxChannels] at once; who comes when there are as many waits.
//
//	host                                        guest
//	Client.Boot ───── call@sluice: boot ──────► System.Boot      addresses, routes, files
//	            ◄──── reply
//	Client.Start ──── exec@sluice: Command ───► System.Start     a process
//	            ◄──── refused: StartError         or
//	            ◄──── started: pid
//	Process.Stdin ─── data ───────────────────► Child.Stdin
//	Process.Stdout ◄─ data, Stderr extended ─── Child.Stdout
//	            ───── credit ─────────────────► as much again as was read
//	Process.Signal ── signal, resize ─────────► Child.Signal
//	Process.Wait ◄─── ended, exit ───────────── Child.Wait       after both streams
//	Client.SFTP ───── sftp@sluice ────────────► System.ServeFiles
//	Client.Dial ───── dial@sluice: address ───► System.Dial
//
// The guest is hostile to the host. What it sends into a stream that nobody
// reads is bounded by our own credit ([streamWindow] a stream), kept in one flat
// buffer: SSH's window is shared by a channel's streams, and its buffers cost
// fifty times as much for bytes that come one by one. A guest that exceeds the
// credit, opens a channel, or sends what isn't in the diagram, loses the
// connection, and with it every call fails.
//
// Neither end's SSH machine may ever wait to write while it is to read, or two
// full directions would wait for each other for good. So what it writes goes
// into a queue (transport.go), and data, the one thing that there is much of,
// waits for room there before it is handed to SSH.
//
// Setting up (network_linux.go, files.go, trust.go) and reaping (reap_linux.go)
// know nothing of the stream. What the package won't do: start the guest
// (package hv does), or trust its word for anything but the outcome of what was
// asked of it.
package guest

import (
	"net"
	"net/netip"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bootstrap is the first message to the agent: what the guest is to be. Nothing
// runs before it is acknowledged.
type Bootstrap struct {
	Hostname string   `json:"hostname"`          // "" leaves the guest's own
	Network  *Network `json:"network,omitempty"` // nil: only loopback
	// CA are certificates, PEM, that the guest's programs are to trust beside
	// those that they trust already. Empty changes nothing.
	CA []byte `json:"ca,omitempty"`
	// Env are defaults of every command's environment. A command's own wins.
	Env map[string]string `json:"env,omitempty"`
	// Time sets the guest's clock. Zero leaves it.
	Time time.Time `json:"time,omitzero"`
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

// Command is a program to run in the guest. Its encoding as JSON is at most
// 16 MiB long, which is more than Linux executes.
type Command struct {
	Args []string `json:"args"` // Args[0] is looked up in the PATH of the environment
	// Env are variables as NAME=value, on top of Bootstrap.Env, and that on top
	// of PATH, HOME, USER and LOGNAME, and TERM with a TTY. The last of a name
	// counts.
	Env []string `json:"env,omitempty"`
	Dir string   `json:"dir,omitempty"` // "" is the root directory
	// User is whose process it is: "" for the guest's root, else a user's name or
	// number, and after a colon a group's. Without a colon, the groups are those
	// that the guest's /etc/passwd and /etc/group give the user.
	User string `json:"user,omitempty"`
	// TTY, unless nil, gives the command a terminal, which is its controlling
	// one: Stdin is what is typed, Stdout what is shown, and Stderr is empty.
	TTY *TTY `json:"tty,omitempty"`
	// Stdin gives the command a pipe as standard input; without it and without a
	// TTY that is /dev/null.
	Stdin bool `json:"stdin,omitempty"`
	// Inherit gives the command the agent's own standard files; then it has no
	// TTY and no Stdin, and Stdout and Stderr are empty.
	Inherit bool `json:"inherit,omitempty"`
}

// A TTY describes a terminal.
type TTY struct {
	Rows uint16 `json:"rows"` // 0 with Cols: a size that isn't known
	Cols uint16 `json:"cols"`
	Term string `json:"term,omitempty"` // the variable TERM; "" is xterm
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
	cause   error  // what Unwrap returns; nil
}

// Error returns the agent's words.
func (e *RemoteError) Error() string { return "agent: " + e.Message }

// Unwrap returns what the methods of Client say that it matches; nil otherwise.
func (e *RemoteError) Unwrap() error { return e.cause }

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
