package machine

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// A Status is what process 1 has told. Its zero value is that of a machine that
// has told nothing.
type Status struct {
	// Ready reports that the agent serves.
	Ready bool
	// Kernel is how long the kernel took until process 1 ran, Setup how long that
	// took until Ready, by the guest's clock.
	Kernel, Setup time.Duration
	// Failure is why there will be no agent; "" if none was told. It is one line
	// that is fit for a terminal.
	Failure string
	// Exited reports that the agent ended, and Exit its status, 0…255.
	Exited bool
	Exit   int
}

// maxStatusLine bounds a line's bytes, of which an error's text is the longest.
const maxStatusLine = 4 << 10

// maxStatusLines bounds the lines: a machine that goes on was not ours.
const maxStatusLines = 16

// Follow reads the lines of a status port until their end and calls change, from
// the calling goroutine, with each new Status. It returns nil at the end of the
// stream; a port that has something else on it, or too much, is an error.
func Follow(port io.Reader, change func(Status)) error {
	var s Status
	lines := bufio.NewScanner(port)
	lines.Buffer(make([]byte, 256), maxStatusLine)
	for n := 0; lines.Scan(); n++ {
		if n == maxStatusLines {
			return errors.New("read machine's status: it goes on and on")
		}
		if err := s.update(lines.Text()); err != nil {
			return err
		}
		change(s)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read machine's status: %w", err)
	}
	return nil
}

// update takes a line in.
func (s *Status) update(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "ready":
		kernel, setup, _ := strings.Cut(rest, " ")
		var err error
		if s.Kernel, err = time.ParseDuration(kernel); err == nil {
			s.Setup, err = time.ParseDuration(setup)
		}
		if err == nil && s.Kernel >= 0 && s.Setup >= 0 {
			s.Ready = true
			return nil
		}
	case "failed":
		s.Failure = strings.Map(printable, rest)
		return nil
	case "exit":
		if code, err := strconv.ParseUint(rest, 10, 8); err == nil {
			s.Exited, s.Exit = true, int(code)
			return nil
		}
	}
	return fmt.Errorf("read machine's status: %.40q says nothing", line)
}

// printable returns r, or a question mark for what a terminal could act on.
func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return '?'
}

// readyLine returns the line that says that the agent serves.
func readyLine(kernel, setup time.Duration) string {
	return fmt.Sprintf("ready %v %v\n", kernel, setup)
}

// failedLine returns the line that says why it won't.
func failedLine(err error) string {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if len(text) > maxStatusLine/2 {
		text = text[:maxStatusLine/2]
	}
	return "failed " + text + "\n"
}

// exitLine returns the line that says how the agent ended.
func exitLine(code int) string { return fmt.Sprintf("exit %d\n", code) }
