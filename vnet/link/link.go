// Package link carries Ethernet frames between a guest's network card and
// sluice.
//
// [Open] turns the file that a hypervisor hands over, and its [Format], into a
// [Link]. Every Link looks like a card with segmentation offload: what is
// written, and what is read, may be a TCP segment of up to 64 KiB whose checksum
// is partial. A TAP exchanges those with the guest's kernel by means of the
// 12-byte virtio-net header. For the formats without a header the work is done
// here: towards the guest frames are cut and checksums completed, and of what
// comes from it those segments are verified and merged that belong together.
//
// What it will not do: look at a frame's meaning. Frames that are read are the
// guest's word, lengths aside; package vnet's guard judges them.
//
// # Theory of operation
//
// Towards us each format reads as many frames as one wake-up finds, straight
// into the caller's memory where the format allows it, and merges them there.
// Towards the guest:
//
//	WriteFrames ─► TAP: one writev per frame; the kernel's queue is the bound
//	            └► train: cut and completed in pieces, nothing copied
//	                ├─ nobody writes ─► one system call for many frames
//	                └─ else, or full ─► outbox: copied, bounded ─► flusher
//
// A writer that finds another one writing leaves a copy in the outbox and
// returns; who is writing takes it along. When the guest's buffer is full the
// flusher, one goroutine per link, waits for it, so no writer ever does. No lock
// is held across a system call.
package link

import (
	"errors"
	"fmt"
	"net"
	"os"
)

// MaxFrame is the largest Ethernet frame that any link carries, in bytes: 14
// bytes of header and an IP packet of 65535 bytes, rounded up to what libkrun
// accepts.
const MaxFrame = 65550

// A Format says how frames are laid out in a file. The zero Format is not
// valid.
type Format uint8

const (
	_ Format = iota
	// TAP is one frame per read or write, behind a 12-byte virtio-net header
	// (virtio 1.2, section 5.1.6), little-endian.
	TAP
	// Datagram is one bare frame per datagram. On Linux the socket does not tell
	// that the guest's end is gone until something is written to it.
	Datagram
	// Stream is a byte stream of frames, each behind its length as an unsigned
	// 32-bit big-endian number.
	Stream
)

// String returns the format's name in lower case.
func (f Format) String() string {
	switch f {
	case TAP:
		return "tap"
	case Datagram:
		return "datagram"
	case Stream:
		return "stream"
	}
	return fmt.Sprintf("Format(%d)", uint8(f))
}

// A GSOType says how a frame is to be cut into segments. Its values are those
// of the virtio-net header, without the ECN bit.
type GSOType uint8

const (
	GSONone  GSOType = 0
	GSOTCPv4 GSOType = 1
	GSOTCPv6 GSOType = 4
	GSOUDP   GSOType = 5 // UDP_SEGMENT: many datagrams in one frame
)

// An Offload is what a frame leaves to be done: the virtio-net header, decoded.
// The zero Offload describes an ordinary frame with complete checksums.
type Offload struct {
	// NeedsChecksum reports that the transport checksum field holds only the
	// pseudo-header's sum: the sum from ChecksumStart to the frame's end goes
	// to ChecksumStart+ChecksumOffset.
	NeedsChecksum  bool
	ChecksumStart  uint16 // bytes from the frame's first; valid iff NeedsChecksum
	ChecksumOffset uint16 // bytes from ChecksumStart; valid iff NeedsChecksum
	// ChecksumValid reports that the sender's side vouches for the checksum
	// (VIRTIO_NET_HDR_F_DATA_VALID). Only a read sets it.
	ChecksumValid bool
	GSO           GSOType
	ECN           bool   // VIRTIO_NET_HDR_GSO_ECN
	SegmentSize   uint16 // payload bytes per segment; valid iff GSO != GSONone
}

// A Frame is one Ethernet frame.
type Frame struct {
	Offload Offload
	// Data begins the frame and, after a read, is all of it.
	Data []byte
	// More continues the frame on a write, so that a sender's pieces need not
	// be copied together. A read leaves it alone.
	More [][]byte
}

// A Link reads frames from a guest's card and writes frames to it.
//
// One goroutine may read while any number write. After Close, and after the
// guest's end is gone, every call returns an error matching [net.ErrClosed] or
// [io.EOF]. A malformed stream ends the link with [ErrMalformed].
type Link interface {
	// ReadFrames waits for a frame, then reads as many as are there and fit in
	// frames, and returns their number. Frame i is put into the memory of
	// frames[i].Data up to its capacity; a frame that does not fit gets fresh
	// memory, as with append. The caller owns the memory before and after; that
	// of frames that are not returned may have been written to.
	ReadFrames(frames []Frame) (int, error)

	// WriteFrames writes the frames in order and returns how many were taken:
	// all, unless the link has ended. It never waits for the guest: a frame that
	// finds no room is dropped and counted in Dropped. The frames' memory is the
	// caller's again when it returns, and is not changed.
	WriteFrames(frames []Frame) (int, error)

	// Dropped returns how many frames towards the guest were not carried, above
	// all those that found no room. See DropCounter.
	Dropped() uint64

	// Close closes the file. It is idempotent and wakes blocked calls.
	Close() error
}

// ErrMalformed is matched by the error that ends a link whose guest broke its
// format, for example by a length above [MaxFrame].
var ErrMalformed = errors.New("malformed stream of frames")

// Open returns the link over f in the given format, with the default [Config].
// It takes ownership of f, also when it fails. TAP needs Linux, and Datagram
// Linux or macOS; elsewhere the error matches [errors.ErrUnsupported].
func Open(f *os.File, format Format) (Link, error) {
	return Config{}.Open(f, format)
}

// OpenConn returns the Stream link over c, with the default [Config]. It takes
// ownership of c.
func OpenConn(c net.Conn) Link {
	return Config{}.OpenConn(c)
}

// A Plain link wants of its writer what a card without offloads takes: frames of
// the MTU, with whole checksums. No link of this package is one; a Link from
// elsewhere may be, and so may one that measures what segmentation is worth.
type Plain interface {
	Link
	// Plain marks the type.
	Plain()
}

// A Kernel link is one whose other end is the network stack of this machine's
// kernel: it takes whole segments as fast as they are written. Who reads it may
// wait for frames and for other files at once.
type Kernel interface {
	Link
	// ReadReady is ReadFrames without the wait: where no frame is there, it returns
	// 0 and no error.
	ReadReady(frames []Frame) (int, error)
	// Control calls f with a descriptor that is readable while ReadReady has a
	// frame or an error to return. It is good until the link is closed, and f must
	// not do anything but have it watched (epoll(7), poll(2)).
	Control(f func(fd uintptr)) error
}

// Config bounds a link. Its zero value means the defaults.
type Config struct {
	// QueueBytes is how many bytes of frames may wait in our memory for a guest
	// that does not read, on Stream and Datagram links; 0 means 4 MiB, negative
	// means none. That is the window of one TCP flow of package vnet, which
	// alone then loses no frame here. A TAP has its queue in the kernel.
	QueueBytes int
	// KeepSegments gives a reader of a Stream or Datagram link the guest's TCP
	// segments as they come, instead of putting those together that one read
	// finds. On a TAP the guest's kernel does not cut them.
	KeepSegments bool
}

func (c Config) queueBytes() int {
	if c.QueueBytes == 0 {
		return 4 << 20
	}
	return max(c.QueueBytes, 0)
}

// Open is like the function [Open], bounded by c.
func (c Config) Open(f *os.File, format Format) (Link, error) {
	var open func(*os.File, Config) (Link, error)
	switch format {
	case TAP:
		open = openTAP
	case Datagram:
		open = openDatagram
	case Stream:
		open = openStream
	default:
		f.Close()
		return nil, fmt.Errorf("open link: invalid format %v", format)
	}
	l, err := open(f, c)
	if err != nil {
		return nil, fmt.Errorf("open %v link: %w", format, err)
	}
	return l, nil
}

// OpenConn is like the function [OpenConn], bounded by c.
func (c Config) OpenConn(conn net.Conn) Link {
	return newStream(conn, c)
}
