package krun

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/sluicenet/sluice/internal/guest/kernel"
)

// Formats of krun_set_kernel: KRUN_KERNEL_FORMAT_ in include/libkrun.h.
const (
	kernelRaw       = 0 // an arm64 Image
	kernelELF       = 1
	kernelPEGzip    = 2 // an arm64 EFI image, compressed
	kernelImageBz2  = 3 // an x86 bzImage, by the compression of what is inside
	kernelImageGzip = 4
	kernelImageZstd = 5
)

// kernelHead is how much of a kernel's file its format is found in, in bytes: the
// setup code of a bzImage, and the decompressor before the compressed kernel.
const kernelHead = 1 << 20

// kernelFormat returns the format of the kernel in a file.
func kernelFormat(path string) (uint32, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return 0, fmt.Errorf("kernel %q is a directory, and libkrun loads no modules: name a file that needs none: %w", path, errors.ErrUnsupported)
	}
	head, err := io.ReadAll(io.LimitReader(f, kernelHead))
	if err != nil {
		return 0, err
	}
	format, err := kernelFormatOf(head, runtime.GOARCH)
	if err != nil {
		return 0, fmt.Errorf("kernel %q %w", path, err)
	}
	return format, nil
}

// kernelFormatOf returns the format of a kernel that begins with head, or what is
// wrong with it for a processor, which is a GOARCH. The library doesn't look: on
// amd64 it maps an arm64 Image as it is, and the guest hangs until bootTimeout.
func kernelFormatOf(head []byte, arch string) (uint32, error) {
	format, of := kernel.FormatOf(head)
	var number uint32
	known := true
	switch format {
	case kernel.ELF:
		number = kernelELF
	case kernel.Image:
		number = kernelRaw
	case kernel.ZBoot:
		number, known = kernelPEGzip, kernel.PayloadFormat(head) == kernel.Gzip
	case kernel.BzImage:
		number, known = bzImages[kernel.PayloadFormat(head)]
	default:
		return 0, errors.New("is neither ELF, bzImage nor an arm64 Image")
	}
	switch {
	case of != arch:
		return 0, fmt.Errorf("is for another processor than %s", arch)
	case !known:
		return 0, errors.New("is compressed in a way that libkrun doesn't know: it takes gzip, and in a bzImage bzip2 and zstd too")
	}
	return number, nil
}

// bzImages are the formats of krun_set_kernel by how what is inside is compressed.
var bzImages = map[kernel.Format]uint32{kernel.Bzip2: kernelImageBz2, kernel.Gzip: kernelImageGzip, kernel.Zstd: kernelImageZstd}
