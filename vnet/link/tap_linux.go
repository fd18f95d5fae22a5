package link

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A tap is a link over a TAP descriptor. See TAP.
//
// Its writers do not meet: the kernel takes each frame by one system call, from
// any number of threads.
type tap struct {
	end
	drops
	file    *os.File
	raw     syscall.RawConn
	writers sync.Pool // of *tapWriter
	reader  tapReader // owned by the reader
}

var (
	_ Link        = (*tap)(nil)
	_ DropCounter = (*tap)(nil)
)

// openTAP returns the link over f: a TAP, or a packet socket whose other end
// speaks the same format.
func openTAP(f *os.File, _ Config) (Link, error) {
	f, err := adopt(f)
	if err != nil {
		return nil, err
	}
	raw, err := f.SyscallConn()
	if err == nil {
		var checkErr error
		err = raw.Control(func(fd uintptr) { checkErr = checkTAP(int(fd)) })
		err = errors.Join(err, checkErr)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	t := &tap{file: f, raw: raw}
	t.writers.New = func() any { return &tapWriter{vec: newVectorWriter(f)} }
	t.reader.call = t.reader.read
	t.reader.drops = &t.drops
	return t, nil
}

// checkTAP returns an error unless fd speaks the format: with a header of another
// length, or none, every frame would be read at the wrong place.
func checkTAP(fd int) error {
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err == nil {
		if kind != unix.SOCK_DGRAM && kind != unix.SOCK_SEQPACKET {
			return errors.New("socket without message boundaries")
		}
		return nil
	}
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); err != nil {
		return fmt.Errorf("get the card of a tap: %w", err)
	}
	const want = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR
	if flags := ifr.Uint16(); flags&want != want {
		return fmt.Errorf("tap has flags %#x, but needs IFF_TAP, IFF_NO_PI and IFF_VNET_HDR", flags)
	}
	n, err := unix.IoctlGetInt(fd, unix.TUNGETVNETHDRSZ)
	if err != nil {
		return fmt.Errorf("get header length of the tap: %w", err)
	}
	if n != HeaderLen {
		return fmt.Errorf("tap has a header of %d bytes, but needs %d", n, HeaderLen)
	}
	// Little-endian also where the machine isn't.
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1); err != nil {
		return fmt.Errorf("set byte order of the tap's header: %w", err)
	}
	return nil
}

// ReadFrames implements Link.
func (t *tap) ReadFrames(frames []Frame) (int, error) {
	if err := t.err(); err != nil {
		return 0, err
	}
	if len(frames) == 0 {
		return 0, nil
	}
	r := &t.reader
	r.frames, r.n, r.err = frames, 0, nil
	err := t.raw.Read(r.call)
	r.frames = nil // the caller's
	if r.n > 0 {
		return r.n, nil // an error comes again
	}
	if err == nil {
		err = r.err
	}
	return 0, t.fail(t.file, "read frames", err)
}

// A tapReader reads frames until the file has no more, or the batch is full.
type tapReader struct {
	drops  *drops
	frames []Frame // of the current call
	n      int     // how many of them are read
	err    error
	call   func(fd uintptr) bool // made once, since it would be allocated at each use
	header [HeaderLen]byte
	iov    [3][]byte
	spill  []byte // what does not fit in a frame's memory; made when first needed
}

// read is called by Go's poller, again when there is something to read if it
// returned false.
func (r *tapReader) read(fd uintptr) bool {
	for r.n < len(r.frames) {
		ok, err := r.readFrame(int(fd), &r.frames[r.n])
		switch {
		case err == unix.EAGAIN:
			return r.n > 0
		case err != nil:
			r.err = err
			return true
		case ok:
			r.n++
		}
	}
	return true
}

// readFrame reads one frame and reports whether it is good.
func (r *tapReader) readFrame(fd int, f *Frame) (bool, error) {
	data := f.Data[:cap(f.Data)]
	// One byte more than the largest frame shows a larger one.
	missing := max(MaxFrame+1-len(data), 0)
	if missing > len(r.spill) {
		r.spill = make([]byte, missing)
	}
	r.iov = [...][]byte{r.header[:], data, r.spill[:missing]}
	n, err := unix.Readv(fd, r.iov[:])
	r.iov[1] = nil // the caller's
	switch n -= HeaderLen; {
	case err == unix.EINTR:
		return false, nil
	case err == unix.EBADFD:
		return false, unix.EPIPE // the card is gone
	case err != nil:
		return false, err
	case n == -HeaderLen:
		return false, unix.EPIPE // only a socket's end reads as nothing
	case n < 0:
		return false, fmt.Errorf("%w: %d bytes instead of a header", ErrMalformed, n+HeaderLen)
	case n > MaxFrame:
		r.drops.oversize.Add(1)
		return false, nil
	}
	f.Offload = parseHeader(r.header[:])
	f.Data = data[:min(n, len(data))]
	if n > len(data) {
		f.Data = append(f.Data, r.spill[:n-len(data)]...)
	}
	return true, nil
}

// A tapWriter is what one call of WriteFrames needs.
type tapWriter struct {
	vec    *vectorWriter
	header [HeaderLen]byte
	pieces [][]byte
}

// WriteFrames implements Link.
func (t *tap) WriteFrames(frames []Frame) (int, error) {
	if err := t.err(); err != nil {
		return 0, err
	}
	w := t.writers.Get().(*tapWriter)
	defer t.writers.Put(w)
	for i := range frames {
		if err := w.write(&frames[i], &t.drops); err != nil {
			return i, t.fail(t.file, "write frames", err)
		}
	}
	return len(frames), nil
}

// write writes one frame. An error ends the link.
func (w *tapWriter) write(f *Frame, d *drops) error {
	if n := frameLen(f); n < etherLen || n > MaxFrame {
		d.unfit.Add(1)
		return nil
	}
	putHeader(w.header[:], f)
	w.pieces = append(w.pieces[:0], w.header[:], f.Data)
	w.pieces = append(w.pieces, f.More...)
	_, err := w.vec.write(w.pieces)
	clear(w.pieces)
	switch err {
	case nil:
	case errFull, unix.ENOBUFS:
		d.noRoom.Add(1)
	case unix.EIO, unix.EINVAL, unix.EMSGSIZE, unix.ENOMEM:
		// EIO: the card is down, as it is before the guest sets it up. EINVAL:
		// this kernel does not know the offload, or there are too many pieces.
		d.refused.Add(1)
	case unix.EBADFD:
		return unix.EPIPE // the card is gone
	default:
		return err
	}
	return nil
}

// Close implements Link.
func (t *tap) Close() error { return t.close(t.file) }
