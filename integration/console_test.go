package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
)

// A console is a shell in a guest.
type console struct {
	t     *testing.T
	shell *netlab.Shell
}

// run runs a command line in the guest and returns its output, standard error
// included, and exit code.
func (c *console) run(line string) (string, int) {
	c.t.Helper()
	return c.within(180, line)
}

// within is run with a bound of its own, in seconds.
func (c *console) within(seconds int, line string) (string, int) {
	c.t.Helper()
	quoted := "'" + strings.ReplaceAll(line, "'", `'\''`) + "'"
	out, code, err := c.shell.Run(fmt.Sprintf("timeout %d sh -c %s 2>&1", seconds, quoted))
	if err != nil {
		c.t.Fatalf("%v\n%s", err, c.shell.Stderr())
	}
	return out, code
}

// want runs a command line and checks that it succeeds with an output that holds
// what is wanted. It returns the output.
func (c *console) want(line, want string) string {
	c.t.Helper()
	out, code := c.run(line)
	if code != 0 || !strings.Contains(out, want) {
		c.t.Errorf("%s: exit code %d, want %q in\n%s", line, code, want, out)
	}
	return out
}

// eventually repeats a command line until it succeeds with an output that holds what
// is wanted.
func (c *console) eventually(line, want string) {
	c.t.Helper()
	for end := deadline(); ; time.Sleep(50 * time.Millisecond) {
		out, code := c.run(line)
		if code == 0 && strings.Contains(out, want) {
			return
		}
		if time.Now().After(end) {
			c.t.Errorf("%s: exit code %d, want %q in\n%s", line, code, want, out)
			return
		}
	}
}

// fails runs a command line and checks that it fails with the exit code; 0 is any
// but success.
func (c *console) fails(line string, code int) {
	c.t.Helper()
	if out, got := c.run(line); got == 0 || code != 0 && got != code {
		c.t.Errorf("%s: exit code %d, want %d\n%s", line, got, code, out)
	}
}

// long gives a command line more time than run does, and checks that it succeeds.
func (c *console) long(line string) string {
	c.t.Helper()
	out, code := c.within(540, line)
	if code != 0 {
		c.t.Errorf("%s: exit code %d\n%s", line, code, out)
	}
	return out
}
