package krun

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
)

// Formats of krun_set_kernel.
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

// elfMachines are the numbers of processors in ELF files, by GOARCH.
var elfMachines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// kernelFormatOf returns the format of a kernel that begins with head, or what is
// wrong with it for a processor, which is a GOARCH. The library doesn't look: on
// amd64 it maps an arm64 Image as it is, and the guest hangs until bootTimeout.
func kernelFormatOf(head []byte, arch string) (uint32, error) {
	at := func(offset int, magic string) bool {
		return len(head) >= offset+len(magic) && string(head[offset:offset+len(magic)]) == magic
	}
	format, fits, known := uint32(0), false, true
	switch {
	case at(0, elf.ELFMAG) && len(head) >= 0x14:
		format, fits = kernelELF, elf.Machine(binary.LittleEndian.Uint16(head[0x12:])) == elfMachines[arch]
	case at(0, "MZ") && at(4, "zimg"): // drivers/firmware/efi/libstub/zboot-header.S
		format, fits, known = kernelPEGzip, arch == "arm64", at(0x18, "gzip")
	case at(0x38, "ARM\x64"): // Documentation/arch/arm64/booting.rst
		format, fits = kernelRaw, arch == "arm64"
	case at(0x202, "HdrS"): // Documentation/arch/x86/boot.rst
		fits = arch == "amd64"
		format, known = compression(head)
	default:
		return 0, errors.New("is neither ELF, bzImage nor an arm64 Image")
	}
	switch {
	case !fits:
		return 0, fmt.Errorf("is for another processor than %s", arch)
	case !known:
		return 0, errors.New("is compressed in a way that libkrun doesn't know: it takes gzip, and in a bzImage bzip2 and zstd too")
	}
	return format, nil
}

// compression returns the format of a bzImage by the magic number of its payload,
// whose place the header tells from version 2.08 on.
func compression(head []byte) (uint32, bool) {
	if len(head) < 0x250 || binary.LittleEndian.Uint16(head[0x206:]) < 0x208 {
		return 0, false
	}
	sectors := int(head[0x1f1])
	if sectors == 0 {
		sectors = 4 // as the header's documentation says
	}
	start := (sectors+1)*512 + int(binary.LittleEndian.Uint32(head[0x248:]))
	if start >= len(head) {
		return 0, false
	}
	for format, magic := range map[uint32]string{
		kernelImageBz2:  "BZh",
		kernelImageGzip: "\x1f\x8b\x08",
		kernelImageZstd: "\x28\xb5\x2f\xfd",
	} {
		if bytes.HasPrefix(head[start:], []byte(magic)) {
			return format, true
		}
	}
	return 0, false
}
