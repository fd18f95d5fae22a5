package qemu

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
)

// sharedDir is a directory for what several tests use.
var sharedDir string

func TestMain(m *testing.M) {
	if main := roles[os.Args[0]]; main != nil {
		main() // doesn't return
	}
	var err error
	if sharedDir, err = os.MkdirTemp("", "sluice-test-qemu-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(sharedDir)
	if stacks := netlab.Leaked(5 * time.Second); code == 0 && stacks != "" {
		fmt.Fprintf(os.Stderr, "goroutines leaked by the tests:\n\n%s\n", stacks)
		code = 1
	}
	os.Exit(code)
}
