package krun

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv/hvtest"
	"github.com/sluicenet/sluice/internal/netlab"
)

func TestMain(m *testing.M) {
	hvtest.PlayMachine()
	if main := roles[os.Args[0]]; main != nil {
		main() // doesn't return
	}
	code := m.Run()
	if stacks := netlab.Leaked(5 * time.Second); code == 0 && stacks != "" {
		fmt.Fprintf(os.Stderr, "goroutines leaked by the tests:\n\n%s\n", stacks)
		code = 1
	}
	os.Exit(code)
}
