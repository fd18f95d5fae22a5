package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	m "github.com/sluicenet/sluice/sdk"
)

// logFlags are the flags of sluice logs.
type logFlags struct {
	follow     bool
	tail       uint64
	since      string
	until      string
	sources    []string
	timestamps bool
	output
}

func newLogs(c *console) *cobra.Command {
	var f logFlags
	cmd := &cobra.Command{
		Use:   "logs [flags] SANDBOX",
		Short: "Print what the commands of a sandbox have written",
		Long: `Print what the commands of a sandbox have written: their standard output to
standard output, the rest to standard error; as JSON all to standard output.
What an attached command wrote to a file or terminal of its user is in no log.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.print(cmd.Context(), c, args[0], time.Now())
		},
		ValidArgsFunction: completeNames(false, 1),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&f.follow, "follow", "f", false, "go on as more is written")
	flags.Uint64VarP(&f.tail, "tail", "n", 0, "only the last `N` pieces; 0 is all")
	flags.StringVar(&f.since, "since", "", "from a `TIME` on: 10m for ten minutes ago, or RFC 3339")
	flags.StringVar(&f.until, "until", "", "before a `TIME`")
	flags.StringSliceVar(&f.sources, "source", nil, "only of a `SOURCE`: stdout, stderr, output or system")
	flags.BoolVarP(&f.timestamps, "timestamps", "t", false, "put the time before each piece")
	f.register(flags)
	return cmd
}

// print prints the log of a sandbox.
func (f *logFlags) print(ctx context.Context, c *console, name string, now time.Time) error {
	o, err := f.options(now)
	if err != nil {
		return err
	}
	if _, err := f.asJSON(); err != nil {
		return err
	}
	h, err := m.GetSandbox(ctx, name)
	if err != nil {
		return err
	}
	entries, err := h.Logs(ctx, o)
	if err != nil {
		return err
	}
	cursor := ""
	for _, e := range entries {
		cursor = e.Cursor
		if err := f.entry(c, e); err != nil {
			return err
		}
	}
	if !f.follow || !runs(h) {
		return nil
	}
	return f.followLog(ctx, c, h, m.LogStreamOptions{Sources: o.Sources, Since: o.Since, Until: o.Until, FromCursor: cursor, Follow: true})
}

// followLog prints what comes after the entries that are printed.
func (f *logFlags) followLog(ctx context.Context, c *console, h *m.SandboxHandle, o m.LogStreamOptions) error {
	stream, err := h.LogStream(ctx, o)
	if err != nil {
		return err
	}
	defer stream.Close() // only read
	ctx, stop := c.whileRead(ctx)
	defer stop()
	for {
		e, err := stream.Recv(ctx)
		if err != nil || e == nil {
			return err
		}
		if err := f.entry(c, *e); err != nil {
			return err
		}
	}
}

// options returns what the flags ask for.
func (f *logFlags) options(now time.Time) (m.LogOptions, error) {
	o := m.LogOptions{Tail: f.tail}
	var err error
	if o.Since, err = moment(f.since, now); err != nil {
		return o, fmt.Errorf("--since %w", err)
	}
	if o.Until, err = moment(f.until, now); err != nil {
		return o, fmt.Errorf("--until %w", err)
	}
	for _, s := range f.sources {
		o.Sources = append(o.Sources, m.LogSource(s))
	}
	return o, nil
}

// moment reads a time, or how long ago it was; "" is the zero Time.
func moment(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("%q: want a duration such as 10m, or a time such as 2026-01-31T12:00:00Z", text)
	}
	return t, nil
}

// loggedPiece is a piece of a log as logs prints it.
type loggedPiece struct {
	Time    time.Time   `json:"ts"`
	Source  m.LogSource `json:"source"`
	Command *uint64     `json:"command,omitempty"` // its number; the sandbox's own have none
	Text    string      `json:"text"`
	Data    []byte      `json:"data,omitempty"` // in base64, where it is no text
}

// entry prints one entry.
func (f *logFlags) entry(c *console, e m.LogEntry) error {
	if asJSON, _ := f.asJSON(); asJSON { // checked before
		piece := loggedPiece{Time: e.Timestamp, Source: e.Source, Command: e.SessionID, Text: e.Text()}
		if !utf8.Valid(e.Data) {
			piece.Data = e.Data
		}
		return json.NewEncoder(c.out).Encode(piece)
	}
	text := e.Text()
	if e.Source == m.LogSourceSystem {
		text = harmless(text) // a command's own is raw, as it was written
	}
	if f.timestamps {
		text = e.Timestamp.Format(time.RFC3339Nano) + " " + text
	}
	if (f.timestamps || e.Source == m.LogSourceSystem) && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	var to io.Writer = c.err
	if e.Source == m.LogSourceStdout || e.Source == m.LogSourceOutput {
		to = c.out
	}
	_, err := io.WriteString(to, text)
	return err
}
