package krun

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// bzImage returns the head of a kernel for x86 with a payload.
func bzImage(version uint16, payload string) []byte {
	head := make([]byte, 4096)
	head[0x1f1] = 2 // sectors of setup code
	copy(head[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(head[0x206:], version)
	binary.LittleEndian.PutUint32(head[0x248:], 0x20)
	copy(head[3*512+0x20:], payload)
	return head
}

// at returns zeros with texts at offsets.
func at(texts map[int]string) []byte {
	head := make([]byte, 256)
	for offset, text := range texts {
		copy(head[offset:], text)
	}
	return head
}

func TestKernelFormatOf(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		head []byte
		want uint32
		ok   bool
	}{
		{"ELF", []byte("\x7fELF"), kernelELF, true},
		{"arm64 Image", at(map[int]string{0: "MZ", 0x38: "ARM\x64"}), kernelRaw, true},
		{"arm64 EFI", at(map[int]string{0: "MZ\x00\x00zimg", 0x18: "gzip"}), kernelPEGzip, true},
		{"arm64 EFI, zstd", at(map[int]string{0: "MZ\x00\x00zimg", 0x18: "zstd22"}), kernelPEGzip, false},
		{"bzImage, gzip", bzImage(0x20f, "\x1f\x8b\x08"), kernelImageGzip, true},
		{"bzImage, bzip2", bzImage(0x20f, "BZh"), kernelImageBz2, true},
		{"bzImage, zstd", bzImage(0x20f, "\x28\xb5\x2f\xfd"), kernelImageZstd, true},
		{"bzImage, xz", bzImage(0x20f, "\xfd7zXZ"), 0, false},
		{"bzImage, of old", bzImage(0x207, "\x1f\x8b\x08"), 0, false},
		{"cut off", bzImage(0x20f, "\x1f\x8b\x08")[:0x240], 0, false},
		{"empty", nil, 0, false},
		{"text", []byte("#!/bin/sh\n"), 0, false},
	} {
		if got, ok := kernelFormatOf(row.head); ok != row.ok || ok && got != row.want {
			t.Errorf("%s: %d, %t; want %d, %t", row.name, got, ok, row.want, row.ok)
		}
	}
}

func TestKernelFormatOfFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(path, []byte("\x7fELF…"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := kernelFormat(path); err != nil || got != kernelELF {
		t.Errorf("%d, %v", got, err)
	}
	if _, err := kernelFormat(path + "x"); err == nil {
		t.Error("a kernel that isn't there has a format")
	}
	if _, err := kernelFormat(filepath.Dir(path)); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a directory: %v; want that it is not supported", err)
	}
	if err := os.WriteFile(path, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := kernelFormat(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("text is a kernel: %v", err)
	}
}

func FuzzKernelFormat(f *testing.F) {
	f.Add(bzImage(0x20f, "\x1f\x8b\x08"))
	f.Add([]byte("MZ\x00\x00zimg"))
	f.Fuzz(func(t *testing.T, head []byte) {
		if format, ok := kernelFormatOf(head); ok && format > kernelImageZstd {
			t.Errorf("format %d", format)
		}
	})
}
