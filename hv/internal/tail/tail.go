// Package tail reads what a guest's kernel and its hypervisor print, and keeps the end
// of it to explain a failure. Begin with [Tail.Drain].
//
// All of it is hostile text, of any length: what [Tail.Last] returns of it is short and
// fit for a terminal.
//
// What it will not do: keep what was printed for later. That is the caller's business,
// who gets all of it from Drain.
package tail

import (
	"io"
	"strings"
	"sync"
	"unicode"
)

const (
	// size is how much is kept, in bytes: a kernel's last words, which are a register
	// dump and a trace behind the line that says why.
	size = 16 << 10
	// longest bounds a line in bytes, so that it fits into an error.
	longest = 300
)

// A Tail keeps the end of what it gets. The zero Tail is empty. Its methods may be
// called by several goroutines.
type Tail struct {
	mu   sync.Mutex // guards the following field
	text []byte     // at most twice size, so that it is moved once for that much
}

// Drain reads r until it ends or fails, and writes all of it to also, unless that is
// nil, until a write fails. Whoever prints never waits for a reader that way.
func (t *Tail) Drain(r io.Reader, also io.Writer) {
	buffer := make([]byte, 4<<10)
	for {
		n, err := r.Read(buffer)
		_, _ = t.Write(buffer[:n])
		if also != nil && n > 0 {
			if _, err := also.Write(buffer[:n]); err != nil {
				also = nil
			}
		}
		if err != nil {
			return
		}
	}
}

// Write keeps the end of b. It never fails.
func (t *Tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(b) > size {
		t.text = t.text[:0] // or there would be a gap before what is kept of b
	}
	t.text = append(t.text, b[max(0, len(b)-size):]...)
	if len(t.text) > 2*size {
		t.text = append(t.text[:0], t.text[len(t.text)-size:]...)
	}
	return len(b), nil
}

// Last returns the last n lines that say something, joined by "; ", or instead of them
// the one that says why a kernel gave up: a trace follows it. It is "" if there is
// none.
func (t *Tail) Last(n int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for line := range strings.FieldsFuncSeq(string(t.text), func(r rune) bool { return r == '\n' || r == '\r' }) {
		line = Printable(line[:min(len(line), longest)])
		if strings.Contains(line, "Kernel panic") {
			return line
		}
		if line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(len(lines)-n, 0):], "; ")
}

// Printable returns line without what a terminal could act on, and without space around
// it.
func Printable(line string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r), r == unicode.ReplacementChar:
			return -1
		}
		return r
	}, line))
}
