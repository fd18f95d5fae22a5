//go:build linux

package vm

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/qemu"
	"github.com/sluicenet/sluice/internal/guest"
)

// TestStart prints how long a guest takes to its first command, phase by phase, and
// what it takes of the host's memory.
func TestStart(t *testing.T) {
	if !*table {
		t.Skip("make bench measures")
	}
	root := image(t)
	phases := make(map[string][]float64)
	var order []string
	note := func(phase string, d time.Duration) {
		if !slices.Contains(order, phase) {
			order = append(order, phase)
		}
		phases[phase] = append(phases[phase], d.Seconds()*1000)
	}
	for range *rounds {
		ctx, cancel := context.WithCancel(t.Context())
		h := qemu.New(qemu.Config{Accelerators: []string{"tcg"}, Memory: t.TempDir()})
		begun := time.Now()
		vm, err := h.Start(ctx, hv.Config{
			Name: "bench", NIC: &hv.NIC{}, Disks: []hv.Disk{{Path: root, ReadOnly: true, Format: hv.Ext4}},
			Logger: slog.New(phaseHandler{note: note}),
		})
		if err != nil {
			t.Fatal(err)
		}
		ready := time.Now()
		client := guest.NewClient(vm.Agent())
		if err := client.Boot(ctx, guest.Bootstrap{Hostname: "bench"}); err != nil {
			t.Fatal(err)
		}
		booted := time.Now()
		run(t, client, "/bin/busybox", "true")
		note("boot message", booted.Sub(ready))
		note("first command", time.Since(booted))
		note("all", time.Since(begun))
		ended := time.Now()
		if err := client.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := vm.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		note("end", time.Since(ended))
		client.Close()
		vm.Close()
		cancel()
	}
	fmt.Printf("a guest's start, ms, medians of %d\n", *rounds)
	for _, phase := range order {
		fmt.Printf("%-14s %6.0f\n", phase, median(phases[phase]))
	}
}

// A phaseHandler is a log's handler that notes the phases that the backend tells.
type phaseHandler struct {
	note func(phase string, d time.Duration)
}

func (h phaseHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h phaseHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h phaseHandler) WithGroup(string) slog.Handler            { return h }

// Handle notes a record's durations.
func (h phaseHandler) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Value.Kind() == slog.KindDuration {
			h.note(a.Key, a.Value.Duration())
		}
		return true
	})
	return nil
}
