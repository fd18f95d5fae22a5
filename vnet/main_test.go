package vnet

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/refs"
)

// TestMain checks that nothing outlives the tests: no goroutine, and no packet
// or buffer of gVisor's.
func TestMain(m *testing.M) {
	refs.SetLeakMode(refs.LeaksLogWarning)
	code := m.Run()
	if left := leaked(); left != "" && code == 0 {
		fmt.Fprintln(os.Stderr, "goroutines left behind:\n"+left)
		code = 1
	}
	os.Exit(code)
}

// leaked returns the stacks of goroutines other than its own that are still
// there after a while.
func leaked() string {
	var left string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		buf := make([]byte, 1<<20)
		stacks := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
		var others []string
		for _, s := range stacks[1:] {
			if !strings.Contains(s, "os/signal.") {
				others = append(others, s)
			}
		}
		if left = strings.Join(others, "\n\n"); left == "" {
			return ""
		}
	}
	return left
}
