//go:build !linux

package machine

import (
	"fmt"
	"os"
)

// Main says that guests are Linux, and ends the process.
func Main() {
	fmt.Fprintf(os.Stderr, "sluice: %s runs in a guest only\n", Role)
	os.Exit(125)
}
