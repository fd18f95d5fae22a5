package netlab

import (
	"runtime"
	"strings"
	"time"
)

// Leaked waits until no goroutine but the caller's is left, or patience is over,
// and returns the stacks of those that are left, "" if none.
func Leaked(patience time.Duration) string {
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		stacks := foreignStacks()
		if stacks == "" || time.Now().After(deadline) {
			return stacks
		}
		time.Sleep(pause)
	}
}

// foreignStacks returns the stacks of all goroutines but the caller's and those
// that os/signal keeps for ever.
func foreignStacks() string {
	buf := make([]byte, 2<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var foreign []string
	for i, stack := range strings.Split(strings.TrimSpace(string(buf)), "\n\n") {
		callers := i == 0
		signals := strings.Contains(stack, "os/signal.signal_recv") || strings.Contains(stack, "runtime.ensureSigM")
		if !callers && !signals {
			foreign = append(foreign, stack)
		}
	}
	return strings.Join(foreign, "\n\n")
}
