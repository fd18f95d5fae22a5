package image

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
)

// pullRole is argv[0] of a process that pulls an image: see pullMain.
const pullRole = "image-test:pull"

func TestMain(m *testing.M) {
	if os.Args[0] == pullRole {
		pullMain()
	}
	code := m.Run()
	if stacks := netlab.Leaked(5 * time.Second); code == 0 && stacks != "" {
		fmt.Fprintf(os.Stderr, "goroutines leaked by the tests:\n\n%s\n", stacks)
		code = 1
	}
	os.Exit(code)
}

func pullMain() {}
