package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A LogEntry is something that a command wrote, in one piece as it came, or that
// the sandbox has to say.
type LogEntry struct {
	Source  string    `json:"source"`            // see LogSources
	Session uint64    `json:"session,omitempty"` // numbers the commands from 1; 0 is the sandbox
	Time    time.Time `json:"time"`
	Data    []byte    `json:"data"`
	Cursor  string    `json:"cursor"` // of what follows
}

// The sources of log entries.
const (
	LogStdout = "stdout"
	LogStderr = "stderr"
	LogOutput = "output" // of a terminal, which doesn't tell the two apart
	LogSystem = "system" // starts and ends, and a machine's console
)

// LogSources are all sources.
func LogSources() []string { return []string{LogStdout, LogStderr, LogOutput, LogSystem} }

// A LogQuery says which entries are wanted. The zero LogQuery means all that are
// there.
type LogQuery struct {
	Tail    uint64    // only the last of what else fits, at most; 0 is all
	Since   time.Time // inclusive; zero is the beginning
	Until   time.Time // exclusive; zero is the end
	Sources []string  // none means all
	From    string    // a cursor; "" is the beginning. What has been dropped since is skipped.
	Follow  bool      // go on with what is to come
}

// values returns the query as a URL has it.
func (q LogQuery) values() url.Values {
	v := url.Values{}
	if q.Tail > 0 {
		v.Set("tail", strconv.FormatUint(q.Tail, 10))
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	if !q.Until.IsZero() {
		v.Set("until", q.Until.Format(time.RFC3339Nano))
	}
	if len(q.Sources) > 0 {
		v.Set("sources", strings.Join(q.Sources, ","))
	}
	if q.From != "" {
		v.Set("from", q.From)
	}
	if q.Follow {
		v.Set("follow", "true")
	}
	return v
}

// parseLogQuery reads what values returns.
func parseLogQuery(v url.Values) (LogQuery, error) {
	var q LogQuery
	var errs [4]error
	if text := v.Get("tail"); text != "" {
		q.Tail, errs[0] = strconv.ParseUint(text, 10, 64)
	}
	if text := v.Get("since"); text != "" {
		q.Since, errs[1] = time.Parse(time.RFC3339Nano, text)
	}
	if text := v.Get("until"); text != "" {
		q.Until, errs[2] = time.Parse(time.RFC3339Nano, text)
	}
	if text := v.Get("follow"); text != "" {
		q.Follow, errs[3] = strconv.ParseBool(text)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return q, &Failure{Kind: KindArgument, Message: "logs: " + err.Error()}
	}
	q.From = v.Get("from")
	if text := v.Get("sources"); text != "" {
		q.Sources = strings.Split(text, ",")
	}
	return q, nil
}

// A LogStream is a sequence of log entries. The caller must Close it.
type LogStream struct {
	body  io.ReadCloser
	lines *bufio.Reader
}

// Logs opens the stream of the entries that q asks for. It ends with them, or
// with the sandbox where q follows, or with ctx.
func (c *Client) Logs(ctx context.Context, q LogQuery) (*LogStream, error) {
	path := "/v1/logs"
	if v := q.values(); len(v) > 0 {
		path += "?" + v.Encode()
	}
	resp, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	return &LogStream{body: resp.Body, lines: bufio.NewReader(resp.Body)}, nil
}

// Next returns the next entry, io.EOF behind the last.
func (s *LogStream) Next() (LogEntry, error) {
	line, err := s.lines.ReadBytes('\n')
	if err != nil {
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return LogEntry{}, io.EOF
		}
		return LogEntry{}, fmt.Errorf("%w: read log: %w", ErrGone, err)
	}
	var e LogEntry
	if err := json.Unmarshal(line, &e); err != nil {
		return LogEntry{}, fmt.Errorf("decode log entry: %w", err)
	}
	return e, nil
}

// Close ends the stream.
func (s *LogStream) Close() error { return s.body.Close() }

// Metrics is what a sandbox uses.
type Metrics struct {
	CPUPercent              float64       `json:"cpu_percent"`  // of one processor, since it was last asked; first, since the start
	VCPUTimeNs              uint64        `json:"vcpu_time_ns"` // processor time of the guest
	MemoryBytes             uint64        `json:"memory_bytes"` // of the guest
	MemoryAvailableBytes    *uint64       `json:"memory_available_bytes,omitempty"`
	MemoryHostResidentBytes *uint64       `json:"memory_host_resident_bytes,omitempty"` // of the sandbox's process
	MemoryLimitBytes        uint64        `json:"memory_limit_bytes"`                   // 0 is none
	DiskReadBytes           uint64        `json:"disk_read_bytes"`
	DiskWriteBytes          uint64        `json:"disk_write_bytes"`
	NetRxBytes              uint64        `json:"net_rx_bytes"` // to the guest
	NetTxBytes              uint64        `json:"net_tx_bytes"` // from the guest
	Uptime                  time.Duration `json:"uptime_ns"`
}

// Metrics returns what the sandbox uses.
func (c *Client) Metrics(ctx context.Context) (Metrics, error) {
	return ask[Metrics](ctx, c, http.MethodGet, "/v1/metrics", nil)
}
