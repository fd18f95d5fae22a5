package sdk_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// tenLines is a program of ten lines, as a user of the SDK would begin with.
const tenLines = `package main

import (
	"context"
	"fmt"
	"log"

	m "github.com/sluicenet/sluice/sdk"
)

func main() {
	ctx := context.Background()
	sb, err := m.CreateSandbox(ctx, "first", m.WithBackend("namespace"), m.WithPortBindings(m.PortBinding{GuestPort: 80}))
	if err != nil {
		log.Fatal(err)
	}
	defer sb.Close()
	out, err := sb.Shell(ctx, "echo hello | tee /tmp/greeting")
	text, readErr := sb.FS().ReadString(ctx, "/tmp/greeting")
	fmt.Println(out.Stdout(), text, err, readErr)
	for e := range sb.Events(ctx, m.EventFilter{}) {
		if fmt.Println(e.Type); e.Type == m.EventSandboxStarted {
			break
		}
	}
}
`

// TestEmptyModule builds and runs a program in a module of its own, which has
// nothing but a replace of this one: it creates a sandbox, runs a command, reads
// a file, publishes a port and prints events.
func TestEmptyModule(t *testing.T) {
	t.Parallel()
	inNamespace(t)
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	goTool := func(args ...string) {
		t.Helper()
		cmd := exec.Command("go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, text)
		}
	}
	// What the module needs, at the versions that it has itself.
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"main.go": tenLines, "go.sum": string(sums)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	goTool("mod", "init", "example.com/first")
	goTool("mod", "edit", "-require=github.com/sluicenet/sluice@v0.0.0", "-replace=github.com/sluicenet/sluice="+root)
	goTool("build", "-o", "first")
	cmd := exec.Command(filepath.Join(dir, "first"))
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"hello\n hello\n <nil> <nil>\n", "port.publish\n", "sandbox.started\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("it prints %q, want %q in it", text, want)
		}
	}
}
