//go:build unix

package qemu

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/internal/image/disk"
)

// Probe boots a guest with an empty root until its agent answers, unless one has
// booted within a day. That takes a second or less with hardware help, and some
// seconds without; a failure is remembered for an hour, in which it costs nothing.
func (h *Hypervisor) Probe(ctx context.Context) hv.Report {
	h.probing.Lock()
	defer h.probing.Unlock()
	if accelerator, when := h.hasWorked(ctx, time.Now()); accelerator != "" {
		return hv.Report{Usable: true, Reason: fmt.Sprintf("a guest booted with %s at %s", accelerator, when.Format(time.DateTime))}
	}
	how, err := h.tryGuest(ctx)
	if err == nil {
		return hv.Report{Usable: true, Reason: "a guest booted and answered, with " + how}
	}
	return hv.ReportOf(err)
}

// hasWorked returns the first accelerator that may be used, is there and has
// worked, and when; "" if none has.
func (h *Hypervisor) hasWorked(ctx context.Context, now time.Time) (accelerator string, when time.Time) {
	program, err := h.program()
	if err != nil {
		return "", time.Time{}
	}
	k, err := h.kernel("")
	if err != nil {
		return "", time.Time{}
	}
	if _, err := h.agent(ctx); err != nil {
		return "", time.Time{}
	}
	for _, accelerator := range h.cfg.Accelerators {
		if m := h.recall(h.memoryKey(program, k.Path, accelerator), now); m.Works && h.usable(accelerator) == nil {
			return accelerator, m.When
		}
	}
	return "", time.Time{}
}

// tryGuest starts a guest and ends it when its agent has answered. It returns the
// accelerators that were allowed.
func (h *Hypervisor) tryGuest(ctx context.Context) (how string, err error) {
	root, err := emptyRoot()
	if err != nil {
		return "", err
	}
	defer os.Remove(root)
	vm, err := h.Start(ctx, hv.Config{Name: "probe", MemoryMiB: probeMemoryMiB, Disks: []hv.Disk{{Path: root, ReadOnly: true, Format: hv.Ext4}}})
	if err != nil {
		return "", err
	}
	defer vm.Close()
	client := guest.NewClient(vm.Agent())
	defer client.Close()
	return strings.Join(h.cfg.Accelerators, " or "), client.Boot(ctx, guest.Bootstrap{})
}

// emptyRoot makes a disk without files and returns its path.
func emptyRoot() (string, error) {
	f, err := os.CreateTemp("", "sluice-probe-")
	if err != nil {
		return "", err
	}
	var none bytes.Buffer
	if err := errors.Join(tar.NewWriter(&none).Close(), disk.FromTar(&none, f), f.Close()); err != nil {
		os.Remove(f.Name())
		return "", fmt.Errorf("make an empty root: %w", err)
	}
	return f.Name(), nil
}
