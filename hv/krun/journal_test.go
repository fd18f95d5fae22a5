package krun

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
)

func TestTail(t *testing.T) {
	t.Parallel()
	var tl tail
	if got := tl.lastLine(); got != "" {
		t.Errorf("%q of nothing", got)
	}
	for i := range 10000 {
		fmt.Fprintf(&tl, "line %d\r\n", i)
	}
	if got := tl.lastLine(); got != "line 9999" {
		t.Errorf("%q", got)
	}
	tl.Write(bytes.Repeat([]byte("x"), 1<<20))
	if len(tl.text) > tailLen || cap(tl.text) > 4*tailLen {
		t.Errorf("%d bytes of %d are kept, want %d", len(tl.text), cap(tl.text), tailLen)
	}
	fmt.Fprintf(&tl, "\n\x1b[31mred\x1b[0m \xff\n \n")
	if got := tl.lastLine(); got != "?[31mred?[0m ?" {
		t.Errorf("%q; want it fit for a terminal", got)
	}
}

// A guest that makes libkrun complain without end neither fills a log nor stops.
func TestCopyLogIsBounded(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	in := io.MultiReader(strings.NewReader(strings.Repeat("again\n", 5*maxLines)), strings.NewReader(strings.Repeat("x", 10*maxLine)), strings.NewReader("\nlast"))
	var tl tail
	copyLog(log, in, &tl)
	if got := strings.Count(out.String(), "\n"); got != maxLines+1 {
		t.Errorf("%d lines, want %d and a remark", got, maxLines)
	}
	if got := tl.lastLine(); got != "last" {
		t.Errorf("the last line is %q", got)
	}
}

// A console that can't be written to is read all the same.
func TestCopyConsole(t *testing.T) {
	t.Parallel()
	var tl tail
	copyConsole(broken{}, strings.NewReader("first\nlast\n"), &tl)
	if got := tl.lastLine(); got != "last" {
		t.Errorf("%q", got)
	}
	copyConsole(nil, strings.NewReader("nobody asked\n"), &tl)
	if got := tl.lastLine(); got != "nobody asked" {
		t.Errorf("%q", got)
	}
}

// A broken writer fails.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken") }
