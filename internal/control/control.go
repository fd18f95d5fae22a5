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
//	GET  /v1/events?from=SEQ&follow=BOOL&types=flow.deny,dns&denied=BOOL
//	                           its events from that number on, JSON lines; -1 is the next
//	POST /v1/run               Command; answers when that has ended: Exit
//	POST /v1/signal            {"signal": N} to the running command
//	POST /v1/stop              {"timeout_ms": N}; answers when it has ended: Ended
//	POST /v1/kill              the same, at once
//	POST /v1/ping              answers at once
//	POST /v1/touch             keeps an idle sandbox alive: Touched
//	POST /v1/drain             no new commands; ends with the last that runs
//	POST /v1/detach            lets it outlive its creator
//
//	POST /v1/exec              Upgrade: sluice-exec/1; Command, then frames both ways
//	GET  /v1/sftp              Upgrade: sftp; the guest's files
//	POST /v1/dial              Upgrade: tcp; {"network", "address"} as the guest sees it
//
//	GET  /v1/ports             what is published: []Port
//	POST /v1/ports             Port; answers with the address that was bound
//	POST /v1/ports/remove      Port, whose guest_port doesn't matter
//	GET  /v1/flows             those that are open: []Flow
//	GET  /v1/stats             what the network has counted: Stats
//	POST /v1/network           a new configuration's JSON: Updated
//	POST /v1/explain           {"target": "https://example.com"}: Explanation
//	GET  /v1/secrets           their names: []string
//	PUT  /v1/secrets/NAME      {"value": "..."}
//	DELETE /v1/secrets/NAME
//
//	GET  /v1/metrics           Metrics
//	GET  /v1/logs?tail=N&since=TIME&until=TIME&sources=stdout,stderr&from=CURSOR&follow=true
//	                           what commands wrote: LogEntry, JSON lines
//
// The frames of exec are described at execProtocol. sftp and dial carry bytes as
// they are.
//
// An error is a status of 400 or above with a [Failure] as its body. To look by
// hand: curl --unix-socket SOCKET http://sluice/v1/sandbox
//
// What it will not do: know what the specification means (package sdk does), or
// listen on anything but a unix socket.
package control

import (
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

	Status   string            `json:"status"`             // StatusRunning or StatusDraining
	Detached bool              `json:"detached,omitempty"` // outlives its creator
	Keep     bool              `json:"keep,omitempty"`     // its directory stays when it ends
	Labels   map[string]string `json:"labels,omitempty"`
	Image    string            `json:"image,omitempty"` // digest; "" without one
}

// What a sandbox is doing, in [Info.Status] and in its state.
const (
	StatusRunning  = "running"
	StatusDraining = "draining" // it ends with the last command
	StatusStopped  = "stopped"  // it ended as it should
	StatusCrashed  = "crashed"  // its process died
)

// A Pong answers a ping.
type Pong struct {
	Status string `json:"status"`
}

// A Touched answers a touch.
type Touched struct {
	// ActivitySeq counts what keeps an idle sandbox alive: touches, and the
	// commands, sessions and connections that begin.
	ActivitySeq uint64 `json:"activity_seq"`
}

// A Port is a service of the guest that is published on the host.
type Port struct {
	Protocol  string         `json:"protocol"` // tcp or udp
	Host      netip.AddrPort `json:"host"`     // port 0 takes a free one
	GuestPort uint16         `json:"guest_port"`
}

// What ended a sandbox, in [Ended.Source].
const (
	SourceStop      = "stop"      // Stop was called
	SourceKill      = "kill"      // Kill was called
	SourceCreator   = "creator"   // its creator ended, or let go of it
	SourceGuest     = "guest"     // the guest's first process ended
	SourceSignal    = "signal"    // its process was told to terminate
	SourceDrain     = "drain"     // the last command of a draining sandbox ended
	SourceLimit     = "limit"     // it had lived for its longest time
	SourceIdle      = "idle"      // nothing happened for its idle time
	SourceViolation = "violation" // a secret was on its way elsewhere, and asks for the end
)

// An Ended says how a sandbox ended.
type Ended struct {
	Source string    `json:"source"`
	Exit   Exit      `json:"exit"` // of the guest's first process
	At     time.Time `json:"at"`
	Denied uint64    `json:"denied"` // as Info.Denied, at the end
	// Allowed counts the flows that were allowed, also before any event is dropped.
	Allowed uint64 `json:"allowed"`
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
	KindExists        = "sandbox already exists"
	KindNotFound      = "sandbox not found"
	KindNotRunning    = "sandbox not running"
	KindStillRunning  = "sandbox still running"
	KindPatchFailed   = "patch failed"
	KindImageNotFound = "image not found"
	KindExecFailed    = "exec failed"
	KindViolation     = "secret violation"
	KindInvalid       = "invalid config"
	KindArgument      = "invalid argument"
	KindUnsupported   = "unsupported operation"
	KindMetrics       = "metrics unavailable"
	KindIO            = "i/o"
	KindCancelled     = "cancelled"
	KindInternal      = "internal"
)

// Error returns message and hint.
func (f *Failure) Error() string {
	if f.Hint == "" {
		return f.Message
	}
	return f.Message + "; " + f.Hint
}
