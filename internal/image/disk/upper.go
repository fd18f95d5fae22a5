package disk

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
)

// Upper makes an empty ext4 file system of sizeMiB, rounded up to whole groups of
// 128 MiB, in a new file at path: what a guest writes over its image goes there.
// It has a journal, so that what was written survives a guest that is killed. The
// file is sparse: it takes the host's disk only what is written to it. It fails if
// path exists, and leaves nothing then.
func Upper(path string, sizeMiB uint32) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	groups := max((uint64(sizeMiB)<<20+groupSize-1)/groupSize, 1)
	err = newExt4(groups).write(f)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("make ext4 file system: %w", err)
	}
	return nil
}

// An ext4 is an empty file system:
// https://docs.kernel.org/filesystems/ext4/
//
//	group 0:  superblock | descriptors | bitmaps | inodes | journal | / | lost+found
//	others:   bitmaps | inodes
//
// All but what is in use of group 0 is left to the file's holes: the descriptors
// say of the other groups that their bitmaps and inodes were never written.
// There is one superblock; its copies are for a repair that nobody makes.
type ext4 struct {
	groups      uint64
	descriptors uint64 // blocks of descriptors
}

// newExt4 returns one of so many groups.
func newExt4(groups uint64) ext4 {
	return ext4{groups: groups, descriptors: (groups*descriptorSize + blockSize - 1) / blockSize}
}

const (
	blockSize      = 4096
	groupBlocks    = 8 * blockSize // as many as a bitmap has bits
	groupSize      = groupBlocks * blockSize
	inodeSize      = 256
	groupInodes    = 8192 // one for 16 KiB, as mke2fs has it
	inodeBlocks    = groupInodes * inodeSize / blockSize
	descriptorSize = 32
	journalBlocks  = 4096 // 16 MiB
	bitmapBlocks   = 2    // of blocks, of inodes

	rootInode, journalInode, lostInode = 2, 8, 11 // of which 11 is the first that is free
)

// Where things are in group 0, in blocks.
func (e ext4) bitmaps() uint64 { return 1 + e.descriptors }
func (e ext4) journal() uint64 { return e.bitmaps() + bitmapBlocks + inodeBlocks }
func (e ext4) root() uint64    { return e.journal() + journalBlocks }
func (e ext4) lost() uint64    { return e.root() + 1 }
func (e ext4) used() uint64    { return e.lost() + 1 }

// write writes the file system.
func (e ext4) write(f *os.File) error {
	if e.groups*groupBlocks > math.MaxUint32 { // blocks' numbers have 32 bits
		return fmt.Errorf("%d GiB are too many", e.groups*groupSize>>30)
	}
	if err := f.Truncate(int64(e.groups) * groupSize); err != nil {
		return err
	}
	inodes := e.bitmaps() + bitmapBlocks
	for _, part := range []struct {
		at   uint64 // bytes
		text []byte
	}{
		{1024, e.superblock()},
		{blockSize, e.groupDescriptors()},
		{e.bitmaps() * blockSize, bitmap(e.used(), groupBlocks)},
		{(e.bitmaps() + 1) * blockSize, bitmap(lostInode, groupInodes)},
		{inodes*blockSize + (rootInode-1)*inodeSize, inode(0o040755, 3, e.root(), 1)},
		{inodes*blockSize + (journalInode-1)*inodeSize, inode(0o100600, 1, e.journal(), journalBlocks)},
		{inodes*blockSize + (lostInode-1)*inodeSize, inode(0o040700, 2, e.lost(), 1)},
		{e.journal() * blockSize, journalSuperblock()},
		{e.root() * blockSize, directory(rootInode, rootInode, lostInode)},
		{e.lost() * blockSize, directory(lostInode, rootInode, 0)},
	} {
		if _, err := f.WriteAt(part.text, int64(part.at)); err != nil {
			return err
		}
	}
	return nil
}

// volume is the file system's UUID. Nothing looks for it; it must not be zero.
var volume = [16]byte{0x73, 0x6c, 0x75, 0x69, 0x63, 0x65, 0x40, 0x00, 0x80, 0x00, 0x75, 0x70, 0x70, 0x65, 0x72, 0x01}

// Features, by the names that mke2fs has for them.
const (
	hasJournal, extAttr, sparseSuper2                   = 0x4, 0x8, 0x200            // compatible
	filetype, extents                                   = 0x2, 0x40                  // incompatible
	largeFile, hugeFile, uninitBG, dirNlink, extraIsize = 0x2, 0x8, 0x10, 0x20, 0x40 // for writing
)

// superblock returns it, the 1024 bytes at 1024.
func (e ext4) superblock() []byte {
	b := make([]byte, 1024)
	for _, f := range []struct{ at, value int }{
		{0x00, int(e.groups) * groupInodes}, // inodes
		{0x04, int(e.groups) * groupBlocks}, // blocks
		{0x0c, int(e.freeBlocks())},
		{0x10, int(e.groups)*groupInodes - lostInode}, // free inodes
		{0x18, 2}, {0x1c, 2}, // blocks and clusters of 1024 << 2 bytes
		{0x20, groupBlocks}, {0x24, groupBlocks}, {0x28, groupInodes},
		{0x4c, 1},         // revision
		{0x54, lostInode}, // the first inode that isn't reserved
		{0x5c, hasJournal | extAttr | sparseSuper2},
		{0x60, filetype | extents},
		{0x64, largeFile | hugeFile | uninitBG | dirNlink | extraIsize},
		{0xe0, journalInode},
	} {
		binary.LittleEndian.PutUint32(b[f.at:], uint32(f.value))
	}
	for _, f := range []struct{ at, value uint16 }{
		{0x36, 0xffff}, // mounts until a check: never
		{0x38, 0xef53}, // magic
		{0x3a, 1},      // clean
		{0x3c, 1},      // on errors, continue
		{0x58, inodeSize},
		{0x15c, 32}, {0x15e, 32}, // extra bytes that inodes have at least, and should have
	} {
		binary.LittleEndian.PutUint16(b[f.at:], f.value)
	}
	copy(b[0x68:], volume[:])
	return b
}

// freeBlocks returns how many blocks nothing is in.
func (e ext4) freeBlocks() uint64 {
	return e.groups*groupBlocks - e.used() - (e.groups-1)*(bitmapBlocks+inodeBlocks)
}

// groupDescriptors returns the groups' descriptors.
func (e ext4) groupDescriptors() []byte {
	const (
		inodesUninit, blocksUninit, inodesZeroed = 1, 2, 4
	)
	b := make([]byte, e.groups*descriptorSize)
	for g := range e.groups {
		d := b[g*descriptorSize:][:descriptorSize]
		bitmaps, free, freeInodes, unused, dirs := g*groupBlocks, uint64(groupBlocks-bitmapBlocks-inodeBlocks), groupInodes, groupInodes, 0
		flags := inodesUninit | blocksUninit | inodesZeroed
		if g == 0 {
			bitmaps, free, freeInodes, unused, dirs = e.bitmaps(), groupBlocks-e.used(), groupInodes-lostInode, groupInodes-lostInode, 2
			flags = inodesZeroed
		}
		binary.LittleEndian.PutUint32(d, uint32(bitmaps))
		binary.LittleEndian.PutUint32(d[4:], uint32(bitmaps+1))
		binary.LittleEndian.PutUint32(d[8:], uint32(bitmaps+bitmapBlocks))
		binary.LittleEndian.PutUint16(d[0xc:], uint16(free))
		binary.LittleEndian.PutUint16(d[0xe:], uint16(freeInodes))
		binary.LittleEndian.PutUint16(d[0x10:], uint16(dirs))
		binary.LittleEndian.PutUint16(d[0x12:], uint16(flags))
		binary.LittleEndian.PutUint16(d[0x1c:], uint16(unused))
		binary.LittleEndian.PutUint16(d[0x1e:], descriptorSum(uint32(g), d[:0x1e]))
	}
	return b
}

// descriptorSum returns a descriptor's checksum, CRC-16 of the volume, the group's
// number and the descriptor.
func descriptorSum(group uint32, descriptor []byte) uint16 {
	sum := crc16(0xffff, volume[:])
	sum = crc16(sum, binary.LittleEndian.AppendUint32(nil, group))
	return crc16(sum, descriptor)
}

// crc16 is the reflected CRC with the polynomial 0x8005.
func crc16(sum uint16, b []byte) uint16 {
	for _, c := range b {
		sum ^= uint16(c)
		for range 8 {
			carry := sum & 1
			sum >>= 1
			if carry != 0 {
				sum ^= 0xa001
			}
		}
	}
	return sum
}

// bitmap returns a block of bits, of which the first used are set, and those from
// size on, which mean nothing.
func bitmap(used, size uint64) []byte {
	b := make([]byte, blockSize)
	for i := range uint64(8 * blockSize) {
		if i < used || i >= size {
			b[i/8] |= 1 << (i % 8)
		}
	}
	return b
}

// inode returns an inode of root's with so many blocks from start on.
func inode(mode, links uint16, start, blocks uint64) []byte {
	const usesExtents = 0x80000
	b := make([]byte, inodeSize)
	binary.LittleEndian.PutUint16(b, mode)
	binary.LittleEndian.PutUint32(b[0x4:], uint32(blocks*blockSize))
	binary.LittleEndian.PutUint16(b[0x1a:], links)
	binary.LittleEndian.PutUint32(b[0x1c:], uint32(blocks*blockSize/512))
	binary.LittleEndian.PutUint32(b[0x20:], usesExtents)
	// A tree of extents: its head, for one of at most four, and that one.
	for i, n := range []uint16{0xf30a, 1, 4, 0} {
		binary.LittleEndian.PutUint16(b[0x28+2*i:], n)
	}
	binary.LittleEndian.PutUint16(b[0x38:], uint16(blocks))
	binary.LittleEndian.PutUint32(b[0x3c:], uint32(start))
	binary.LittleEndian.PutUint16(b[0x80:], 32) // bytes of the inode's second part
	return b
}

// directory returns the block of a directory that has nothing but, unless it is 0,
// lost+found.
func directory(self, parent, lost uint32) []byte {
	const isDirectory = 2
	b := make([]byte, blockSize)
	entry := func(at, length int, inode uint32, name string) {
		binary.LittleEndian.PutUint32(b[at:], inode)
		binary.LittleEndian.PutUint16(b[at+4:], uint16(length))
		b[at+6], b[at+7] = byte(len(name)), isDirectory
		copy(b[at+8:], name)
	}
	entry(0, 12, self, ".")
	if lost == 0 {
		entry(12, blockSize-12, parent, "..")
	} else {
		entry(12, 12, parent, "..")
		entry(24, blockSize-24, lost, "lost+found")
	}
	return b
}

// journalSuperblock returns the first block of a journal with nothing in it. Its
// numbers are big-endian.
func journalSuperblock() []byte {
	b := make([]byte, blockSize)
	for i, n := range []uint32{
		0xc03b3998, 4, 0, // magic, superblock of version 2
		blockSize, journalBlocks, 1, // the log's first block
		1, 0, // the first transaction's number, and where it is: nowhere
	} {
		binary.BigEndian.PutUint32(b[4*i:], n)
	}
	copy(b[0x30:], volume[:])
	binary.BigEndian.PutUint32(b[0x40:], 1) // file systems that use it
	return b
}
