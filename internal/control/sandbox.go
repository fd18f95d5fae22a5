package control

import (
	"context"
	"encoding/json"
	"io"
	"time"
)

// A Sandbox is what a server serves. Its methods may be called concurrently;
// their errors should be *[Failure].
type Sandbox interface {
	Info() Info
	// Run runs a command with the standard files of the sandbox's creator; if ctx
	// ends first, it is killed. The error is of KindUnsupported where the guest has
	// no such files.
	Run(ctx context.Context, cmd Command) (Exit, error)
	// Signal sends a signal to the command that Run runs, or is starting.
	Signal(signal int) error
	// Stop asks the commands to end, and ends the guest when they have, or after
	// timeout. Kill does so at once. Neither waits for that.
	Stop(timeout time.Duration)
	Kill()
	// Wait waits for the sandbox's end.
	Wait(ctx context.Context) (Ended, error)
	// Ports, Publish and Unpublish concern the guest's services on the host.
	Ports() []Port
	Publish(p Port) (Port, error)
	Unpublish(p Port) error
	// Events calls write with the lines of the events that q asks for, each ended by
	// a line feed. Where q follows, it goes on until the last one was written, ctx
	// ends or write fails.
	Events(ctx context.Context, q EventQuery, write func(lines []byte) error) error

	Guest
	Life
	Network
	SecretStore
	Records
}

// A Guest is what a sandbox has to offer of its guest.
type Guest interface {
	// Exec starts a command, which the caller closes. If ctx ends first, there
	// is none.
	Exec(ctx context.Context, cmd Command) (Process, error)
	// SFTP opens a session with the guest's files, and Dial a connection as
	// Client.Dial says. The caller closes them.
	SFTP(ctx context.Context) (io.ReadWriteCloser, error)
	Dial(ctx context.Context, network, address string) (io.ReadWriteCloser, error)
}

// A Life is a sandbox whose time can be changed.
type Life interface {
	// Touch counts as activity.
	Touch() Touched
	// Drain refuses new commands and ends the sandbox with the last one.
	Drain()
	// Detach lets the sandbox outlive its creator.
	Detach() error
}

// A Network is a sandbox's network.
type Network interface {
	Flows() []Flow
	Stats() Stats
	Update(config json.RawMessage) (Updated, error)
	Explain(target string) (Explanation, error)
}

// A SecretStore is a sandbox's secrets.
type SecretStore interface {
	Secrets() []string
	SetSecret(name, value string) error
	RemoveSecret(name string) error
}

// Records are what a sandbox writes down and measures.
type Records interface {
	Metrics() (Metrics, error)
	// Logs calls write with the entries that q asks for. Where q follows, it
	// goes on until the sandbox's end, or that of ctx.
	Logs(ctx context.Context, q LogQuery, write func([]LogEntry) error) error
}
