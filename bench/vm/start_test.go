//go:build linux

package vm

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sluicenet/sluice/internal/image/imagetest"
	"github.com/sluicenet/sluice/internal/netlab"
	"github.com/sluicenet/sluice/sdk"
)

// memoryMiB is the memory of the guests that are started from the SDK. No other
// mapping of QEMU's has that size.
const memoryMiB = 320

// TestStart prints how long a sandbox takes from the SDK's call to its first
// command's end, phase by phase, and what it takes of the host's memory then.
func TestStart(t *testing.T) {
	if !*table {
		t.Skip("make bench measures")
	}
	archive := ownHome(t)
	img, err := imagetest.Busybox(v1.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := imagetest.Archive(archive, "bench:latest", img); err != nil {
		t.Fatal(err)
	}
	createSandbox(t, archive).Close() // the image becomes a disk once
	var times, memory columns
	for range *rounds {
		begun := time.Now()
		sb := createSandbox(t, archive)
		created := time.Now()
		execute(t, sb, "true")
		ended := time.Now()
		phases := guestPhases(t, sb)
		for _, phase := range []string{"launch", "firmware", "boot", "agent"} {
			times.add(phase, phases[phase])
		}
		times.add("the sandbox's other work", created.Sub(begun).Seconds()*1000-phases["total"])
		times.add("first command", ended.Sub(created).Seconds()*1000)
		times.add("all", ended.Sub(begun).Seconds()*1000)
		for process, size := range memoryOf(t) {
			memory.add(process, size)
		}
		sb.Close()
		times.add("end", time.Since(ended).Seconds()*1000)
	}
	fmt.Printf("from CreateSandbox to the end of the first command, ms, medians of %d\n%v", *rounds, times)
	fmt.Printf("memory of a guest of %d MiB that has run one command, MiB\n%v", memoryMiB, memory)
}

// Columns are values under names, in the order in which the names came.
type columns struct {
	names  []string
	values map[string][]float64
}

func (c *columns) add(name string, value float64) {
	if c.values == nil {
		c.values = make(map[string][]float64)
	}
	if c.values[name] == nil {
		c.names = append(c.names, name)
	}
	c.values[name] = append(c.values[name], value)
}

// String returns a line for each name, with the median.
func (c columns) String() string {
	var b strings.Builder
	for _, name := range c.names {
		fmt.Fprintf(&b, "%-26s %8.0f\n", name, median(c.values[name]))
	}
	return b.String()
}

// ownHome gives the test's sandboxes directories and an environment of their own, and
// returns the path that an image may have.
func ownHome(t *testing.T) (archive string) {
	t.Helper()
	// A socket's path is short.
	home, err := os.MkdirTemp("", "vm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	t.Setenv("SLUICE_HOME", filepath.Join(home, "home"))
	t.Setenv("XDG_RUNTIME_DIR", home)
	agent, err := netlab.Build("../../cmd/sluice-agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(agent) })
	t.Setenv("SLUICE_AGENT", filepath.Join(agent, "sluice-agent"))
	t.Setenv("SLUICE_QEMU_ACCEL", "tcg")
	return filepath.Join(home, "image.tar")
}

// createSandbox creates a sandbox in a machine.
func createSandbox(t *testing.T, image string) *sdk.Sandbox {
	t.Helper()
	sb, err := sdk.CreateSandbox(t.Context(), "bench", sdk.WithBackend("qemu"), sdk.WithImage(image),
		sdk.WithMemory(memoryMiB), sdk.WithLogLevel(sdk.LogLevelInfo))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sb.Close() })
	return sb
}

// execute runs a shell's commands in a sandbox and returns what they print.
func execute(t *testing.T, sb *sdk.Sandbox, commands string) string {
	t.Helper()
	out, err := sb.Exec(t.Context(), "/bin/sh", []string{"-c", commands})
	if err != nil {
		t.Fatal(err)
	}
	if out.ExitCode() != 0 {
		t.Fatalf("%s: %s", commands, out.Stderr())
	}
	return strings.TrimSpace(out.Stdout())
}

// guestPhases returns how long the phases of a guest's boot took, in ms, as the
// backend has told.
func guestPhases(t *testing.T, sb *sdk.Sandbox) map[string]float64 {
	t.Helper()
	phases := make(map[string]float64)
	for e, err := range sb.Events(t.Context(), sdk.EventFilter{Past: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Message != "guest is ready" {
			continue
		}
		for name, value := range e.Attrs {
			if d, err := time.ParseDuration(fmt.Sprint(value)); err == nil {
				phases[name] = d.Seconds() * 1000
			}
		}
	}
	if phases["total"] == 0 {
		t.Fatal("the backend has told no times")
	}
	return phases
}

// memoryOf returns the memory of each process below this one, in MiB, its share of
// what it shares with others included. The guest's own, which QEMU has, is apart.
func memoryOf(t *testing.T) map[string]float64 {
	t.Helper()
	all, err := netlab.Processes()
	if err != nil {
		t.Fatal(err)
	}
	sizes := make(map[string]float64)
	for todo := []int{os.Getpid()}; len(todo) > 0; todo = todo[1:] {
		for _, p := range all {
			if p.Parent != todo[0] {
				continue
			}
			todo = append(todo, p.PID)
			line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
			if err != nil {
				t.Fatal(err)
			}
			own, guests := residentOf(t, p.PID)
			name, _, _ := strings.Cut(string(line), "\x00")
			sizes[filepath.Base(name)] += own
			if guests > 0 {
				sizes["touched by the guest"] += guests
			}
		}
	}
	return sizes
}

// residentOf returns how much of a process is in memory, and how much of the mapping
// that is a guest's memory, in MiB.
func residentOf(t *testing.T, pid int) (own, guests float64) {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	isGuest := false
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) != 3 {
			continue
		}
		kib, _ := strconv.ParseFloat(fields[1], 64)
		switch {
		case fields[0] == "Size:":
			isGuest = kib == memoryMiB<<10
		case fields[0] == "Pss:" && isGuest:
			guests += kib / 1024
		case fields[0] == "Pss:":
			own += kib / 1024
		}
	}
	return own, guests
}
