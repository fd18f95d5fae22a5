package kernel

import (
	"bytes"
	"debug/elf"
	"debug/macho"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// libkrunfw is a shared library that holds a kernel as the bytes of one symbol:
// an image of memory, without a header that a loader could read. libkrun knows
// where it goes; for other hypervisors a header is put in front here.

// bundleSymbol is the symbol.
const bundleSymbol = "KERNEL_BUNDLE"

// maxBundle bounds its bytes. libkrunfw 5.5 has 21 MiB for amd64.
const maxBundle = 256 << 20

// loadAddress is where the amd64 image goes: the kernel's own default
// (CONFIG_PHYSICAL_START), which krunfw_get_kernel returns as a constant.
const loadAddress = 0x1000000

// errNotLibrary: the file isn't libkrunfw.
var errNotLibrary = errors.New("it is not libkrunfw")

// A bundle is libkrunfw's kernel.
type bundle struct {
	image *io.SectionReader
}

// readBundle returns the kernel in the library f.
func readBundle(f io.ReaderAt, arch string) (bundle, error) {
	if library, err := elf.NewFile(f); err == nil && library.Type == elf.ET_DYN {
		return readELFBundle(f, library, arch)
	}
	if library, err := macho.NewFile(f); err == nil && library.Type == macho.TypeDylib {
		return readMachOBundle(f, library, arch)
	}
	return bundle{}, errNotLibrary
}

// readELFBundle returns the kernel in Linux' library.
func readELFBundle(f io.ReaderAt, library *elf.File, arch string) (bundle, error) {
	symbols, err := library.DynamicSymbols()
	if err != nil {
		return bundle{}, errNotLibrary
	}
	for _, s := range symbols {
		if s.Name != bundleSymbol {
			continue
		}
		if library.Machine != machines[arch] {
			return bundle{}, fmt.Errorf("it has a kernel for %v, not for %s", library.Machine, arch)
		}
		for _, p := range library.Progs {
			if p.Type == elf.PT_LOAD && s.Value >= p.Vaddr && s.Value-p.Vaddr <= p.Filesz && s.Size <= p.Filesz-(s.Value-p.Vaddr) {
				return newBundle(f, p.Off+s.Value-p.Vaddr, s.Size)
			}
		}
		return bundle{}, errors.New("its kernel is beyond its end")
	}
	return bundle{}, errNotLibrary
}

// readMachOBundle returns the kernel in macOS' library. Symbols have no size there:
// the kernel ends with its section, or where the next symbol is.
func readMachOBundle(f io.ReaderAt, library *macho.File, arch string) (bundle, error) {
	machines := map[string]macho.Cpu{"amd64": macho.CpuAmd64, "arm64": macho.CpuArm64}
	if library.Symtab == nil {
		return bundle{}, errNotLibrary
	}
	for _, s := range library.Symtab.Syms {
		if s.Name != "_"+bundleSymbol || s.Sect == 0 || int(s.Sect) > len(library.Sections) {
			continue
		}
		if library.Cpu != machines[arch] {
			return bundle{}, fmt.Errorf("it has a kernel for %v, not for %s", library.Cpu, arch)
		}
		section := library.Sections[s.Sect-1]
		end := section.Addr + section.Size
		if s.Value < section.Addr || s.Value > end {
			return bundle{}, errors.New("its kernel is beyond its end")
		}
		for _, other := range library.Symtab.Syms {
			if other.Sect == s.Sect && other.Value > s.Value {
				end = min(end, other.Value)
			}
		}
		return newBundle(f, uint64(section.Offset)+s.Value-section.Addr, end-s.Value)
	}
	return bundle{}, errNotLibrary
}

// newBundle returns the kernel at a place in f.
func newBundle(f io.ReaderAt, at, size uint64) (bundle, error) {
	if size == 0 || size > maxBundle {
		return bundle{}, fmt.Errorf("its kernel has %d bytes", size)
	}
	return bundle{io.NewSectionReader(f, int64(at), int64(size))}, nil
}

// bootable returns the kernel as a file that a loader takes.
func (b bundle) bootable(arch string) ([]byte, error) {
	image, err := io.ReadAll(b.image)
	if err == nil && int64(len(image)) < b.image.Size() {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	if arch == "arm64" { // it is an Image, with a header of its own
		return image, nil
	}
	return pvhELF(image)
}

// pvhELF returns an ELF file with the image as its one segment, and with the
// image's PVH note, by which a loader knows the entry point:
// https://xenbits.xen.org/docs/unstable/misc/pvh.html
func pvhELF(image []byte) ([]byte, error) {
	note, size, entry, err := pvhNote(image)
	if err != nil {
		return nil, err
	}
	// Where the image begins in the file: a page, for loaders that map it.
	const start = 0x1000
	// The segment's virtual address is the kernel's own mapping of it.
	const mapping = 0xffffffff80000000
	header := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Entry: uint64(entry), Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2,
	}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS64)
	header.Ident[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	header.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	length := uint64(len(image))
	segments := []elf.Prog64{
		{
			Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W | elf.PF_X), Off: start,
			Vaddr: mapping + loadAddress, Paddr: loadAddress, Filesz: length, Memsz: length, Align: start,
		},
		{
			Type: uint32(elf.PT_NOTE), Flags: uint32(elf.PF_R), Off: start + note,
			Paddr: loadAddress + note, Filesz: size, Memsz: size, Align: 4,
		},
	}
	var file bytes.Buffer
	file.Grow(start + len(image))
	// Writes to a Buffer don't fail, and these types have a fixed size.
	_ = binary.Write(&file, binary.LittleEndian, header)
	_ = binary.Write(&file, binary.LittleEndian, segments)
	file.Write(make([]byte, start-file.Len()))
	file.Write(image)
	return file.Bytes(), nil
}

// pvhNote finds the note with the entry point in an image: where it is, how many
// bytes it has, and what it says. A note is a name's length, its data's length
// and a type, each of 32 bits, then the name and the data.
func pvhNote(image []byte) (at, size uint64, entry uint32, err error) {
	const (
		headerSize = 12
		phys32     = 18 // XEN_ELFNOTE_PHYS32_ENTRY
	)
	owner := []byte("Xen\x00")
	for from := headerSize; ; {
		i := bytes.Index(image[min(from, len(image)):], owner)
		if i < 0 {
			return 0, 0, 0, errors.New("its kernel has no PVH entry point")
		}
		name := from + i
		from = name + 1
		h, data := image[name-headerSize:name], image[name+len(owner):]
		nameSize, dataSize := binary.LittleEndian.Uint32(h), binary.LittleEndian.Uint32(h[4:])
		if nameSize != uint32(len(owner)) || binary.LittleEndian.Uint32(h[8:]) != phys32 {
			continue
		}
		if dataSize < 4 || dataSize > 8 || len(data) < 8 {
			continue
		}
		entry = binary.LittleEndian.Uint32(data)
		if entry < loadAddress || uint64(entry) >= loadAddress+uint64(len(image)) {
			continue
		}
		return uint64(name - headerSize), headerSize + uint64(len(owner)) + uint64(dataSize), entry, nil
	}
}
