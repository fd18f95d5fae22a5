package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// A console is where sluice speaks. The rules are:
//
//   - data goes to out, everything else to err
//   - a line on err begins with "sluice: ", so that it can be told from the
//     command's own
//   - colour only on a terminal, and never with NO_COLOR
//   - what a guest chose (a name, an address) is printed by printable, and a
//     line on err holds nothing that disturbs a terminal, whoever wrote it
type console struct {
	in, out, err *os.File
	terminal     bool // err is one
	colour       bool
	quiet        bool // data and errors only

	mu sync.Mutex // held for one line on err
}

func newConsole(in, out, err *os.File) *console {
	c := &console{in: in, out: out, err: err, terminal: isTerminal(err)}
	c.colour = c.terminal && os.Getenv("NO_COLOR") == ""
	return c
}

// errorf prints what ends the program.
func (c *console) errorf(format string, args ...any) { c.line("31", format, args...) }

// notef prints a remark, unless the console is quiet.
func (c *console) notef(format string, args ...any) {
	if !c.quiet {
		c.line("33", format, args...)
	}
}

// say prints a line of data.
func (c *console) say(line string) { fmt.Fprintln(c.out, line) }

// line prints lines on err, their head in the given colour.
func (c *console) line(colour, format string, args ...any) {
	head := "sluice:"
	if c.colour {
		head = "\x1b[" + colour + "msluice:\x1b[0m"
	}
	text := head + " " + harmless(fmt.Sprintf(format, args...)) + "\n"
	if c.terminal { // which a command may have, raw: it wouldn't return to the first column
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprint(c.err, text)
}

// harmless returns text with what could disturb a terminal written as Go does,
// but for line breaks and tabs.
func harmless(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == '\n', r == '\t', unicode.IsPrint(r) && (r != utf8.RuneError || size > 1):
			b.WriteString(text[:size])
		default:
			quoted := strconv.Quote(text[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		text = text[size:]
	}
	return b.String()
}

// printable returns s, quoted if it holds anything that could disturb a
// terminal.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		return strconv.Quote(s)
	}
	return s
}

// isTerminal reports whether f is a terminal.
func isTerminal(f *os.File) bool {
	raw, err := f.SyscallConn() // Fd would make the file blocking
	if err != nil {
		return false
	}
	is := false
	err = raw.Control(func(fd uintptr) { is = term.IsTerminal(int(fd)) })
	return err == nil && is
}
