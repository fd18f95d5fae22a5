package qemu

import (
	"io"
	"strings"
	"sync"
	"unicode"
)

// tailSize is how much of an output's end is kept, in bytes: a kernel's last
// words, which are a register dump and a trace.
const tailSize = 16 << 10

// An output is a stream of QEMU's that is drained, so that QEMU never waits for
// it: its end is kept, and all of it goes to a writer. It is hostile text.
type output struct {
	also io.Writer // nil, or who gets all; not called after its first error

	mu   sync.Mutex // guards the following field
	tail []byte     // at most tailSize bytes, at times twice as many
}

// drain reads r until its end.
func (o *output) drain(r io.Reader) {
	buffer := make([]byte, 4<<10)
	for {
		n, err := r.Read(buffer)
		o.keep(buffer[:n])
		if o.also != nil && n > 0 {
			if _, err := o.also.Write(buffer[:n]); err != nil {
				o.also = nil
			}
		}
		if err != nil {
			return
		}
	}
}

// keep adds to the tail.
func (o *output) keep(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tail = append(o.tail, b...)
	if len(o.tail) > 2*tailSize {
		o.tail = append(o.tail[:0], o.tail[len(o.tail)-tailSize:]...)
	}
}

// lastLines returns the last n lines that aren't empty, fit for a terminal and
// joined by "; "; or the one line that says why a kernel gave up.
func (o *output) lastLines(n int) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var lines []string
	for line := range strings.Lines(string(o.tail)) {
		line = strings.TrimSpace(printableText(line))
		if strings.Contains(line, "Kernel panic") {
			return line
		}
		if line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(len(lines)-n, 0):], "; ")
}

// printableText returns text without what a terminal could act on, and of a
// length that fits into an error.
func printableText(text string) string {
	const most = 300
	if len(text) > most {
		text = text[:most]
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, text)
}
