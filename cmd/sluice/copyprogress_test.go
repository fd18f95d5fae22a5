package main

import (
	"testing"
	"time"
)

// TestCopyProgress checks that a copy which takes long is told of, now and then, and
// that nothing is said without a terminal.
func TestCopyProgress(t *testing.T) {
	t.Parallel()
	start := time.Unix(1, 0)
	for _, tt := range []struct {
		name     string
		terminal bool
		after    []time.Duration // when a KiB was copied
		want     string
	}{
		{"quick", true, []time.Duration{0, slowOnTerminal - 1}, ""},
		{"slow", true, []time.Duration{0, slowOnTerminal, slowOnTerminal + redraw - 1, slowOnTerminal + redraw}, "\r\x1b[Ka: 2.0 KiB copied\r\x1b[Ka: 4.0 KiB copied\r\x1b[K"},
		{"no terminal", false, []time.Duration{time.Hour}, ""},
	} {
		c, _, stderr := newTestConsole(t)
		p := newCopyProgress(c, "a", start)
		if tt.terminal {
			p.next = start.Add(slowOnTerminal)
		}
		for _, d := range tt.after {
			p.add(1<<10, start.Add(d))
		}
		p.end()
		if got := stderr(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
