package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
)

// Programs that the tests run, built by TestMain.
var (
	sluice string // the command
	client string // ./client
	demo   string // ./demo
)

func TestMain(m *testing.M) {
	netlab.Enter()
	dir, err := netlab.Build("../cmd/sluice", "../cmd/sluice-agent", "./client", "./demo")
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		os.Exit(1)
	}
	sluice, client, demo = filepath.Join(dir, "sluice"), filepath.Join(dir, "client"), filepath.Join(dir, "demo")
	// Machines are emulated here: that works everywhere.
	os.Setenv("SLUICE_QEMU_ACCEL", "tcg")
	os.Setenv("SLUICE_AGENT", filepath.Join(dir, "sluice-agent"))
	code := netlab.Run(m)
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		code = 1
	}
	os.Exit(code)
}
