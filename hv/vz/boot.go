package vz

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/internal/guest/kernel"
	"github.com/sluicenet/sluice/internal/guest/machine"
)

// bootFiles are the paths of what a machine boots: the framework's process opens
// them itself.
type bootFiles struct{ kernel, initrd string }

// prepareBoot finds a kernel and puts an initramfs with its modules and the agent
// into dir, unless cfg has one of its own.
func prepareBoot(ctx context.Context, cfg hv.Config, dir string) (bootFiles, error) {
	path := cfg.Kernel
	if path == "" {
		path = os.Getenv("SLUICE_KERNEL")
	}
	// Foreign: a Mac has no Linux kernel of its own in /boot.
	k, err := kernel.Find(kernel.Query{Path: path, Arch: runtime.GOARCH, Foreign: true})
	if err != nil {
		return bootFiles{}, err
	}
	if k.Bundled {
		return bootFiles{}, errors.New("libkrunfw's kernel has no PCI, on which the framework's devices are: use another")
	}
	// The guest's processor is the host's: nothing is emulated.
	if err := checkKernel(k.Path, runtime.GOARCH); err != nil {
		return bootFiles{}, err
	}
	image, err := filepath.Abs(k.Path)
	if err != nil {
		return bootFiles{}, err
	}
	if cfg.Initrd != "" {
		initrd, err := filepath.Abs(cfg.Initrd)
		return bootFiles{image, initrd}, err
	}
	agent, err := guest.Executable(ctx, runtime.GOARCH)
	if err != nil {
		return bootFiles{}, fmt.Errorf("find the guest's agent: %w", err)
	}
	// The framework's devices are on PCI, which distributions have as modules.
	setup, err := setupOf(cfg)
	if err != nil {
		return bootFiles{}, err
	}
	needed, helpful := setup.Modules()
	packed, err := k.Initramfs(agent, machine.Role, machine.ModulesDir, append(needed, "virtio_pci", "virtio_rng"), helpful)
	if err != nil {
		return bootFiles{}, err
	}
	defer packed.Close()
	initrd := filepath.Join(dir, "initramfs")
	return bootFiles{image, initrd}, writeFile(initrd, packed)
}

// writeFile copies r into a new file.
func writeFile(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// checkKernel reports what is wrong with a kernel for the framework's loader, which
// says no more than that it failed: it takes a bzImage on amd64 and, on arm64, an
// Image that is not compressed, as distributions' mostly are.
func checkKernel(path, arch string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, kernel.HeadLen)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read kernel %q: %w", path, err)
	}
	if what := kernelFlaw(head[:n], arch); what != "" {
		return fmt.Errorf("kernel %q %s", path, what)
	}
	return nil
}

// kernelFlaw says why the kernel that begins with head can't be booted; "" if it
// can.
func kernelFlaw(head []byte, arch string) string {
	switch format, of := kernel.FormatOf(head); {
	case format == kernel.ELF:
		return "is an ELF file: use arch/arm64/boot/Image or arch/x86/boot/bzImage of the same build"
	case format == kernel.Gzip:
		return "is compressed: gunzip it"
	case format == kernel.Zstd:
		return "is compressed: unzstd it"
	case format == kernel.ZBoot:
		return "is a compressed EFI image: unpack the Image in it (CONFIG_EFI_ZBOOT=n builds one without)"
	case format != kernel.Image && format != kernel.BzImage:
		return "is neither an Image for arm64 nor a bzImage for amd64"
	case of != arch:
		return "is for another processor than " + arch
	case format == kernel.BzImage && kernel.BootProtocol(head) < 0x206: // which brought command lines of any length
		return "is older than version 2.06 of the boot protocol"
	}
	return ""
}
