// Package control is how a sandbox's process is spoken to.
//
// In two ways. Its creator holds the other end of descriptor 3: [Hello] and
// [Spec] cross it, then [Ready] or a [Failure], and in the end [Ended], each a
// JSON text behind its length ([Send], [Receive]). Once it runs it serves HTTP
// and JSON on a unix socket, to its creator and to whoever else of the same
// user knows the name: [Serve] on the sandbox's side, a [Client] on the other.
//
//	GET  /v1/sandbox           what it is: Info
//	GET  /v1/wait              answers when it has ended: Ended
//	GET  /v1/events?from=SEQ   its events from that number on, JSON lines; -1 is the next
//	POST /v1/run               Command; answers when that has ended: Exit
//	POST /v1/signal            {"signal": N} to the running command
//	POST /v1/stop              {"timeout_ms": N}; answers when it has ended: Ended
//	POST /v1/kill              the same, at once
//	GET  /v1/ports             what is published: []Port
//	POST /v1/ports             Port; answers with the address that was bound
//	POST /v1/ports/remove      Port, whose guest_port doesn't matter
//
// An error is a status of 400 or above with a [Failure] as its body. To look by
// hand: curl --unix-socket SOCKET http://sluice/v1/sandbox
//
// What it will not do: know what the specification means (package sdk does), or
// listen on anything but a unix socket.
package control

import (
	"context"
	"net/netip"
	"time"
)

// An Info describes a running sandbox.
type Info struct {
	Name     string    `json:"name"`
	PID      int       `json:"pid"` // of the process that runs it
	Backend  string    `json:"backend"`
	Created  time.Time `json:"created"`
	Block4   string    `json:"block4,omitempty"` // its part of the IPv4 pool; "" without a network
	Block6   string    `json:"block6,omitempty"`
	Warnings []string  `json:"warnings,omitempty"` // what its configuration should make its user think about
	Events   string    `json:"events"`             // path of the file with its events
	Denied   uint64    `json:"denied"`             // flows and queries denied so far, counted before any event is dropped
	Ports    []Port    `json:"ports,omitempty"`    // published at the start
}

// A Port is a service of the guest that is published on the host.
type Port struct {
	Protocol  string         `json:"protocol"` // tcp or udp
	Host      netip.AddrPort `json:"host"`     // port 0 takes a free one
	GuestPort uint16         `json:"guest_port"`
}

// A Command is a program to run in the guest.
type Command struct {
	Args []string `json:"args"` // Args[0] is looked up in the guest's PATH
	Env  []string `json:"env,omitempty"`
	Dir  string   `json:"dir,omitempty"` // "" is the root
}

// An Exit says how a command ended.
type Exit struct {
	Code   int `json:"code"`             // -1 if a signal ended it
	Signal int `json:"signal,omitempty"` // number of that signal
}

// What ended a sandbox, in [Ended.Source].
const (
	SourceStop    = "stop"    // Stop was called
	SourceKill    = "kill"    // Kill was called
	SourceCreator = "creator" // its creator ended, or let go of it
	SourceGuest   = "guest"   // the guest's first process ended
	SourceSignal  = "signal"  // its process was told to terminate
)

// An Ended says how a sandbox ended.
type Ended struct {
	Source string    `json:"source"`
	Exit   Exit      `json:"exit"` // of the guest's first process
	At     time.Time `json:"at"`
	Denied uint64    `json:"denied"` // as Info.Denied, at the end
}

// A Sandbox is what a server serves. Its methods may be called concurrently;
// their errors should be *[Failure].
type Sandbox interface {
	Info() Info
	// Run runs a command; if ctx ends first, it kills the command.
	Run(ctx context.Context, cmd Command) (Exit, error)
	// Signal sends a signal to the command that Run runs.
	Signal(signal int) error
	// Stop asks the command to end, waits no longer than timeout for that,
	// then ends the guest. Kill does so at once. Neither waits for the
	// sandbox to have ended.
	Stop(timeout time.Duration)
	Kill()
	// Wait waits for the sandbox's end.
	Wait(ctx context.Context) (Ended, error)
	// Ports, Publish and Unpublish concern the guest's services on the host.
	Ports() []Port
	Publish(p Port) (Port, error)
	Unpublish(p Port) error
	// Events calls write with lines of events, each ended by a line feed, from
	// number from on, until the last one was written, ctx ends or write fails.
	// from < 0 means the next one.
	Events(ctx context.Context, from int64, write func(lines []byte) error) error
}

// A Failure is an error that crosses the process's border.
type Failure struct {
	// Kind is the name of an sdk.ErrorKind, for example "invalid config".
	Kind    string `json:"kind"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	// Code is the exit code that shells give for KindExecFailed: 125 where
	// nothing could be tried, 126 where the program can't be run, 127 where
	// there is none.
	Code int `json:"code,omitempty"`
}

// The kinds that a sandbox's process itself reports; sdk has all of them.
const (
	KindExists      = "sandbox already exists"
	KindNotRunning  = "sandbox not running"
	KindExecFailed  = "exec failed"
	KindInvalid     = "invalid config"
	KindArgument    = "invalid argument"
	KindUnsupported = "unsupported operation"
	KindIO          = "i/o"
	KindCancelled   = "cancelled"
	KindInternal    = "internal"
)

// Error returns message and hint.
func (f *Failure) Error() string {
	if f.Hint == "" {
		return f.Message
	}
	return f.Message + "; " + f.Hint
}
