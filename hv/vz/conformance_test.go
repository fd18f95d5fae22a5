package vz

import (
	"context"
	"os"
	"testing"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/hvtest"
)

// rootVariable names an ext4 image with busybox in it, for the guests of
// TestConformance: a Mac has no Linux program to make one of.
const rootVariable = "SLUICE_TEST_ROOT"

// TestConformance runs the suite on a Mac; make integration-vz says what is missing
// where it can't.
func TestConformance(t *testing.T) {
	t.Parallel()
	if r := New().Probe(t.Context()); r.Usable && os.Getenv(rootVariable) == "" {
		t.Skipf("set %s to an ext4 image with busybox for this processor, and SLUICE_KERNEL to a kernel", rootVariable)
	}
	hvtest.Run(t, rooted{New()})
}

// A rooted hypervisor gives its guests a root, as its callers do.
type rooted struct{ *Hypervisor }

// Start starts a guest with the image as its root.
func (r rooted) Start(ctx context.Context, cfg hv.Config) (hv.VM, error) {
	if len(cfg.Disks) == 0 {
		cfg.Disks = []hv.Disk{{Path: os.Getenv(rootVariable), ReadOnly: true, Format: hv.Ext4}}
	}
	return r.Hypervisor.Start(ctx, cfg)
}
