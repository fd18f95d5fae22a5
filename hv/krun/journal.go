package krun

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"unicode"
)

const (
	// maxLine bounds a line of libkrun's log in bytes; the rest of a longer one
	// counts as the next.
	maxLine = 4 << 10
	// maxLines bounds the lines of one VM's log that are passed on. A guest can
	// make its devices complain at every request.
	maxLines = 1000
	// tailLen is how much of a console or log is kept to explain a failure, in
	// bytes: the last screen.
	tailLen = 2 << 10
)

// A tail keeps the last bytes that were written to it. Its methods may be called
// by several goroutines.
type tail struct {
	mu   sync.Mutex // guards the following field
	text []byte     // at most twice tailLen
}

// Write keeps the end of b.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b[max(0, len(b)-tailLen):]...)
	if len(t.text) > tailLen {
		t.text = append(t.text[:0], t.text[len(t.text)-tailLen:]...)
	}
	return len(b), nil
}

// lastLine returns the last line that says something, fit for a terminal; "" if
// there is none.
func (t *tail) lastLine() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.FieldsFunc(string(t.text), func(r rune) bool { return r == '\n' || r == '\r' })
	for i := len(lines) - 1; i >= 0; i-- {
		if line := strings.TrimSpace(printable(lines[i])); line != "" {
			return line
		}
	}
	return ""
}

// printable returns s with question marks for what a terminal could act on: it is
// the guest's word.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != unicode.ReplacementChar {
			return r
		}
		return '?'
	}, s)
}

// copyLog passes the lines of libkrun's log on until its end, and keeps the last
// in t. It always reads on: a log that isn't read would stop the VM.
func copyLog(log *slog.Logger, r io.Reader, t *tail) {
	in := bufio.NewReaderSize(r, maxLine)
	for n := 0; ; n++ {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 {
			_, _ = t.Write(line)
			switch {
			case n < maxLines:
				log.LogAttrs(context.Background(), slog.LevelDebug, "libkrun", slog.String("says", printable(strings.TrimSpace(string(line)))))
			case n == maxLines:
				log.Warn("libkrun says more than is passed on", "lines", maxLines)
			}
		}
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
	}
}

// copyConsole passes the guest's console on until its end, and keeps the last of
// it in t. Where w fails it reads on without it.
func copyConsole(w io.Writer, r io.Reader, t *tail) {
	buf := make([]byte, 4<<10)
	for {
		n, err := r.Read(buf)
		_, _ = t.Write(buf[:n])
		if w != nil && n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				w = nil
			}
		}
		if err != nil {
			return // EIO, on a terminal whose other end is closed
		}
	}
}
