package krun

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
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

// elfHead returns the head of an ELF file for a machine.
func elfHead(machine elf.Machine) []byte {
	return at(map[int]string{0: elf.ELFMAG, 0x12: string([]byte{byte(machine), 0})})
}

// ownMachine is the processor that the tests run on.
var ownMachine = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]

func TestKernelFormatOf(t *testing.T) {
	t.Parallel()
	image := at(map[int]string{0: "MZ", 0x38: "ARM\x64"})
	for _, row := range []struct {
		name, arch string
		head       []byte
		want       uint32
		err        string // what the error says; "" for none
	}{
		{"ELF", "amd64", elfHead(elf.EM_X86_64), kernelELF, ""},
		{"ELF, arm64", "arm64", elfHead(elf.EM_AARCH64), kernelELF, ""},
		{"ELF of another", "amd64", elfHead(elf.EM_AARCH64), 0, "another processor than amd64"},
		{"ELF, cut off", "amd64", []byte(elf.ELFMAG), 0, "another processor"},
		{"Image", "arm64", image, kernelRaw, ""},
		{"Image of another", "amd64", image, 0, "another processor"},
		{"EFI", "arm64", at(map[int]string{0: "MZ\x00\x00zimg", 0x18: "gzip"}), kernelPEGzip, ""},
		{"EFI, zstd", "arm64", at(map[int]string{0: "MZ\x00\x00zimg", 0x18: "zstd22"}), 0, "compressed"},
		{"bzImage, gzip", "amd64", bzImage(0x20f, "\x1f\x8b\x08"), kernelImageGzip, ""},
		{"bzImage, bzip2", "amd64", bzImage(0x20f, "BZh"), kernelImageBz2, ""},
		{"bzImage, zstd", "amd64", bzImage(0x20f, "\x28\xb5\x2f\xfd"), kernelImageZstd, ""},
		{"bzImage of another", "arm64", bzImage(0x20f, "BZh"), 0, "another processor than arm64"},
		{"bzImage, xz", "amd64", bzImage(0x20f, "\xfd7zXZ"), 0, "compressed"},
		{"bzImage, of old", "amd64", bzImage(0x207, "\x1f\x8b\x08"), 0, "compressed"},
		{"cut off", "amd64", bzImage(0x20f, "\x1f\x8b\x08")[:0x240], 0, "compressed"},
		{"empty", "amd64", nil, 0, "neither"},
		{"text", "amd64", []byte("#!/bin/sh\n"), 0, "neither"},
	} {
		got, err := kernelFormatOf(row.head, row.arch)
		if row.err == "" && (err != nil || got != row.want) || row.err != "" && (err == nil || !strings.Contains(err.Error(), row.err)) {
			t.Errorf("%s: %d, %v; want %d, %q", row.name, got, err, row.want, row.err)
		}
	}
}

func TestKernelFormatOfFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(path, elfHead(ownMachine), 0o600); err != nil {
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
		for _, arch := range []string{"amd64", "arm64"} {
			if format, err := kernelFormatOf(head, arch); err == nil && format > kernelImageZstd {
				t.Errorf("format %d", format)
			}
		}
	})
}
