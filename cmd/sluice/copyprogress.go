package main

import (
	"fmt"
	"time"
)

// redraw is how often a line that changes is written again: no eye sees more.
const redraw = 100 * time.Millisecond

// A copyProgress tells on a terminal, in one line that changes, how much of a copy is
// done that takes long; elsewhere, and of a quick one, nothing. Its methods are called
// by one goroutine at a time.
type copyProgress struct {
	c     *console
	what  string // as the user wrote it
	bytes uint64
	next  time.Time // when to write the line again; zero is never
	drawn bool
}

func newCopyProgress(c *console, what string, now time.Time) *copyProgress {
	p := &copyProgress{c: c, what: what}
	if isTerminal(c.err) && !c.quiet {
		p.next = now.Add(slowOnTerminal)
	}
	return p
}

// copied counts bytes on their way.
func (p *copyProgress) copied(bytes int) { p.add(bytes, time.Now()) }

// add is copied at a time.
func (p *copyProgress) add(bytes int, now time.Time) {
	p.bytes += uint64(bytes)
	if p.next.IsZero() || now.Before(p.next) {
		return
	}
	p.next, p.drawn = now.Add(redraw), true
	fmt.Fprintf(p.c.err, "\r\x1b[K%s: %s copied", printable(p.what), byteCount(p.bytes))
}

// end takes the line away, if there is one.
func (p *copyProgress) end() {
	if p.drawn {
		fmt.Fprint(p.c.err, "\r\x1b[K")
	}
}
