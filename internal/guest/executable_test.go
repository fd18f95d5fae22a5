package guest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestExecutable builds the agent for both architectures, and finds it again.
func TestExecutable(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil || testing.Short() {
		t.Skip("needs the go command, and some time")
	}
	gocache, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOCACHE", strings.TrimSpace(string(gocache))) // which is found by the variable below
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("SLUICE_AGENT", "")
	for _, arch := range []string{"amd64", "arm64"} {
		path, err := Executable(t.Context(), arch)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkAgent(path, arch); err != nil {
			t.Error(err)
		}
		before, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d KiB", arch, before.Size()>>10)
		again, err := Executable(t.Context(), arch)
		if err != nil || again != path {
			t.Errorf("the second time: %q, %v; want %q", again, err, path)
		}
		if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
			t.Errorf("it was built again: %v", err)
		}
	}
	if _, err := Executable(t.Context(), "mips"); err == nil {
		t.Error("there is an agent for mips")
	}
	amd64, err := Executable(t.Context(), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SLUICE_AGENT", amd64)
	if path, err := Executable(t.Context(), "amd64"); err != nil || path != amd64 {
		t.Errorf("by SLUICE_AGENT: %q, %v", path, err)
	}
	for value, arch := range map[string]string{amd64: "arm64", "/nonexistent": "amd64", "/etc/passwd": "amd64"} {
		t.Setenv("SLUICE_AGENT", value)
		if path, err := Executable(t.Context(), arch); err == nil || !strings.Contains(err.Error(), "SLUICE_AGENT") {
			t.Errorf("SLUICE_AGENT=%s for %s: %q, %v; want an error that names it", value, arch, path, err)
		}
	}
	if runtime.GOOS == "linux" && runtime.GOARCH == "amd64" {
		if out, err := exec.Command(amd64).CombinedOutput(); err == nil || !strings.Contains(string(out), "nothing to start by hand") {
			t.Errorf("started by hand: %v, %q", err, out)
		}
	}
}

// TestCheckAgent refuses what a guest's kernel could not execute.
func TestCheckAgent(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("needs a dynamic program")
	}
	if err := checkAgent("/bin/sh", runtime.GOARCH); err == nil || !strings.Contains(err.Error(), "static") {
		t.Errorf("a dynamic program: %v", err)
	}
}

// TestForgetOld removes what was not used for a month, and nothing else.
func TestForgetOld(t *testing.T) {
	t.Parallel()
	dir, now := t.TempDir(), time.Now()
	for name, age := range map[string]time.Duration{"old": agentAge + time.Hour, "young": agentAge - time.Hour} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	forgetOld(dir, now)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "young" {
		t.Errorf("left: %v, %v; want young", entries, err)
	}
}
