package sandbox

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/sluicenet/sluice"
	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/internal/image/disk"
)

// upperName is the file in the sandbox's directory that has what a machine writes
// over its image. It stays with a sandbox that is kept.
const upperName = "upper.ext4"

// upperMiB is how much a machine may write. The file takes the host's disk only
// what was written and not freed again.
const upperMiB = 16 << 10

// giveRoot gives a guest its root: a directory, or for a machine the image as a
// disk and another one for its writes.
func (s *Sandbox) giveRoot(ctx context.Context, hypervisor hv.Hypervisor, cfg *hv.Config) error {
	if !needsDisks(hypervisor) {
		cfg.Root = s.cfg.Root
		return nil
	}
	if s.image == nil {
		return &control.Failure{
			Kind: control.KindArgument, Message: "backend " + hypervisor.Name() + " runs a machine of its own, which needs an image for its files",
			Hint: "give an image, or use the backend namespace, which shows the host's files",
		}
	}
	root, err := disk.Root(ctx, s.image)
	if err != nil {
		return ioFailure(err)
	}
	upper := s.claim.path(upperName)
	if _, err := os.Stat(upper); errors.Is(err, fs.ErrNotExist) {
		if err := disk.Upper(upper, upperMiB); err != nil {
			return ioFailure(err)
		}
	}
	cfg.Disks = []hv.Disk{{Path: root, ReadOnly: true, Format: hv.Ext4}, {Path: upper, Format: hv.Ext4}}
	// The files of whoever started the sandbox can't be those of its commands.
	cfg.Stdio = [3]*os.File{}
	cfg.Hide = nil
	return nil
}

// needsDisks reports whether a backend's guests have disks.
func needsDisks(hypervisor hv.Hypervisor) bool {
	for _, b := range sluice.Backends() {
		if b.Name() == hypervisor.Name() {
			return b.Disks
		}
	}
	return false
}
