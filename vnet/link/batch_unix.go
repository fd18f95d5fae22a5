//go:build linux || darwin

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

// batches returns how datagrams are read and sent: many by one system call, and
// one by one from when the system says that it has no such call.
func batches(f *os.File, d *datagram, cfg Config) (frameReader, recordSender, error) {
	single, err := newSingleReader(f, d, cfg)
	if err != nil {
		return nil, nil, err
	}
	r := &batchReader{raw: d.raw, drops: &d.drops, merge: coalescer{off: cfg.KeepSegments}, want: minBatch, receive: receiveBatch, single: single}
	r.call = r.fill
	for i := range r.messages {
		r.messages[i].set(r.iovecs[i][:])
	}
	return r, &batchSender{transmit: sendBatch}, nil
}

// noBatches reports whether an error of a system call for many datagrams means that
// there is none, for this kind of socket. macOS's calls are not promised to anybody.
func noBatches(errno syscall.Errno) bool {
	return errno == unix.ENOSYS || errno == unix.EOPNOTSUPP || errno == unix.EINVAL || errno == unix.EPERM
}

// A batchReader reads many datagrams by one system call. It belongs to its link's
// reader.
type batchReader struct {
	raw     syscall.RawConn
	drops   *drops
	receive func(fd uintptr, messages []batchMessage) (int, syscall.Errno) // receiveBatch, but in tests
	single  *packetReader                                                  // for when there is no such call
	alone   bool                                                           // there is none

	frames []Frame // of the current call
	merge  coalescer
	err    error
	want   int                   // datagrams to ask for
	call   func(fd uintptr) bool // made once, since it would be allocated at each use

	messages [batchLen]batchMessage
	iovecs   [batchLen][2]unix.Iovec
	spills   [batchLen][smallSpill]byte
	spill    []byte // for a frame with little memory; made when first needed
}

func (r *batchReader) read(frames []Frame) (int, error) {
	if r.alone {
		return r.single.read(frames)
	}
	r.frames, r.err = frames, nil
	r.merge.begin(frames)
	err := r.raw.Read(r.call)
	r.frames = nil // the caller's
	if n := r.merge.end(); n > 0 {
		return n, nil // an error comes again
	}
	if r.alone { // as of now
		return r.single.read(frames)
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
		got, errno := r.receive(fd, r.messages[:asked])
		switch {
		case errno == 0:
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			return r.merge.n > 0
		case noBatches(errno):
			r.alone = true
			return true
		default:
			r.err = errno
			return true
		}
		r.take(got)
		if got < asked {
			r.want = max(got, minBatch)
			return r.merge.n > 0 // that was all
		}
		r.want = min(2*asked, batchLen)
	}
	return true
}

// prepare lays the memory of frames out for a batch and returns for how many
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

// take makes frames of the n datagrams that were put into the memory behind
// those that are taken.
func (r *batchReader) take(n int) {
	first := r.merge.n
	for i := range n {
		f := Frame{Data: r.frames[first+i].Data}
		spill := r.spills[i][:]
		if cap(f.Data) < MaxFrame+1-smallSpill {
			spill = r.spill
		}
		if f.take(r.messages[i].received(), spill) {
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

// A batchSender sends many datagrams by one system call. It belongs to the owner of
// the outbox's file.
type batchSender struct {
	transmit func(fd uintptr, messages []batchMessage) (int, syscall.Errno) // sendBatch, but in tests
	alone    bool                                                           // there is no such call
	messages [batchLen]batchMessage
	iovecs   [maxPieces]unix.Iovec
}

func (s *batchSender) send(fd int, t *train) (int, error) {
	if s.alone {
		return oneByOne{}.send(fd, t)
	}
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
		s.messages[i].set(s.iovecs[first:next])
	}
	defer clear(s.iovecs[:next]) // the pieces are not ours
	for {
		sent, errno := s.transmit(uintptr(fd), s.messages[:n])
		switch {
		case errno == 0:
			return sent, nil
		case errno == unix.EINTR:
		case noBatches(errno):
			s.alone = true
			return oneByOne{}.send(fd, t)
		default:
			return 0, errno
		}
	}
}
