//go:build linux || darwin

package link

import (
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A packetReader reads frames from a file that gives one by each read, until it
// has no more or the batch is full. It belongs to its link's reader.
type packetReader struct {
	raw    syscall.RawConn
	drops  *drops
	header []byte     // what precedes a frame; empty on formats without
	merge  *coalescer // nil if frames stay as they come

	frames []Frame // of the current call
	n      int     // how many of them are read
	err    error
	call   func(fd uintptr) bool // made once, since it would be allocated at each use
	look   func(fd uintptr)      // likewise
	iov    [3][]byte
	spill  []byte // what does not fit in a frame's memory; made when first needed
}

func newPacketReader(f *os.File, headerLen int, d *drops) (*packetReader, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	r := &packetReader{raw: raw, drops: d, header: make([]byte, headerLen)}
	r.call = r.fill
	r.look = func(fd uintptr) { r.fill(fd) }
	return r, nil
}

// read reads at least one frame, waiting for it. After an error there are none.
func (r *packetReader) read(frames []Frame) (int, error) {
	r.begin(frames)
	return r.end(r.raw.Read(r.call))
}

// ready is read without the wait: it may read none.
func (r *packetReader) ready(frames []Frame) (int, error) {
	r.begin(frames)
	return r.end(r.raw.Control(r.look))
}

func (r *packetReader) begin(frames []Frame) {
	r.frames, r.n, r.err = frames, 0, nil
	if r.merge != nil {
		r.merge.begin(frames)
	}
}

func (r *packetReader) end(err error) (int, error) {
	r.frames = nil // the caller's
	if r.merge != nil {
		r.merge.end()
	}
	if r.n > 0 {
		return r.n, nil // an error comes again
	}
	if err == nil {
		err = r.err
	}
	return 0, err
}

// fill is called by Go's poller, and again when there is something to read if it
// returned false.
func (r *packetReader) fill(fd uintptr) bool {
	for r.n < len(r.frames) {
		ok, err := r.readFrame(int(fd), &r.frames[r.n])
		switch {
		case err == unix.EAGAIN:
			return r.n > 0
		case err != nil:
			r.err = err
			return true
		case ok && r.merge != nil:
			r.merge.add(r.frames[r.n].Data)
			r.n = r.merge.n
		case ok:
			r.n++
		}
	}
	return true
}

// readFrame reads one frame and reports whether it is good.
func (r *packetReader) readFrame(fd int, f *Frame) (bool, error) {
	data := f.Data[:cap(f.Data)]
	// One byte more than the largest frame shows a larger one.
	missing := max(MaxFrame+1-len(data), 0)
	if missing > len(r.spill) {
		r.spill = make([]byte, missing)
	}
	r.iov = [...][]byte{r.header, data, r.spill[:missing]}
	n, err := unix.Readv(fd, r.iov[:])
	r.iov[1] = nil // the caller's
	switch {
	case err == unix.EINTR:
		return false, nil
	case err != nil:
		return false, err
	case n == 0 && len(r.header) > 0:
		return false, io.EOF // a frame has its header, so this is a socket's end
	case n < len(r.header):
		return false, fmt.Errorf("%w: %d bytes instead of a header", ErrMalformed, n)
	}
	f.Offload = Offload{}
	if len(r.header) > 0 {
		f.Offload = parseHeader(r.header)
	}
	if !f.take(n-len(r.header), r.spill) {
		r.drops.oversize.Add(1)
		return false, nil
	}
	return true, nil
}

// take makes f the frame of n bytes that begins in the memory of f.Data and
// goes on in spill. It reports false, and takes nothing, if n is too large.
func (f *Frame) take(n int, spill []byte) bool {
	if n > MaxFrame {
		return false
	}
	room := cap(f.Data)
	f.Data = f.Data[:min(n, room)]
	if n > room {
		f.Data = append(f.Data, spill[:n-room]...)
	}
	return true
}
