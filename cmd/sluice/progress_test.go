package main

import (
	"strings"
	"testing"

	m "github.com/sluicenet/sluice/sdk"
)

// TestProgress checks what is told of a pull and a start: lines without a
// terminal, one line that changes on one, and nothing after the end.
func TestProgress(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		terminal bool
		want     string
	}{
		{false, "sluice: a: downloading 1 of 2 layers\nsluice: the sandbox starts\n"},
		{true, "\r\x1b[Ka: resolving\r\x1b[Ka: downloading 1 of 2 layers, 1.0 KiB of 2.0 KiB\r\x1b[K\r\x1b[Kthe sandbox starts\r\x1b[K"},
	} {
		c, _, stderr := newTestConsole(t)
		p := newProgress(c)
		p.terminal = tt.terminal
		p.step(m.PullProgress{Kind: "resolving", Image: "a"})
		p.starting() // not yet: the pull goes on
		p.step(m.PullProgress{Kind: "downloading", Image: "a", Layers: 2, Bytes: 1 << 10, Total: 2 << 10})
		p.step(m.PullProgress{Kind: "finished", Image: "a"})
		p.starting()
		p.end()
		p.starting() // too late
		if got := stderr(); got != tt.want {
			t.Errorf("terminal %v: %q, want %q", tt.terminal, got, tt.want)
		}
	}
	c, _, stderr := newTestConsole(t)
	c.quiet = true
	p := newProgress(c)
	p.awaitStart()
	p.starting()
	p.end()
	if got := stderr(); strings.TrimSpace(got) != "" {
		t.Errorf("quiet: %q", got)
	}
}
