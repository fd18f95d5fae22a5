package main

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"testing"
	"time"
)

// TestWhileRead checks that a watch ends with the reader, in the way of a broken pipe,
// and not before.
func TestWhileRead(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("a pipe tells nothing there until it is written to")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	c := newConsole(nil, w, w)
	ctx, stop := c.whileRead(t.Context())
	defer stop()
	if _, err := io.WriteString(w, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err != nil || ctx.Err() != nil {
		t.Fatalf("before the reader's end: %v, %v", err, ctx.Err())
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(time.Minute):
		t.Fatal("not told of the reader's end")
	}
	var exit *exitError
	if err := context.Cause(ctx); !errors.As(err, &exit) || exit.code != codeUnread || exit.err != nil {
		t.Errorf("cause %v", err)
	}
}

// TestUnreadFile checks that a file has a reader for ever, and that stop stops.
func TestUnreadFile(t *testing.T) {
	t.Parallel()
	c, _, _ := newTestConsole(t)
	ctx, stop := c.whileRead(t.Context())
	if ctx.Err() != nil {
		t.Error("a file has no reader")
	}
	stop()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		t.Errorf("stopped: %v", cause)
	}
}
