package vnet

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestThroughStack runs the tests of flows again with all of them through gVisor's
// stack, as those are that somebody must read, and on other platforms all.
func TestThroughStack(t *testing.T) {
	if *stackOnly {
		t.Skip("this is that run")
	}
	t.Parallel()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "-stack", "-test.short", "-test.run=^Test(TCP|SetPolicy|CloseEnds|Relay|Gate|Replace|Handshake|ReusedPorts)")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}
