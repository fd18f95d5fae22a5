package sdk

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

// A LogSource says where an entry of a log comes from.
type LogSource string

const (
	LogSourceStdout LogSource = "stdout" // a command's standard output
	LogSourceStderr LogSource = "stderr" // a command's standard error
	LogSourceOutput LogSource = "output" // a command's terminal, which doesn't tell the two apart
	LogSourceSystem LogSource = "system" // the sandbox: starts and ends, and a machine's console
)

// LogOptions say which entries of a log are wanted. The zero LogOptions means all
// of stdout, stderr and output.
type LogOptions struct {
	Tail    uint64      // only the last, at most so many; 0 means all
	Since   time.Time   // from then on; zero means the beginning
	Until   time.Time   // before that; zero means the end
	Sources []LogSource // none means stdout, stderr and output
}

// LogStreamOptions say which entries of a log are wanted, as they come. The zero
// LogStreamOptions means all of stdout, stderr and output that are there.
type LogStreamOptions struct {
	Sources    []LogSource // none means stdout, stderr and output
	Since      time.Time   // from then on; zero means the beginning
	Until      time.Time   // before that; zero means the end
	FromCursor string      // behind the entry that had this Cursor; "" means the beginning
	Follow     bool        // go on with what is to come, until the sandbox's end
}

// A LogEntry is something that a command wrote, in one piece as it came, or that
// the sandbox has to say. What commands write to files of their own, as attached
// ones do, is in no log.
type LogEntry struct {
	Source    LogSource
	SessionID *uint64 // the command's, see ExecHandle.ID; nil for the sandbox's own
	Timestamp time.Time
	Data      []byte
	Cursor    string // for LogStreamOptions.FromCursor
}

// Text returns the data as text.
func (e LogEntry) Text() string { return string(e.Data) }

// query returns the options as the control API has them.
func (o LogOptions) query() control.LogQuery {
	return control.LogQuery{Tail: o.Tail, Since: o.Since, Until: o.Until, Sources: sourceNames(o.Sources)}
}

func (o LogStreamOptions) query() control.LogQuery {
	return control.LogQuery{Since: o.Since, Until: o.Until, Sources: sourceNames(o.Sources), From: o.FromCursor, Follow: o.Follow}
}

// sourceNames returns sources with the default filled in.
func sourceNames(sources []LogSource) []string {
	if len(sources) == 0 {
		sources = []LogSource{LogSourceStdout, LogSourceStderr, LogSourceOutput}
	}
	var names []string
	for _, source := range sources {
		names = append(names, string(source))
	}
	return names
}

// checkSources reports a source that doesn't exist.
func checkSources(sources []LogSource) error {
	var c checker
	for i, source := range sources {
		if !slices.Contains(control.LogSources(), string(source)) {
			c.fail(ErrInvalidArgument, index("Sources", i), string(source), "no such source", "write stdout, stderr, output or system")
		}
	}
	return c.err()
}

// logEntryOf returns an entry in the words of this package.
func logEntryOf(e control.LogEntry) LogEntry {
	out := LogEntry{Source: LogSource(e.Source), Timestamp: e.Time, Data: e.Data, Cursor: e.Cursor}
	if e.Session != 0 {
		out.SessionID = &e.Session
	}
	return out
}

// Logs returns what the sandbox's commands have written, oldest first, as far as
// it is kept.
func (s *Sandbox) Logs(ctx context.Context, o LogOptions) ([]LogEntry, error) {
	if err := s.usable("read log of"); err != nil {
		return nil, err
	}
	if err := checkSources(o.Sources); err != nil {
		return nil, s.failure("read log of", err)
	}
	entries, err := readLogs(ctx, s.client, o.query())
	if err != nil {
		return nil, s.failure("read log of", err)
	}
	return entries, nil
}

// readLogs returns all entries that q asks for.
func readLogs(ctx context.Context, c *control.Client, q control.LogQuery) ([]LogEntry, error) {
	stream, err := c.Logs(ctx, q)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	var entries []LogEntry
	for {
		e, err := stream.Next()
		switch {
		case errors.Is(err, io.EOF):
			return entries, nil
		case ctx.Err() != nil:
			return nil, control.Cause(ctx)
		case err != nil:
			return nil, err
		}
		entries = append(entries, logEntryOf(e))
	}
}

// A LogStreamHandle is the entries of a log as they come. It is for one
// goroutine. The caller must Close it.
type LogStreamHandle struct {
	name    string
	stream  *control.LogStream // nil for entries
	letGo   context.CancelFunc // ends the stream's request
	release func()             // frees the connection
	entries []LogEntry         // all that are left, of a sandbox that has ended
	closed  atomic.Bool
}

// LogStream opens the log. ctx governs the opening only.
func (s *Sandbox) LogStream(ctx context.Context, o LogStreamOptions) (*LogStreamHandle, error) {
	if err := s.usable("read log of"); err != nil {
		return nil, err
	}
	h, err := openLog(ctx, s.name, s.client, func() {}, o)
	if err != nil {
		return nil, s.failure("read log of", err)
	}
	return h, nil
}

// openLog opens the log of the sandbox that c speaks with. release is called by
// the stream's Close.
func openLog(ctx context.Context, name string, c *control.Client, release func(), o LogStreamOptions) (*LogStreamHandle, error) {
	if err := checkSources(o.Sources); err != nil {
		return nil, err
	}
	life, letGo := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, letGo)
	stream, err := c.Logs(life, o.query())
	if !stop() && err == nil {
		err = errors.Join(control.Cause(ctx), stream.Close())
	}
	if err != nil {
		letGo()
		if ctx.Err() != nil {
			err = control.Cause(ctx) // not that of life, which ended with it
		}
		return nil, err
	}
	return &LogStreamHandle{name: name, stream: stream, letGo: letGo, release: release}, nil
}

// Recv returns the next entry, nil behind the last. When ctx ends first, the
// stream is of no more use.
func (h *LogStreamHandle) Recv(ctx context.Context) (*LogEntry, error) {
	entry, err := h.next(ctx)
	switch {
	case err == nil:
		return entry, nil
	case ctx.Err() != nil:
		err = control.Cause(ctx)
	case h.closed.Load():
		err = errStreamClosed()
	}
	return nil, withOp("read log of sandbox \""+h.name+"\"", err)
}

// next is Recv, with the error as it comes.
func (h *LogStreamHandle) next(ctx context.Context) (*LogEntry, error) {
	if h.closed.Load() {
		return nil, net.ErrClosed
	}
	if h.stream == nil {
		if len(h.entries) == 0 {
			return nil, nil
		}
		e := h.entries[0]
		h.entries = h.entries[1:]
		return &e, nil
	}
	stop := context.AfterFunc(ctx, h.letGo)
	defer stop()
	e, err := h.stream.Next()
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	entry := logEntryOf(e)
	return &entry, err
}

// Close ends the stream. It is idempotent.
func (h *LogStreamHandle) Close() error {
	h.closed.Store(true)
	if h.stream == nil {
		h.entries = nil
		return nil
	}
	h.letGo()
	err := h.stream.Close()
	h.release()
	return err
}
