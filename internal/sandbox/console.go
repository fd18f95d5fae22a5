package sandbox

import (
	"bytes"
	"errors"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

// Bounds of what is kept of a guest's console, in bytes. A boot that says all has
// 50 KiB and a panic 5; a guest that goes on and on must not push what its commands
// wrote out of the log.
const (
	maxConsole     = 1 << 20
	maxConsoleLine = 4 << 10 // a longer one becomes several entries
)

// A consoleLog writes a guest's console to the log, line by line, as the sandbox's
// own. It is the guest's text, escapes and all. Its one writer owns it, and then who
// calls end.
type consoleLog struct {
	log  *logger
	line []byte // begun
	kept int    // bytes in the log
}

// errConsoleFull ends the writing of a console.
var errConsoleFull = errors.New("no more of the console is kept")

// Write implements io.Writer. It fails when enough is kept.
func (c *consoleLog) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), maxConsoleLine-len(c.line))
		whole := n == maxConsoleLine-len(c.line)
		if i := bytes.IndexByte(rest[:n], '\n'); i >= 0 {
			n, whole = i+1, true
		}
		c.line = append(c.line, rest[:n]...)
		rest = rest[n:]
		if !whole {
			continue
		}
		if c.kept+len(c.line) > maxConsole {
			c.line = append(c.line[:0], errConsoleFull.Error()+"\n"...)
			c.end()
			return len(p) - len(rest), errConsoleFull
		}
		c.end()
	}
	return len(p), nil
}

// end writes the line that was begun.
func (c *consoleLog) end() {
	if len(c.line) == 0 {
		return
	}
	c.log.append(control.LogSystem, 0, time.Now(), c.line)
	c.kept += len(c.line)
	c.line = c.line[:0]
}
