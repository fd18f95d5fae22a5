package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"regexp"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/netlab"
	"github.com/sluicenet/sluice/vnet/link"
)

// Ways to carry frames over a socket pair without virtio-net's header.
const (
	bare     = "bare socketpair" // the limit: datagrams in batches, and nobody looks at a byte
	plain    = "frame by frame"  // datagrams through us, one a call, nothing cut, nothing merged
	datagram = "datagram"        // as vz gives them, and libkrun on macOS
	stream   = "stream"          // as QEMU does, and libkrun on Linux
)

// TestLink measures the links without a header, alone and below a network.
func TestLink(t *testing.T) {
	if !*table {
		t.Skip("make bench measures")
	}
	netlab.New(t)
	netlab.Tool(t, "iperf3")
	b := bench{t: t, pattern: regexp.MustCompile(*onlyRows)}
	b.links()
	startServers(t)
	b.linkedNetworks()
	fmt.Printf("cards over a socket pair\nmedians of %d alternating rounds\n\n", *rounds)
	if err := printTable(os.Stdout, []string{bare, plain, datagram, stream}, b.rows); err != nil {
		t.Fatal(err)
	}
}

// directions are the names of those of a row.
var directions = map[bool]string{true: "host→guest", false: "guest→host"}

// links measures links alone: their other end is a loop of system calls.
func (b *bench) links() {
	for _, mtu := range []int{1500, 65520} {
		for _, toGuest := range []bool{false, true} {
			name := fmt.Sprintf("link alone, MTU %d, %s", mtu, directions[toGuest])
			if !b.pattern.MatchString(name) {
				continue
			}
			r := b.newRow(name, "Gbit/s")
			for range *rounds {
				for _, way := range []string{bare, plain, datagram, stream} {
					x, err := carry(way, mtu, toGuest, *duration/2)
					if err != nil {
						b.t.Fatalf("%s, %s: %v", name, way, err)
					}
					r.add(way, x)
				}
			}
		}
	}
}

// segmentBytes is the payload of one of the stack's segments, in bytes.
const segmentBytes = 65160

// segment returns a TCP segment as the stack sends it: to be cut to the MTU, its
// checksum left to be done.
func segment(mtu int) link.Frame {
	b := make([]byte, 54+segmentBytes)
	copy(b, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45})
	binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
	b[22], b[23] = 64, unix.IPPROTO_TCP
	copy(b[26:], []byte{172, 16, 0, 1, 172, 16, 0, 2})
	b[46], b[47] = 0x50, 0x10 // 20 bytes of header; ACK
	return link.Frame{Data: b, Offload: link.Offload{
		NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16, GSO: link.GSOTCPv4, SegmentSize: uint16(min(mtu-40, segmentBytes)),
	}}
}

// cut returns the frames of a segment as a card without offloads has them.
func cut(f link.Frame) ([][]byte, error) {
	ours, theirs, err := link.Pair(link.Datagram)
	if err != nil {
		return nil, err
	}
	out, err := link.Open(ours, link.Datagram)
	if err != nil {
		return nil, errors.Join(err, theirs.Close())
	}
	defer out.Close()
	in, err := link.Config{KeepSegments: true}.Open(theirs, link.Datagram)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if _, err := out.WriteFrames([]link.Frame{f}); err != nil {
		return nil, err
	}
	var all [][]byte
	for left := segmentBytes; left > 0; {
		frames := []link.Frame{{Data: make([]byte, 0, link.MaxFrame)}}
		if _, err := in.ReadFrames(frames); err != nil {
			return nil, err
		}
		all = append(all, frames[0].Data)
		left -= len(frames[0].Data) - 54
	}
	return all, nil
}

// A window bounds the bytes in flight, as TCP's does, so that nothing is dropped.
type window struct {
	sent     int64 // the sender's
	received atomic.Int64
	progress chan struct{} // has room for one
}

// wait waits until at most that many bytes are in flight, and reports whether the
// receiver goes on.
func (w *window) wait(most int64) bool {
	for w.sent-w.received.Load() > most {
		if _, ok := <-w.progress; !ok {
			return false
		}
	}
	return true
}

// receive notes that n bytes have arrived.
func (w *window) receive(n int) {
	w.received.Add(int64(n))
	select {
	case w.progress <- struct{}{}:
	default:
	}
}

// A flow is one way to send and one to receive. Each call moves what it can at
// once and returns the bytes of frames that it was; those of a stream with their
// lengths, which are 0.3 % at most.
type flow struct {
	send, receive func() (int, error)
	close         func() // ends a receive that waits
}

// carry sends frames one way for a while, and returns the rate of their bytes.
func carry(way string, mtu int, toGuest bool, d time.Duration) (result, error) {
	f, err := newFlow(way, mtu, toGuest)
	if err != nil {
		return result{}, err
	}
	w := &window{progress: make(chan struct{}, 1)}
	done := make(chan error, 1)
	go func() {
		for {
			n, err := f.receive()
			if err != nil || n == 0 {
				done <- err
				close(w.progress)
				return
			}
			w.receive(n)
		}
	}()
	before := ownCPU()
	start := time.Now()
	ok := true
	for ok && err == nil && time.Since(start) < d {
		var n int
		n, err = f.send()
		w.sent += int64(n)
		ok = w.wait(1 << 20)
	}
	ok = ok && w.wait(0)
	took := time.Since(start)
	f.close()
	if end := <-done; !ok { // else how it ended doesn't matter: everything has arrived
		err = errors.Join(err, fmt.Errorf("receive: %w after %d of %d bytes", end, w.received.Load(), w.sent))
	}
	return result{value: float64(w.sent) * 8 / took.Seconds() / 1e9, peer: (ownCPU() - before).Seconds()}, err
}

// ownCPU returns the CPU time of this process.
func ownCPU() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// newFlow returns the flow of a way. One end is ours, the other is a loop of system
// calls, the same for all.
func newFlow(way string, mtu int, toGuest bool) (flow, error) {
	whole := segment(mtu)
	frames, err := cut(whole)
	if err != nil {
		return flow{}, err
	}
	format := link.Datagram
	if way == stream {
		format = link.Stream
	}
	ours, guests, err := link.Pair(format)
	if err != nil {
		return flow{}, err
	}
	other := newRaw(guests, format, frames)
	if way == bare {
		mine := newRaw(ours, format, frames)
		return flow{send: other.send, receive: mine.receive, close: func() { other.close(); mine.close() }}, nil
	}
	card, err := link.Config{KeepSegments: way == plain}.Open(ours, format)
	if err != nil {
		guests.Close()
		return flow{}, err
	}
	end := func() { card.Close(); other.close() }
	if !toGuest {
		return flow{send: other.send, receive: reader(card, way), close: end}, nil
	}
	if way != plain {
		one := []link.Frame{whole}
		return flow{receive: other.receive, close: end, send: func() (int, error) {
			_, err := card.WriteFrames(one)
			return other.bytes + extra(way)*len(frames), err
		}}, nil
	}
	return flow{receive: other.receive, close: end, send: func() (n int, err error) {
		for _, b := range frames {
			if _, err := card.WriteFrames([]link.Frame{{Data: b}}); err != nil {
				return n, err
			}
			n += len(b)
		}
		return n, nil
	}}, nil
}

// extra returns what a frame needs beside its bytes.
func extra(way string) int {
	if way == stream {
		return 4
	}
	return 0
}

// reader returns the receive of a link.
func reader(card link.Link, way string) func() (int, error) {
	room := 64
	if way == plain {
		room = 1
	}
	frames := make([]link.Frame, room)
	for i := range frames {
		frames[i].Data = make([]byte, 0, link.MaxFrame)
	}
	return func() (bytes int, err error) {
		n, err := card.ReadFrames(frames)
		for i := range frames[:n] {
			f := &frames[i]
			bytes += len(f.Data) + extra(way)
			if f.Offload.GSO != link.GSONone { // the headers of those that it was merged of
				segments := (len(f.Data) - 54 + int(f.Offload.SegmentSize) - 1) / int(f.Offload.SegmentSize)
				bytes += (segments - 1) * (54 + extra(way))
			}
			f.Data = f.Data[:0]
		}
		return bytes, err
	}
}

// A raw is an end of a socket pair that is used by bare system calls.
type raw struct {
	file   *os.File
	fd     int
	stream []byte // a stream's bytes: frames behind their lengths; nil for datagrams
	bytes  int    // of the frames
	room   []byte // of a stream's reader
	out    batch
	in     batch
}

// A batch is what sendmmsg or recvmmsg takes.
type batch struct {
	messages [64]unix.Mmsghdr
	iovecs   [64]unix.Iovec
	n        int
}

// newRaw returns an end that sends frames.
func newRaw(f *os.File, format link.Format, frames [][]byte) *raw {
	r := &raw{file: f, fd: int(f.Fd())}
	_ = unix.SetNonblock(r.fd, false) // it fails for no socket
	for _, b := range frames {
		r.bytes += len(b)
		r.stream = append(binary.BigEndian.AppendUint32(r.stream, uint32(len(b))), b...)
	}
	if format == link.Stream {
		r.room = make([]byte, 256<<10)
		return r
	}
	r.stream = nil
	room := make([][]byte, 64)
	for i := range room {
		room[i] = make([]byte, len(frames[0]))
	}
	r.out.fill(frames)
	r.in.fill(room)
	return r
}

// fill gives the batch its memory.
func (b *batch) fill(memory [][]byte) {
	b.n = min(len(memory), len(b.messages))
	for i := range b.n {
		b.iovecs[i] = unix.Iovec{Base: unsafe.SliceData(memory[i])}
		b.iovecs[i].SetLen(len(memory[i]))
		b.messages[i].Hdr.Iov = &b.iovecs[i]
		b.messages[i].Hdr.SetIovlen(1)
	}
}

// call makes the system call on the messages from first on.
func (b *batch) call(trap uintptr, fd, first int, flags uintptr) (int, error) {
	for {
		n, _, errno := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(&b.messages[first])), uintptr(b.n-first), flags, 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

func (r *raw) send() (int, error) {
	if r.stream != nil {
		for left := r.stream; len(left) > 0; {
			n, err := unix.Write(r.fd, left)
			if err != nil && err != unix.EINTR {
				return 0, err
			}
			left = left[max(n, 0):]
		}
		return len(r.stream), nil
	}
	for sent := 0; sent < r.out.n; {
		n, err := r.out.call(unix.SYS_SENDMMSG, r.fd, sent, 0)
		if err != nil {
			return 0, err
		}
		sent += n
	}
	return r.bytes, nil
}

func (r *raw) receive() (int, error) {
	if r.stream != nil {
		return unix.Read(r.fd, r.room)
	}
	n, err := r.in.call(unix.SYS_RECVMMSG, r.fd, 0, unix.MSG_WAITFORONE)
	bytes := 0
	for _, m := range r.in.messages[:n] {
		bytes += int(m.Len)
	}
	return bytes, err
}

// close ends a receive that waits.
func (r *raw) close() {
	_ = unix.Shutdown(r.fd, unix.SHUT_RDWR) // the other end may be gone
	r.file.Close()
}
