package link

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batchLen is how many datagrams one system call carries at most. 64 KiB at
	// MTU 1500 are 45 of them.
	batchLen = 64
	// minBatch is how many a reader asks for when there was little: each one
	// asked for costs a few nanoseconds, also when it does not come.
	minBatch = 4
	// smallSpill is how much memory each datagram of a batch has beyond its
	// frame's. Frames with memory for all but so much of a MaxFrame are read in
	// batches; others, one by one.
	smallSpill = 64
)

// batches returns how datagrams are read and sent here: many by one system call.
func batches(_ *os.File, d *datagram, cfg Config) (frameReader, recordSender, error) {
	r := &batchReader{raw: d.raw, drops: &d.drops, merge: coalescer{off: cfg.KeepSegments}, want: minBatch}
	r.call = r.fill
	for i := range r.messages {
		r.messages[i].Hdr.Iov = &r.iovecs[i][0]
		r.messages[i].Hdr.SetIovlen(len(r.iovecs[i]))
	}
	return r, new(batchSender), nil
}

// A batchReader reads datagrams by recvmmsg. It belongs to its link's reader.
type batchReader struct {
	raw   syscall.RawConn
	drops *drops

	frames []Frame // of the current call
	merge  coalescer
	err    error
	want   int                   // datagrams to ask for
	call   func(fd uintptr) bool // made once, since it would be allocated at each use

	messages [batchLen]unix.Mmsghdr
	iovecs   [batchLen][2]unix.Iovec
	spills   [batchLen][smallSpill]byte
	spill    []byte // for a frame with little memory; made when first needed
}

func (r *batchReader) read(frames []Frame) (int, error) {
	r.frames, r.err = frames, nil
	r.merge.begin(frames)
	err := r.raw.Read(r.call)
	r.frames = nil // the caller's
	if n := r.merge.end(); n > 0 {
		return n, nil // an error comes again
	}
	if err == nil {
		err = r.err
	}
	return 0, err
}

// fill is called by Go's poller, and again when there is something to read if it
// returned false.
func (r *batchReader) fill(fd uintptr) bool {
	for !r.merge.full() {
		asked := r.prepare(r.frames[r.merge.n:])
		got, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd,
			uintptr(unsafe.Pointer(&r.messages[0])), uintptr(asked), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return r.merge.n > 0
		default:
			r.err = errno
			return true
		}
		r.take(int(got))
		if int(got) < asked {
			r.want = max(int(got), minBatch)
			return r.merge.n > 0 // that was all
		}
		r.want = min(2*asked, batchLen)
	}
	return true
}

// prepare lays the memory of frames out for recvmmsg and returns for how many
// datagrams.
func (r *batchReader) prepare(frames []Frame) int {
	n := min(len(frames), r.want)
	for i := range n {
		data, spill := frames[i].Data, r.spills[i][:]
		missing := max(MaxFrame+1-cap(data), 0)
		if missing > smallSpill {
			if i > 0 {
				return i // it comes first in the next batch
			}
			if missing > len(r.spill) {
				r.spill = make([]byte, missing)
			}
			spill, n = r.spill, 1
		}
		r.iovecs[i][0] = iovec(data[:cap(data)])
		// One byte more than the largest frame shows a larger one.
		r.iovecs[i][1] = iovec(spill[:missing])
		if n == 1 {
			break
		}
	}
	return n
}

// take makes frames of the n datagrams that recvmmsg put into the memory behind
// those that are taken.
func (r *batchReader) take(n int) {
	first := r.merge.n
	for i := range n {
		f := Frame{Data: r.frames[first+i].Data}
		spill := r.spills[i][:]
		if cap(f.Data) < MaxFrame+1-smallSpill {
			spill = r.spill
		}
		if f.take(int(r.messages[i].Len), spill) {
			r.merge.add(f.Data) // never full: at most it stays where it is
		} else {
			r.drops.oversize.Add(1)
		}
		r.iovecs[i][0] = unix.Iovec{} // the caller's
	}
}

// iovec returns the iovec of b.
func iovec(b []byte) unix.Iovec {
	v := unix.Iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	return v
}

// A batchSender sends datagrams by sendmmsg. It belongs to the owner of the
// outbox's file.
type batchSender struct {
	messages [batchLen]unix.Mmsghdr
	iovecs   [maxPieces]unix.Iovec
}

func (s *batchSender) send(fd int, t *train) (int, error) {
	n := min(len(t.ends)-t.record, batchLen)
	next := 0 // in iovecs
	for i := range n {
		pieces := t.pieces[t.start(t.record+i):t.ends[t.record+i]]
		first := next
		for j, b := range pieces {
			if j == 0 {
				b = b[lengthLen:] // that is for streams
			}
			s.iovecs[next] = iovec(b)
			next++
		}
		s.messages[i].Hdr.Iov = &s.iovecs[first]
		s.messages[i].Hdr.SetIovlen(len(pieces))
	}
	defer clear(s.iovecs[:next]) // the pieces are not ours
	for {
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd),
			uintptr(unsafe.Pointer(&s.messages[0])), uintptr(n), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(sent), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
