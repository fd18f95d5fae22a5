package dns

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
)

// TestMain fails if goroutines are left after the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if stacks := netlab.Leaked(time.Minute); stacks != "" {
			fmt.Fprintf(os.Stderr, "goroutines leaked by the tests:\n\n%s\n", stacks)
			code = 1
		}
	}
	os.Exit(code)
}
