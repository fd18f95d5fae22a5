package sandbox

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/control"
)

// logged returns the entries of a log that is closed.
func logged(t *testing.T, l *logger) []control.LogEntry {
	t.Helper()
	l.close()
	var all []control.LogEntry
	if _, err := (logFilter{}).read(l.path, func(entries []control.LogEntry) error {
		all = append(all, entries...)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestConsole checks that a console's lines are the log's entries, however they come.
func TestConsole(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxConsoleLine)
	for _, tt := range []struct {
		name   string
		writes []string
		want   []string
	}{
		{"nothing", []string{""}, nil},
		{"lines", []string{"a\nb\n"}, []string{"a\n", "b\n"}},
		{"bytes", []string{"a", "b", "\n", "c"}, []string{"ab\n", "c"}},
		{"an empty line", []string{"\n\n"}, []string{"\n", "\n"}},
		{"a long line", []string{long + long + "y\n"}, []string{long, long, "y\n"}},
		{"a long line in pieces", []string{long[:9], long, "\n"}, []string{long, long[:9] + "\n"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l, err := newLogger(filepath.Join(t.TempDir(), "log"), maxLogFile)
			if err != nil {
				t.Fatal(err)
			}
			c := consoleLog{log: l}
			for _, text := range tt.writes {
				if n, err := c.Write([]byte(text)); n != len(text) || err != nil {
					t.Errorf("Write = %d, %v", n, err)
				}
			}
			c.end()
			entries := logged(t, l)
			if len(entries) != len(tt.want) {
				t.Fatalf("%d entries, want %d", len(entries), len(tt.want))
			}
			for i, e := range entries {
				if e.Source != control.LogSystem || e.Session != 0 || string(e.Data) != tt.want[i] {
					t.Errorf("entry %d: %s %d %.20q, want %.20q", i, e.Source, e.Session, e.Data, tt.want[i])
				}
			}
		})
	}
}

// TestConsoleFlood checks that a console has its end in the log, and says so.
func TestConsoleFlood(t *testing.T) {
	t.Parallel()
	l, err := newLogger(filepath.Join(t.TempDir(), "log"), maxLogFile)
	if err != nil {
		t.Fatal(err)
	}
	c := consoleLog{log: l}
	line := []byte(strings.Repeat("flood ", 100) + "\n")
	for range maxConsole {
		if _, err = c.Write(line); err != nil {
			break
		}
	}
	if !errors.Is(err, errConsoleFull) {
		t.Errorf("Write: %v; want that it is full", err)
	}
	c.end()
	size := 0
	entries := logged(t, l)
	for _, e := range entries {
		size += len(e.Data)
	}
	last := string(entries[len(entries)-1].Data)
	if last != errConsoleFull.Error()+"\n" || size < maxConsole-len(line) || size > maxConsole+len(last) {
		t.Errorf("%d bytes, and last %q", size, last)
	}
}
