package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
)

// Programs that the tests run, built by TestMain. They are not in /tmp, which a
// guest doesn't see.
var (
	sluice string // the command
	client string // ./client
)

func TestMain(m *testing.M) {
	netlab.Enter()
	dir, err := os.MkdirTemp(".", "bin-") // .gitignore knows the name
	if err == nil {
		err = build(dir)
	}
	code := 1
	if err == nil {
		code = netlab.Run(m)
	} else {
		fmt.Fprintln(os.Stderr, "integration:", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		code = 1
	}
	os.Exit(code)
}

// build builds the programs into dir, as they are shipped: without cgo.
func build(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	sluice, client = filepath.Join(dir, "sluice"), filepath.Join(dir, "client")
	for program, path := range map[string]string{sluice: "../cmd/sluice", client: "./client"} {
		cmd := exec.CommandContext(context.Background(), "go", "build", "-o", program, path)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", path, err, out)
		}
	}
	return nil
}
