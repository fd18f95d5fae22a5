package kernel

import (
	"encoding/binary"
	"testing"
)

// head returns 4 KiB of zeros with texts at offsets.
func head(texts map[int]string) []byte {
	b := make([]byte, 4096)
	for offset, text := range texts {
		copy(b[offset:], text)
	}
	return b
}

// packed returns the head of a bzImage with a payload at 0x20 behind its sectors of
// setup code.
func packed(protocol string, sectors byte, payload string) []byte {
	start := (int(sectors) + 1) * 512
	if sectors == 0 {
		start = 5 * 512
	}
	return head(map[int]string{0x1f1: string(sectors), 0x202: "HdrS" + protocol, 0x248: "\x20\x00\x00\x00", start + 0x20: payload})
}

func TestFormatOf(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		head   []byte
		format Format
		arch   string
	}{
		{"bzImage", packed("\x0f\x02", 2, ""), BzImage, "amd64"},
		{"bzImage with an EFI stub", head(map[int]string{0: "MZ", 0x3c: "\x40", 0x202: "HdrS"}), BzImage, "amd64"},
		{"bzImage, cut off", head(map[int]string{0x202: "HdrS"})[:0x205], Unknown, ""},
		{"Image", head(map[int]string{0x38: "ARM\x64"}), Image, "arm64"},
		{"Image with an EFI stub", head(map[int]string{0: "MZ", 0x38: "ARM\x64"}), Image, "arm64"},
		{"Image, cut off", head(map[int]string{0x38: "ARM\x64"})[:0x3b], Unknown, ""},
		{"EFI", head(map[int]string{0: "MZ\x00\x00zimg"}), ZBoot, "arm64"},
		{"another program of EFI's", head(map[int]string{0: "MZ"}), Unknown, ""},
		{"ELF", head(map[int]string{0: "\x7fELF", 0x12: "\x3e"}), ELF, "amd64"},
		{"ELF, arm64", head(map[int]string{0: "\x7fELF", 0x12: "\xb7"}), ELF, "arm64"},
		{"ELF, riscv64", head(map[int]string{0: "\x7fELF", 0x12: "\xf3"}), ELF, ""},
		{"ELF, cut off", []byte("\x7fELF"), ELF, ""},
		{"Image.gz", []byte("\x1f\x8b\x08"), Gzip, ""},
		{"Image.bz2", []byte("BZh9"), Bzip2, ""},
		{"Image.zst", []byte("\x28\xb5\x2f\xfd"), Zstd, ""},
		{"text", []byte("#!/bin/sh"), Unknown, ""},
		{"nothing", nil, Unknown, ""},
	} {
		if format, arch := FormatOf(row.head); format != row.format || arch != row.arch {
			t.Errorf("%s: %v, %q; want %v, %q", row.name, format, arch, row.format, row.arch)
		}
	}
}

func TestPayloadFormat(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		head []byte
		want Format
	}{
		{"gzip", packed("\x0f\x02", 2, "\x1f\x8b\x08"), Gzip},
		{"bzip2", packed("\x0f\x02", 1, "BZh"), Bzip2},
		{"zstd", packed("\x08\x02", 3, "\x28\xb5\x2f\xfd"), Zstd},
		{"xz", packed("\x0f\x02", 2, "\xfd7zXZ"), Unknown},
		{"sectors that are not said are four", packed("\x0f\x02", 0, "BZh"), Bzip2},
		{"a protocol that doesn't say where", packed("\x07\x02", 2, "BZh"), Unknown},
		{"the header is cut off", packed("\x0f\x02", 2, "BZh")[:0x24b], Unknown},
		{"the payload is cut off", packed("\x0f\x02", 2, "BZh")[:3*512+0x20], Unknown},
		{"a place beyond all", head(map[int]string{0x1f1: "\xff", 0x202: "HdrS\x0f\x02", 0x248: "\xff\xff\xff\xff"}), Unknown},
		{"EFI, gzip", head(map[int]string{0: "MZ\x00\x00zimg", 0x18: "gzip"}), Gzip},
		{"EFI, zstd", head(map[int]string{0: "MZ\x00\x00zimg", 0x18: "zstd22"}), Unknown},
		{"EFI, cut off", head(map[int]string{0: "MZ\x00\x00zimg", 0x18: "gzip"})[:0x1c], Unknown},
		{"Image", head(map[int]string{0x38: "ARM\x64"}), Unknown},
		{"nothing", nil, Unknown},
	} {
		if got := PayloadFormat(row.head); got != row.want {
			t.Errorf("%s: %v; want %v", row.name, got, row.want)
		}
	}
}

func TestBootProtocol(t *testing.T) {
	t.Parallel()
	image := packed("\x0f\x02", 2, "")
	if got := BootProtocol(image); got != 0x20f {
		t.Errorf("%#x; want 2.15", got)
	}
	for n := range bootProtocol + 2 {
		if got := BootProtocol(image[:n]); got != 0 {
			t.Fatalf("%#x of %d bytes", got, n)
		}
	}
}

// No more is read than HeadLen promises, and nothing that isn't there.
func FuzzFormatOf(f *testing.F) {
	f.Add(packed("\x0f\x02", 2, "BZh"))
	f.Add(head(map[int]string{0: "MZ\x00\x00zimg"}))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, file []byte) {
		format, arch := FormatOf(file)
		if f, a := FormatOf(file[:min(len(file), HeadLen)]); f != format || a != arch {
			t.Errorf("%v, %q of the head; %v, %q of all", f, a, format, arch)
		}
		switch inner := PayloadFormat(file); {
		case inner != Unknown && format != BzImage && format != ZBoot:
			t.Errorf("%v has a payload: %v", format, inner)
		case format == BzImage && inner != Unknown && binary.LittleEndian.Uint16(file[bootProtocol:]) < 0x208:
			t.Error("an old bzImage says where its payload is")
		}
	})
}
