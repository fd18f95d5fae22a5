package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
)

// TestDemo runs what make demo runs.
func TestDemo(t *testing.T) {
	t.Parallel()
	demonstrate(t, sluice)
}

// TestDemoVM runs what make demo-vm runs.
func TestDemoVM(t *testing.T) {
	t.Parallel()
	needMachine(t)
	demonstrate(t, "-vm", sluice)
}

// demonstrate runs the demonstration.
func demonstrate(t *testing.T, args ...string) {
	t.Helper()
	netlab.New(t) // a machine without any route has nothing to deny
	netlab.Tool(t, "curl")
	cmd := exec.CommandContext(t.Context(), demo, args...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Errorf("%v\n%s", err, stderr.String())
	}
	if want := "This file came from the host's loopback"; !strings.Contains(stdout.String(), want) {
		t.Errorf("printed %q, want %q", stdout.String(), want)
	}
	for _, want := range []string{"denied tcp 198.51.100.7:80", "deny egress 198.51.100.0/24"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("no %q in\n%s", want, stderr.String())
		}
	}
}

// needMachine skips a test where no virtual machine can be emulated.
func needMachine(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		netlab.Skip(t, "qemu", err.Error())
	}
	if kernels, _ := filepath.Glob("/boot/vmlinuz-*"); len(kernels) == 0 {
		netlab.Skip(t, "qemu", "there is no kernel in /boot")
	}
}
