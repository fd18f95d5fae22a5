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

// filesName is the directory in the sandbox's directory that has what a guest without
// disks writes over its root, of a sandbox that is kept.
const filesName = "files"

// giveRoot gives a guest its root: a directory, and another one for its writes if
// they are to be kept, or for a machine the image as a disk and another one for its
// writes.
func (s *Sandbox) giveRoot(ctx context.Context, hypervisor hv.Hypervisor, cfg *hv.Config) error {
	if !needsDisks(hypervisor) {
		cfg.Root = s.cfg.Root
		if cfg.Root == "" || !s.cfg.Keep {
			return nil
		}
		cfg.Files = s.claim.path(filesName)
		if err := os.Mkdir(cfg.Files, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return ioFailure(err)
		}
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

// keepsFiles reports whether what the guest writes to its root stays with a sandbox
// that is kept.
func (s *Sandbox) keepsFiles(hypervisor hv.Hypervisor) bool {
	if vm, ok := s.vm.(interface{ KeepsFiles() bool }); ok {
		return vm.KeepsFiles()
	}
	return needsDisks(hypervisor)
}

// warnOfLoss says why what the guest writes is gone when it stops.
func (s *Sandbox) warnOfLoss() string {
	if s.cfg.Root == "" {
		return "without an image or a root of its own the sandbox keeps no files: what is written is gone when it stops"
	}
	return "what is written to the root is gone when the sandbox stops: the file system of " + s.dirs.Home + " can't keep it (set SLUICE_HOME to a directory on another)"
}

// removeAll removes a file, or a directory with all that is in it. Files of a guest
// may belong to ids that only its backend can act for.
func removeAll(path string) error {
	err := os.RemoveAll(path)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	for _, b := range sluice.Backends() {
		if r, ok := b.Hypervisor.(interface {
			RemoveFiles(ctx context.Context, dir string) error
		}); ok {
			return r.RemoveFiles(context.Background(), path) // what ends mustn't stay by half
		}
	}
	return err
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
