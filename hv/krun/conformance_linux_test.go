//go:build cgo

package krun

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/hvtest"
	"github.com/sluicenet/sluice/internal/netlab"
)

// TestConformance runs the suite with the stub: all but libkrun and the guest's
// kernel is real.
func TestConformance(t *testing.T) {
	t.Parallel()
	s := buildStub(t, nil)
	t.Cleanup(func() { s.checkContract(t) })
	hvtest.Run(t, rooted{s.hypervisor(t), testRoot(t)})
}

// TestConformanceByVsock runs it with a library that has no ports of consoles.
func TestConformanceByVsock(t *testing.T) {
	t.Parallel()
	s := buildStub(t, []string{"krun_add_console_port_inout"})
	t.Cleanup(func() { s.checkContract(t) })
	hvtest.Run(t, rooted{s.hypervisor(t), testRoot(t)})
}

// TestConformanceReal runs it with the libkrun of this machine; make
// integration-krun shows why not where there is none. The root is a disk, as a
// sandbox's is: not every libkrun has directories that can be written over.
func TestConformanceReal(t *testing.T) {
	t.Parallel()
	image := filepath.Join(t.TempDir(), "root.ext4")
	mkfs := exec.CommandContext(t.Context(), netlab.Tool(t, "mkfs.ext4"), "-q", "-d", testRoot(t), image, "32M")
	if out, err := mkfs.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", mkfs, err, out)
	}
	hvtest.Run(t, onDisk{New(), image})
}

// An onDisk hypervisor gives its guests a disk as their root.
type onDisk struct {
	*Hypervisor
	image string
}

func (d onDisk) Start(ctx context.Context, cfg hv.Config) (hv.VM, error) {
	if cfg.Root == "" && len(cfg.Disks) == 0 {
		cfg.Disks = []hv.Disk{{Path: d.image, ReadOnly: true, Format: hv.Ext4}}
	}
	return d.Hypervisor.Start(ctx, cfg)
}
