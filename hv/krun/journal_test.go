package krun

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/hv/internal/tail"
)

// A guest that makes libkrun complain without end neither fills a log nor stops.
func TestCopyLogIsBounded(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	in := io.MultiReader(strings.NewReader(strings.Repeat("again\n", 5*maxLines)), strings.NewReader(strings.Repeat("x", 10*maxLine)), strings.NewReader("\nlast"))
	var journal tail.Tail
	copyLog(log, in, &journal)
	if got := strings.Count(out.String(), "\n"); got != maxLines+1 {
		t.Errorf("%d lines, want %d and a remark", got, maxLines)
	}
	if got := journal.Last(1); got != "last" {
		t.Errorf("the last line is %q", got)
	}
}
