package qemu

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/internal/netlab"
)

// hostile builds the process 1 that misbehaves in a way.
func hostile(t *testing.T, mode string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hostile")
	build := exec.Command(netlab.Tool(t, "go"), "build", "-ldflags", "-s -w -X main.mode="+mode, "-o", path, "./testdata/hostile")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

// A guest that isn't ready is an error that says what is known, in time, and
// nothing of it is left.
func TestGuestsThatAreNeverReady(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		mode    string
		timeout time.Duration
		says    string
		again   bool // another accelerator might do better
	}{
		{"silent", 4 * time.Second, "not ready within 4s", true},
		{"panic", time.Minute, "Attempted to kill init", true},
		{"nonsense", time.Minute, "ended before the guest was ready", true},
		{"flood", time.Minute, "ended before the guest was ready", true},
		{"lines", time.Minute, "the guest says: again", false},
		{"failed", time.Minute, "the guest says: to please ?[31m you", false},
	} {
		t.Run(row.mode, func(t *testing.T) {
			t.Parallel()
			h := hypervisor(t, Config{
				Accelerators: []string{tcg}, Memory: t.TempDir(), BootTimeout: row.timeout, Agent: hostile(t, row.mode),
			})
			cfg := hv.Config{Name: "hostile", Disks: busybox(t)}
			_, err := h.Start(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), row.says) {
				t.Fatalf("Start = %v; want an error that says %q", err, row.says)
			}
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("the error can act on a terminal: %q", err)
			}
			if errors.Is(err, errors.ErrUnsupported) != row.again {
				t.Errorf("%v: matches ErrUnsupported: %v; want %v", err, !row.again, row.again)
			}
			if !row.again {
				return
			}
			// Once is enough, for a time.
			begun := time.Now()
			if _, err := h.Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "tried before") {
				t.Errorf("a second Start = %v; want what is remembered", err)
			}
			if took := time.Since(begun); took > row.timeout/2 {
				t.Errorf("it took %v to remember", took)
			}
		})
	}
}

// Noise on the agent's port and on the console hurts nobody but its guest.
func TestNoise(t *testing.T) {
	t.Parallel()
	h := hypervisor(t, Config{Accelerators: []string{tcg}, Memory: t.TempDir(), Agent: hostile(t, "noise")})
	vm, err := h.Start(t.Context(), hv.Config{Name: "noise", MemoryMiB: 192, Disks: busybox(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	client := guest.NewClient(vm.Agent())
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := client.Boot(ctx, guest.Bootstrap{}); err == nil || ctx.Err() != nil {
		t.Errorf("Boot against noise = %v; want an error before the time is up", err)
	}
	client.Close()
	// It means to go on without its host, and must not.
	if exit, err := vm.Wait(ctx); err != nil || exit.Signal != 9 {
		t.Errorf("Wait = %+v, %v; want it killed", exit, err)
	}
}

// A kernel that panics ends its guest at once, with its last words on the console.
func TestPanic(t *testing.T) {
	t.Parallel()
	console := new(recorder)
	vm, client := boot(t, emulated(t), hv.Config{Console: console, Disks: busybox(t)})
	if _, err := client.Start(t.Context(), guest.Command{Args: []string{"/bin/sh", "-c", "echo c >/proc/sysrq-trigger"}}); err != nil {
		t.Log(err) // the start's answer may be lost
	}
	if exit := wait(t, vm); exit != (hv.Exit{Code: guest.CodeRefused}) {
		t.Errorf("Wait = %+v; want code %d", exit, guest.CodeRefused)
	}
	if text := console.String(); !strings.Contains(text, "sysrq triggered crash") {
		t.Errorf("the console has %q", text)
	}
	select {
	case <-client.Ended():
	case <-time.After(time.Minute):
		t.Error("the agent's stream outlives its guest")
	}
}
