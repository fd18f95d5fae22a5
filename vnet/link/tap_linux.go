package link

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A tap is a link over a TAP descriptor. See TAP.
//
// Its writers do not meet: the kernel takes each frame by one system call, from
// any number of threads. Go's poller knows the descriptor only where ReadFrames is
// used: it would be woken by every frame, and who waits with ReadReady is woken by
// the kernel.
type tap struct {
	end
	drops
	file    *os.File      // unknown to Go's poller
	in      *packetReader // over file; owned by the reader
	writers sync.Pool     // of *tapWriter

	mu      sync.Mutex    // guards the following fields
	polled  *os.File      // the same, known to the poller; nil until ReadFrames
	waiting *packetReader // over polled; used by the reader
}

var (
	_ Kernel      = (*tap)(nil)
	_ DropCounter = (*tap)(nil)
)

// openTAP returns the link over f: a TAP, or a packet socket whose other end
// speaks the same format.
func openTAP(f *os.File, _ Config) (Link, error) {
	defer f.Close()
	f, err := duplicate(f, false)
	if err != nil {
		return nil, err
	}
	t := &tap{file: f}
	t.writers.New = func() any { return &tapWriter{vec: newVectorWriter(f)} }
	if t.in, err = newPacketReader(f, TAPHeaderLen, &t.drops); err == nil {
		var checkErr error
		err = t.Control(func(fd uintptr) { checkErr = checkTAP(int(fd)) })
		err = errors.Join(err, checkErr)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return t, nil
}

// checkTAP returns an error unless fd speaks the format: with a header of another
// length, or none, every frame would be read at the wrong place.
func checkTAP(fd int) error {
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err == nil {
		if kind != unix.SOCK_SEQPACKET { // datagrams don't tell that the other end is gone
			return errors.New("socket that isn't of sequenced packets")
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
	if n != TAPHeaderLen {
		return fmt.Errorf("tap has a header of %d bytes, but needs %d", n, TAPHeaderLen)
	}
	// Little-endian also where the machine isn't.
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1); err != nil {
		return fmt.Errorf("set byte order of the tap's header: %w", err)
	}
	return nil
}

// ReadFrames implements Link.
func (t *tap) ReadFrames(frames []Frame) (int, error) {
	if err := t.err(); err != nil || len(frames) == 0 {
		return 0, err
	}
	in, err := t.waiter()
	n := 0
	if err == nil {
		n, err = in.read(frames)
	}
	if err != nil {
		return 0, t.mark("read frames", cardError(err))
	}
	return n, nil
}

// waiter returns a reader that can wait.
func (t *tap) waiter() (*packetReader, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting != nil {
		return t.waiting, nil
	}
	f, err := duplicate(t.file, true)
	if err != nil {
		return nil, err
	}
	if t.waiting, err = newPacketReader(f, TAPHeaderLen, &t.drops); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	t.polled = f
	return t.waiting, nil
}

// ReadReady implements [Kernel].
func (t *tap) ReadReady(frames []Frame) (int, error) {
	if err := t.err(); err != nil || len(frames) == 0 {
		return 0, err
	}
	n, err := t.in.ready(frames)
	if err != nil {
		return 0, t.mark("read frames", cardError(err))
	}
	return n, nil
}

// Control implements [Kernel].
func (t *tap) Control(f func(fd uintptr)) error { return t.in.raw.Control(f) }

// WriteFrames implements Link.
func (t *tap) WriteFrames(frames []Frame) (int, error) {
	if err := t.err(); err != nil {
		return 0, err
	}
	w := t.writers.Get().(*tapWriter)
	defer t.writers.Put(w)
	for i := range frames {
		if err := w.write(&frames[i], &t.drops); err != nil {
			return i, t.mark("write frames", cardError(err)) // the reader hears of it from the card
		}
	}
	return len(frames), nil
}

// A tapWriter is what one call of WriteFrames needs.
type tapWriter struct {
	vec    *vectorWriter
	header [TAPHeaderLen]byte
	pieces [][]byte
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
	case errFull, unix.ENOBUFS, unix.ENOMEM:
		d.noRoom.Add(1)
	case unix.EIO, unix.EINVAL, unix.EMSGSIZE:
		// EIO: the card is down, as it is before the guest sets it up. EINVAL:
		// this kernel does not know the offload, or there are too many pieces.
		d.refused.Add(1)
	default:
		return err
	}
	return nil
}

// cardError returns err, or io.EOF if it says that the card is gone: deleted, or
// its namespace ended.
func cardError(err error) error {
	if err == unix.EBADFD {
		return io.EOF
	}
	return err
}

// Close implements Link.
func (t *tap) Close() error { return t.close(tapFiles{t}) }

// tapFiles closes a tap's files.
type tapFiles struct{ t *tap }

// Close implements io.Closer.
func (f tapFiles) Close() error {
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	if f.t.polled == nil {
		return f.t.file.Close()
	}
	return errors.Join(f.t.file.Close(), f.t.polled.Close())
}
