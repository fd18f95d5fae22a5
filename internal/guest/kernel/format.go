package kernel

import (
	"debug/elf"
	"encoding/binary"
)

// A Format is what a kernel's file is. The zero Format is none that is known here.
type Format uint8

const (
	Unknown Format = iota
	ELF            // a vmlinux
	BzImage        // a kernel for amd64 that unpacks itself
	Image          // a kernel for arm64
	ZBoot          // a kernel for arm64 that unpacks itself, where there is EFI
	Gzip           // something compressed
	Bzip2          // something compressed
	Zstd           // something compressed
)

// HeadLen is how much of a file FormatOf and BootProtocol look at, in bytes.
const HeadLen = 0x210

// A bzImage's header, by offsets in bytes: https://docs.kernel.org/arch/x86/boot.html
const (
	setupSectors  = 0x1f1
	headerMagic   = 0x202
	bootProtocol  = 0x206
	versionText   = 0x20e // from headerBase on
	headerBase    = 0x200
	payloadOffset = 0x248
	setupEnd      = 0x24c // what is read of the header ends here
	sectorLen     = 512
)

// machines are the numbers of processors in ELF files, by GOARCH.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// FormatOf returns the format of the file that begins with head, and the processor that
// it says it is for, as GOARCH has it: "" if it doesn't say or if there are no guests
// with it.
func FormatOf(head []byte) (format Format, arch string) {
	at := func(offset int, magic string) bool {
		return len(head) >= offset+len(magic) && string(head[offset:offset+len(magic)]) == magic
	}
	switch {
	case at(0, elf.ELFMAG):
		for arch, machine := range machines {
			if len(head) >= 0x14 && elf.Machine(binary.LittleEndian.Uint16(head[0x12:])) == machine {
				return ELF, arch
			}
		}
		return ELF, ""
	case at(0, "MZ") && at(4, "zimg"): // drivers/firmware/efi/libstub/zboot-header.S
		return ZBoot, "arm64"
	case at(0x38, "ARM\x64"): // https://docs.kernel.org/arch/arm64/booting.html
		return Image, "arm64"
	case at(headerMagic, "HdrS"):
		return BzImage, "amd64"
	case at(0, "\x1f\x8b"):
		return Gzip, ""
	case at(0, "BZh"):
		return Bzip2, ""
	case at(0, "\x28\xb5\x2f\xfd"):
		return Zstd, ""
	}
	return Unknown, ""
}

// BootProtocol returns the version of the boot protocol that the bzImage beginning with
// head speaks: 0x206 is 2.06. It is 0 if head is cut off before it.
func BootProtocol(head []byte) uint16 {
	if len(head) < bootProtocol+2 {
		return 0
	}
	return binary.LittleEndian.Uint16(head[bootProtocol:])
}

// PayloadFormat returns how the kernel in a BzImage or ZBoot that begins with head is
// compressed. It is Unknown if that isn't said, not known, or beyond the end of head:
// a bzImage's payload is behind its setup code and decompressor, some 20 KiB.
func PayloadFormat(head []byte) Format {
	switch format, _ := FormatOf(head); {
	case format == ZBoot:
		// By name, from 0x18 on, where the builder's other programs have a suffix.
		if len(head) >= 0x1d && string(head[0x18:0x1d]) == "gzip\x00" {
			return Gzip
		}
	case format == BzImage && len(head) >= setupEnd && BootProtocol(head) >= 0x208: // which brought the payload's place
		sectors := uint64(head[setupSectors])
		if sectors == 0 {
			sectors = 4 // as the header's documentation says
		}
		start := (sectors+1)*sectorLen + uint64(binary.LittleEndian.Uint32(head[payloadOffset:]))
		if start < uint64(len(head)) {
			inner, _ := FormatOf(head[start:])
			return inner
		}
	}
	return Unknown
}
