package kernel

import (
	"bytes"
	"debug/elf"
	"debug/macho"
	"encoding/binary"
	"io"
	"strings"
	"testing"
)

// entryPoint is where a test's kernel is entered.
const entryPoint = loadAddress + 0x123

// note returns an ELF note.
func note(owner string, kind uint32, data []byte) []byte {
	var b bytes.Buffer
	for _, n := range []uint32{uint32(len(owner)), uint32(len(data)), kind} {
		binary.Write(&b, binary.LittleEndian, n)
	}
	b.WriteString(owner)
	b.Write(data)
	return append(b.Bytes(), make([]byte, 8)...)
}

// address returns a note's data.
func address(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }

// bundleImage returns a kernel as libkrunfw has it, with notes that mislead.
func bundleImage() []byte {
	image := bytes.Repeat([]byte{0x90}, 0x2000)
	at := 0x400
	for _, n := range [][]byte{
		[]byte("just Xen\x00 in a text"),
		note("Xen\x00", 6, []byte("linux\x00\x00\x00")),
		note("Xen\x00", 18, address(1)), // before the image
		note("Xen\x00", 18, address(entryPoint)),
	} {
		copy(image[at:], n)
		at += 0x40
	}
	return image
}

// library returns a shared library as libkrunfw is one: with one segment, a
// symbol in it that is image, and the tables that lead there.
func library(image []byte) []byte {
	const (
		tables = 0x200  // in the file
		data   = 0x1000 // in the file
		base   = 0x20000
	)
	names := "\x00" + bundleSymbol + "\x00"
	var symbols bytes.Buffer
	binary.Write(&symbols, binary.LittleEndian, elf.Sym64{})
	binary.Write(&symbols, binary.LittleEndian, elf.Sym64{
		Name: 1, Info: byte(elf.STB_GLOBAL)<<4 | byte(elf.STT_OBJECT), Shndx: 1, Value: base, Size: uint64(len(image)),
	})
	sectionNames := "\x00.dynsym\x00.dynstr\x00"
	namesAt := uint64(tables + symbols.Len())
	sectionNamesAt := namesAt + uint64(len(names))
	sectionsAt := uint64(0x400)
	h := elf.Header64{
		Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: 64, Shoff: sectionsAt,
		Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64, Shnum: 4, Shstrndx: 3,
	}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, h)
	binary.Write(&b, binary.LittleEndian, elf.Prog64{
		Type: uint32(elf.PT_LOAD), Off: data, Vaddr: base, Paddr: base, Filesz: uint64(len(image)), Memsz: uint64(len(image)),
	})
	b.Write(make([]byte, tables-b.Len()))
	b.Write(symbols.Bytes())
	b.WriteString(names + sectionNames)
	b.Write(make([]byte, int(sectionsAt)-b.Len()))
	for _, s := range []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_DYNSYM), Off: tables, Size: uint64(symbols.Len()), Link: 2, Info: 1, Entsize: 24},
		{Name: 9, Type: uint32(elf.SHT_STRTAB), Off: namesAt, Size: uint64(len(names))},
		{Name: 9, Type: uint32(elf.SHT_STRTAB), Off: sectionNamesAt, Size: uint64(len(sectionNames))},
	} {
		binary.Write(&b, binary.LittleEndian, s)
	}
	b.Write(make([]byte, data-b.Len()))
	b.Write(image)
	return b.Bytes()
}

// The library's kernel becomes an executable that is entered by its PVH note.
func TestBundleToELF(t *testing.T) {
	t.Parallel()
	image := bundleImage()
	b, err := readBundle(bytes.NewReader(library(image)), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	text, err := b.bootable("amd64")
	if err != nil {
		t.Fatal(err)
	}
	file, err := elf.NewFile(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if file.Type != elf.ET_EXEC || file.Machine != elf.EM_X86_64 || file.Entry != entryPoint || len(file.Progs) != 2 {
		t.Errorf("made %+v with %d segments", file.FileHeader, len(file.Progs))
	}
	load, pvh := file.Progs[0], file.Progs[1]
	if load.Type != elf.PT_LOAD || load.Paddr != loadAddress {
		t.Errorf("first segment is %+v", load.ProgHeader)
	}
	if got, err := io.ReadAll(load.Open()); err != nil || !bytes.Equal(got, image) {
		t.Errorf("the segment has %d bytes, %v; want the image", len(got), err)
	}
	want := note("Xen\x00", 18, address(entryPoint))
	want = want[:len(want)-8]
	if got, err := io.ReadAll(pvh.Open()); err != nil || pvh.Type != elf.PT_NOTE || !bytes.Equal(got, want) {
		t.Errorf("the note is % x, %v; want % x", got, err, want)
	}
}

// On arm64 the bundle is an Image, which has a header.
func TestBundleOnARM(t *testing.T) {
	t.Parallel()
	text := library([]byte("image"))
	binary.LittleEndian.PutUint16(text[18:], uint16(elf.EM_AARCH64))
	b, err := readBundle(bytes.NewReader(text), "arm64")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.bootable("arm64"); err != nil || string(got) != "image" {
		t.Errorf("bootable = %q, %v", got, err)
	}
}

func TestBundleRefused(t *testing.T) {
	t.Parallel()
	good := library(bundleImage())
	change := func(change func([]byte)) []byte {
		b := bytes.Clone(good)
		change(b)
		return b
	}
	const symbolSize = 0x200 + 24 + 16
	for _, row := range []struct {
		name string
		file []byte
		says string
	}{
		{"not ELF", []byte("#!/bin/sh"), "it is not libkrunfw"},
		{"executable", change(func(b []byte) { b[16] = byte(elf.ET_EXEC) }), "it is not libkrunfw"},
		{"other symbol", bytes.Replace(good, []byte(bundleSymbol), []byte("KERNEL_BUNGLE"), 1), "it is not libkrunfw"},
		{"other processor", change(func(b []byte) { b[18] = byte(elf.EM_AARCH64) }), "not for amd64"},
		{"empty", change(func(b []byte) { binary.LittleEndian.PutUint64(b[symbolSize:], 0) }), "0 bytes"},
		{"huge", change(func(b []byte) { binary.LittleEndian.PutUint64(b[symbolSize:], 1<<40) }), "beyond its end"},
		{"cut off", good[:len(good)-1], "unexpected EOF"},
		{"beyond its segment", change(func(b []byte) { binary.LittleEndian.PutUint64(b[symbolSize:], 0x2001) }), "beyond its end"},
		{"no entry", library(bytes.Repeat([]byte{1}, 0x1000)), "no PVH entry point"},
		{"note at the very end", library(append(make([]byte, 0x1000), note("Xen\x00", 18, nil)[:16]...)), "no PVH entry point"},
		{"name at the very beginning", library([]byte("Xen\x00")), "no PVH entry point"},
	} {
		b, err := readBundle(bytes.NewReader(row.file), "amd64")
		if err == nil {
			_, err = b.bootable("amd64")
		}
		if err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v; want an error that says %q", row.name, err, row.says)
		}
	}
}

// machO returns libkrunfw as macOS has it: a library for arm64 with one section,
// the kernel in it, and another symbol behind it.
func machO(image []byte) []byte {
	const (
		data = 0x1000 // in the file
		base = 0x8000
	)
	names := "\x00_" + bundleSymbol + "\x00_behind\x00"
	var b bytes.Buffer
	write := func(fields ...any) {
		for _, f := range fields {
			binary.Write(&b, binary.LittleEndian, f)
		}
	}
	name := func(s string) (n [16]byte) {
		copy(n[:], s)
		return n
	}
	const segmentSize, symbolsSize = 72 + 80, 24
	write(uint32(0xfeedfacf), uint32(macho.CpuArm64), uint32(0), uint32(macho.TypeDylib), uint32(2), uint32(segmentSize+symbolsSize), uint32(0), uint32(0))
	size := uint64(len(image) + 16)
	write(uint32(macho.LoadCmdSegment64), uint32(segmentSize), name("__DATA"), uint64(base), size, uint64(data), size, uint32(3), uint32(3), uint32(1), uint32(0))
	write(name("__data"), name("__DATA"), uint64(base), size, uint32(data), [7]uint32{})
	symbolsAt := uint32(b.Len() + symbolsSize)
	write(uint32(macho.LoadCmdSymtab), uint32(symbolsSize), symbolsAt, uint32(2), symbolsAt+32, uint32(len(names)))
	write(uint32(1), uint8(0xf), uint8(1), uint16(0), uint64(base))
	write(uint32(len(bundleSymbol)+3), uint8(0xf), uint8(1), uint16(0), uint64(base+len(image)))
	b.WriteString(names)
	b.Write(make([]byte, data-b.Len()))
	b.Write(image)
	b.Write(make([]byte, 16))
	return b.Bytes()
}

func TestBundleOnMacOS(t *testing.T) {
	t.Parallel()
	good := machO([]byte("an Image for arm64"))
	b, err := readBundle(bytes.NewReader(good), "arm64")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.bootable("arm64"); err != nil || string(got) != "an Image for arm64" {
		t.Errorf("bootable = %q, %v", got, err)
	}
	for _, row := range []struct {
		name, arch string
		file       []byte
		says       string
	}{
		{"other processor", "amd64", good, "not for amd64"},
		{"other symbol", "arm64", bytes.Replace(good, []byte(bundleSymbol), []byte("KERNEL_BUNGLE"), 1), "it is not libkrunfw"},
		{"cut off", "arm64", good[:0x1004], "unexpected EOF"},
	} {
		b, err := readBundle(bytes.NewReader(row.file), row.arch)
		if err == nil {
			_, err = b.bootable(row.arch)
		}
		if err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v; want an error that says %q", row.name, err, row.says)
		}
	}
}

// Whatever the image has, a note that is found lies in it.
func FuzzPVHNote(f *testing.F) {
	f.Add(bundleImage())
	f.Add(note("Xen\x00", 18, nil))
	f.Fuzz(func(t *testing.T, image []byte) {
		at, size, entry, err := pvhNote(image)
		if err == nil && (at+size > uint64(len(image)) || entry < loadAddress || uint64(entry) >= loadAddress+uint64(len(image))) {
			t.Errorf("note of %d bytes at %d with entry %#x, in an image of %d bytes", size, at, entry, len(image))
		}
	})
}
