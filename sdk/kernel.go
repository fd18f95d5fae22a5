package sdk

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/sluicenet/sluice/internal/guest/kernel"
	"github.com/sluicenet/sluice/internal/image"
	"github.com/sluicenet/sluice/internal/sandbox"
)

// kernelVar names the kernel of machines whose configuration doesn't. A path there is
// the backend's business; an image is pulled here, where a registry can be asked.
const kernelVar = "SLUICE_KERNEL"

// checkKernel reports what is wrong with the guest's kernel.
func (c *checker) checkKernel(cfg *SandboxConfig) {
	ref, inImage := strings.CutPrefix(cfg.Kernel, kernel.ImagePrefix)
	switch {
	case cfg.Kernel == "":
	case cfg.Backend == "namespace":
		c.fail(ErrInvalidConfig, "WithKernel", cfg.Kernel, "a namespace has the host's kernel", "drop it, or choose a backend that boots one")
	case inImage && ref == "":
		c.fail(ErrInvalidArgument, "WithKernel", cfg.Kernel, "names no image", "write oci://NAME")
	case inImage:
	default:
		if _, err := os.Stat(cfg.Kernel); err != nil {
			c.fail(ErrPathNotFound, "WithKernel", cfg.Kernel, "can't be looked at", "give a kernel that this user can read, or oci://NAME for one in an image")
		}
	}
}

// guestKernel returns the path of the kernel that the guest is to boot. One that only
// the environment names is for the backends that go by it.
func (c *SandboxConfig) guestKernel() string {
	if c.Kernel == "" {
		return ""
	}
	return c.bootKernel
}

// resolveKernel makes a path of the host absolute, that of an image's file too.
func (c *SandboxConfig) resolveKernel() {
	ref, inImage := strings.CutPrefix(c.Kernel, kernel.ImagePrefix)
	if ref == "" || inImage && !strings.HasPrefix(ref, "./") && !strings.HasPrefix(ref, "../") {
		return
	}
	if abs, err := filepath.Abs(ref); err == nil {
		c.Kernel = strings.TrimSuffix(c.Kernel, ref) + abs
	}
}

// pullKernel fills in bootKernel, for which an image may have to be brought into the
// cache: then it is returned, and to be kept open for as long as its files are read.
func (c *SandboxConfig) pullKernel(ctx context.Context, dirs sandbox.Dirs) (*image.Image, error) {
	name := c.Kernel
	if name == "" && c.hypervisor == nil && c.Backend != "namespace" {
		name = os.Getenv(kernelVar)
	}
	ref, inImage := strings.CutPrefix(name, kernel.ImagePrefix)
	if !inImage {
		c.bootKernel = c.Kernel
		return nil, nil
	}
	store, err := openImages(dirs, c.progress)
	if err != nil {
		return nil, err
	}
	// Credentials, and what is forgiven a registry, are for that of the guest's image.
	o, err := c.pullOptions()
	if err != nil {
		return nil, err
	}
	img, err := store.Pull(ctx, ref, o)
	if err != nil {
		return nil, imageError(err)
	}
	c.bootKernel = img.RootDir
	return img, nil
}
