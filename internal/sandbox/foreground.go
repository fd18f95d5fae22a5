package sandbox

import (
	"context"
	"sync"

	"github.com/sluicenet/sluice/internal/control"
)

// maxEarly bounds the signals that wait for a command; a person sends few.
const maxEarly = 16

// A foreground is the command that has the creator's files, and gets the signals
// that come for it; of several, the one that was started last. The zero value is
// ready; its methods may be called by several goroutines.
type foreground struct {
	mu       sync.Mutex // guards the following fields
	expected int        // commands that are being started
	command  *command   // nil while none runs
	early    []int      // signals that came while one was being started
}

// expect says that a command is being started. Start or fail is to follow.
func (f *foreground) expect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expected++
}

// fail says that it couldn't be.
func (f *foreground) fail() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.expected--; f.expected == 0 {
		f.early = nil
	}
}

// start says that it was, and gives it the signals that came before.
func (f *foreground) start(ctx context.Context, c *command) {
	f.mu.Lock()
	early := f.early
	f.expected--
	f.command, f.early = c, nil
	f.mu.Unlock()
	for _, n := range early {
		_ = c.Signal(ctx, n) // an error says that it has ended
	}
}

// end says that a command has ended.
func (f *foreground) end(c *command) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.command == c {
		f.command = nil
	}
}

// signal sends a signal to the command, as soon as it has started.
func (f *foreground) signal(n int) error {
	f.mu.Lock()
	c, expected := f.command, f.expected > 0
	if c == nil && expected && len(f.early) < maxEarly {
		f.early = append(f.early, n)
	}
	f.mu.Unlock()
	switch {
	case c != nil:
		return c.s.signalError(c.Signal(context.Background(), n)) // it doesn't wait
	case expected:
		return nil
	}
	return &control.Failure{Kind: control.KindNotRunning, Message: "no command runs"}
}
