package image

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
)

func TestMain(m *testing.M) {
	if os.Args[0] == pullRole {
		pullMain()
	}
	code := m.Run()
	if stacks := netlab.Leaked(time.Minute); code == 0 && stacks != "" {
		fmt.Fprintf(os.Stderr, "goroutines leaked by the tests:\n\n%s\n", stacks)
		code = 1
	}
	os.Exit(code)
}
