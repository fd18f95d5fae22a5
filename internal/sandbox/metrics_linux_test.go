package sandbox

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestCPUTime checks that a process can't lie by its name.
func TestCPUTime(t *testing.T) {
	t.Parallel()
	rest := " S 1 2 3 4 5 6 7 8 9 10 100 20 3 4 20 0 1 0\n"
	for _, name := range []string{"sh", "a b", ") S 9 9 9 9 9 9 9 9 9 9 9 9 9 9 (x"} {
		if got := cpuTime([]byte("12 (" + name + ")" + rest)); got != 1270*time.Millisecond {
			t.Errorf("%q: %v", name, got)
		}
	}
	for _, text := range []string{"", "12 (sh", "12 (sh) S", "12 (sh) S x x x x x x x x x x x x x x x"} {
		if got := cpuTime([]byte(text)); got != 0 {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// TestField checks how a line's number is found.
func TestField(t *testing.T) {
	t.Parallel()
	text := []byte("Rss:   12 kB\nPss:    7 kB\nread_bytes: 5\nempty:\nword: x\n")
	for name, want := range map[string]uint64{"Pss:": 7, "Rss:": 12, "read_bytes:": 5, "empty:": 0, "word:": 0, "none:": 0} {
		if got := field(text, name); got != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
}

// TestReadUsage checks that what a child of a child uses is seen.
func TestReadUsage(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "sh -c 'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done; read x || true'")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	u, err := readUsage(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if u.cpu == 0 || u.memory < 100<<10 || u.resident < 1<<20 {
		t.Errorf("usage %+v", u)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := readUsage(1 << 30); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("of nobody: %v", err)
	}
}
