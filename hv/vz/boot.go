package vz

import (
	"context"
	"encoding/binary"
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

// kernelHead is how much of a kernel's file says what it is, in bytes.
const kernelHead = 0x210

// checkKernel reports what is wrong with a kernel for the framework's loader, which
// says no more than that it failed: it takes a bzImage on amd64 and, on arm64, an
// Image that is not compressed, as distributions' mostly are.
func checkKernel(path, arch string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, kernelHead)
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
	at := func(offset int, magic string) bool {
		return len(head) >= offset+len(magic) && string(head[offset:offset+len(magic)]) == magic
	}
	switch {
	case at(0, "\x7fELF"):
		return "is an ELF file: use arch/arm64/boot/Image or arch/x86/boot/bzImage of the same build"
	case arch == "amd64" && at(0x202, "HdrS"):
		if binary.LittleEndian.Uint16(head[0x206:]) < 0x206 { // Documentation/arch/x86/boot.rst: cmdline_size
			return "is older than version 2.06 of the boot protocol"
		}
		return ""
	case arch == "arm64" && at(0x38, "ARM\x64"): // Documentation/arch/arm64/booting.rst
		return ""
	case at(0, "\x1f\x8b"):
		return "is compressed: gunzip it"
	case at(0, "\x28\xb5\x2f\xfd"):
		return "is compressed: unzstd it"
	case at(0, "MZ") && at(4, "zimg"):
		return "is a compressed EFI image: unpack the Image in it (CONFIG_EFI_ZBOOT=n builds one without)"
	case at(0x38, "ARM\x64"), at(0x202, "HdrS"):
		return "is for another processor than " + arch
	}
	return "is neither an Image for arm64 nor a bzImage for amd64"
}
