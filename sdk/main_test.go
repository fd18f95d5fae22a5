package sdk_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// TestMain runs the tests in a namespace of their own, with directories of their
// own. Package sdk has dispatched the roles of this binary by then.
func TestMain(tests *testing.M) {
	if name := os.Getenv(creatorVar); name != "" {
		createAndWait(name)
	}
	netlab.Enter()
	dir, err := os.MkdirTemp("", "sluice-sdk-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for name, value := range map[string]string{
		"SLUICE_HOME":       dir + "/home",
		"XDG_RUNTIME_DIR":   dir,
		"SLUICE_BACKEND":    "",
		"SLUICE_EXECUTABLE": "",
	} {
		if err := os.Setenv(name, value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	code := netlab.Run(tests)
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// creatorVar names the sandbox that this test binary is to create, when it is
// started as a creator to be killed.
const creatorVar = "SLUICE_SDK_TEST_CREATOR"

// created is what a creator tells of its sandbox.
type created struct {
	Port uint16 // that it publishes
}

// createAndWait is the creator: it creates a sandbox, tells of it on its
// standard output and waits to be killed.
func createAndWait(name string) {
	ctx := context.Background()
	sb, err := m.CreateSandbox(ctx, name, m.WithBackend("namespace"), m.WithPortBindings(m.PortBinding{GuestPort: 80}))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ports, err := sb.Ports().List(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() { _, _ = sb.Attach(ctx, "sleep", "1000") }()
	_ = json.NewEncoder(os.Stdout).Encode(created{Port: ports[0].HostPort})
	select {}
}
