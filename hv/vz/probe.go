package vz

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sluicenet/sluice/hv"
)

// Probe boots a guest until its process 1 has a word for us, in this program or,
// where that isn't signed for it, in a copy that is. What it showed is remembered
// for the life of the process.
func (h *Hypervisor) Probe(ctx context.Context) hv.Report {
	if _, err := h.framework.limits(); err != nil {
		return hv.ReportOf(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.probed != nil {
		return *h.probed
	}
	r := h.probe(ctx)
	if ctx.Err() == nil { // else nothing was shown
		h.probed = &r
	}
	return r
}

// probe tries it, in the program that may.
func (h *Hypervisor) probe(ctx context.Context) hv.Report {
	self, err := os.Executable()
	if err != nil {
		return hv.ReportOf(err)
	}
	// The entitlement is the program's: a process can't get it while it runs.
	program, err := h.signer.executable(ctx, self)
	if err != nil {
		return hv.ReportOf(&unusableError{err, "xcode-select --install, or set SLUICE_EXECUTABLE to a sluice that is signed with " + entitlement})
	}
	if program == self {
		return h.try(ctx)
	}
	out, err := h.signer.start(ctx, program, Role)
	var r hv.Report
	if err == nil {
		err = json.Unmarshal(out, &r)
	}
	if err != nil {
		return hv.ReportOf(fmt.Errorf("try a guest in a signed copy of this program: %w", err))
	}
	return r
}

// Main tries a guest and prints the hv.Report: call it where os.Args[0] is Role. It
// does not return.
func Main() {
	if err := json.NewEncoder(os.Stdout).Encode(New().try(context.Background())); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// try boots a guest. Its root is an empty disk: that its process 1 tells so is the
// proof, and there is none with less.
func (h *Hypervisor) try(ctx context.Context) hv.Report {
	dir, err := os.MkdirTemp("", "sluice-vz-probe-")
	if err != nil {
		return hv.ReportOf(err)
	}
	defer os.RemoveAll(dir)
	root := filepath.Join(dir, "root")
	if err := os.WriteFile(root, make([]byte, mebibyte), 0o600); err != nil {
		return hv.ReportOf(err)
	}
	v, err := h.start(ctx, hv.Config{Name: "probe", NIC: &hv.NIC{}, Disks: []hv.Disk{{Path: root, ReadOnly: true, Format: hv.Ext4}}}, virtualMachine.start)
	if err != nil {
		return hv.ReportOf(err)
	}
	err = v.awaitReady(ctx)
	v.Close()
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil && v.told.Failure == "" {
		return hv.ReportOf(err)
	}
	return hv.Report{Usable: true, Reason: "a guest booted"}
}
