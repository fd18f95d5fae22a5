package krun

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
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
	format, ok := kernelFormatOf(head)
	if !ok {
		return 0, fmt.Errorf("kernel %q is neither ELF, bzImage nor an arm64 Image", path)
	}
	return format, nil
}

// kernelFormatOf returns the format of a kernel that begins with head.
func kernelFormatOf(head []byte) (uint32, bool) {
	at := func(offset int, magic string) bool {
		return len(head) >= offset+len(magic) && string(head[offset:offset+len(magic)]) == magic
	}
	switch {
	case at(0, "\x7fELF"):
		return kernelELF, true
	case at(0, "MZ") && at(4, "zimg"): // drivers/firmware/efi/libstub/zboot-header.S
		return kernelPEGzip, at(0x18, "gzip")
	case at(0x38, "ARM\x64"): // Documentation/arch/arm64/booting.rst
		return kernelRaw, true
	case at(0x202, "HdrS"): // Documentation/arch/x86/boot.rst
		return compression(head)
	}
	return 0, false
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
