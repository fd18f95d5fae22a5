//go:build linux || darwin

package link

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// retryRoom is how long the flusher rests when the system has no memory for a
// datagram (ENOBUFS), since no event tells when it has some. On macOS that is
// what a full buffer of the other end looks like.
const retryRoom = 100 * time.Microsecond

// A datagram is a link over a socket that carries one frame per datagram. See
// Datagram.
//
// The socket's buffer is the queue; the outbox takes what comes while it is
// full. On Linux such a socket does not tell when its other end is closed: the
// next write does, and ends the reader too.
type datagram struct {
	end
	drops
	file *os.File
	raw  syscall.RawConn
	in   frameReader // owned by the reader
	out  outbox

	// Owned by the owner of out's file:
	send    recordSender
	records train                 // of writeSome
	current *train                // of the calls below
	n       int                   // records sent by them
	err     error                 // theirs
	once    func(fd uintptr)      // sends without waiting; made once, since it would be allocated at each use
	until   func(fd uintptr) bool // sends when there is room
}

// A frameReader reads at least one frame, waiting for it, and as many as are
// there. After an error there are none.
type frameReader interface {
	read(frames []Frame) (int, error)
}

// A recordSender sends the first records of t through fd, each as a datagram,
// without waiting, and returns how many. An error is that of the first.
type recordSender interface {
	send(fd int, t *train) (int, error)
}

var (
	_ Link        = (*datagram)(nil)
	_ DropCounter = (*datagram)(nil)
	_ sink        = (*datagram)(nil)
)

func openDatagram(f *os.File, cfg Config) (Link, error) {
	f, err := adopt(f)
	if err != nil {
		return nil, err
	}
	d, err := newDatagram(f, cfg)
	if err == nil {
		d.in, d.send, err = batches(f, d, cfg)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	d.out.start()
	return d, nil
}

// newDatagram returns the link over f without what the platform adds, not yet
// started.
func newDatagram(f *os.File, cfg Config) (*datagram, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var kind int
	var kindErr error
	err = raw.Control(func(fd uintptr) {
		kind, kindErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TYPE)
	})
	if err = errors.Join(err, kindErr); err != nil {
		return nil, fmt.Errorf("get type of socket: %w", err)
	}
	if kind != unix.SOCK_DGRAM {
		return nil, errors.New("not a datagram socket")
	}
	d := &datagram{file: f, raw: raw}
	d.once = func(fd uintptr) { d.n, d.err = d.send.send(int(fd), d.current) }
	d.until = func(fd uintptr) bool {
		d.once(fd)
		return d.err != unix.EAGAIN
	}
	d.out = outbox{sink: d, limit: cfg.queueBytes(), drops: &d.drops, fail: func(cause error) error {
		return d.fail(f, "write frames", cause)
	}}
	return d, nil
}

// ReadFrames implements Link.
func (d *datagram) ReadFrames(frames []Frame) (int, error) {
	if err := d.end.err(); err != nil || len(frames) == 0 {
		return 0, err
	}
	n, err := d.in.read(frames)
	if err != nil {
		return 0, d.fail(d.file, "read frames", err)
	}
	return n, nil
}

// WriteFrames implements Link.
func (d *datagram) WriteFrames(frames []Frame) (int, error) {
	if err := d.end.err(); err != nil {
		return 0, err
	}
	if err := d.out.write(frames); err != nil {
		return 0, err
	}
	return len(frames), nil
}

// writeTrain implements sink.
func (d *datagram) writeTrain(t *train) error { return d.write(t, false) }

// tryRecords implements sink.
func (d *datagram) tryRecords(records []byte) (int, error) {
	written := 0
	for written < len(records) {
		n, err := d.writeSome(records[written:], false)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// waitRecords implements sink.
func (d *datagram) waitRecords(records []byte) (int, error) {
	return d.writeSome(records, true)
}

// writeSome writes as many of the records as a train holds, and returns how many
// bytes that is.
func (d *datagram) writeSome(records []byte, wait bool) (int, error) {
	d.records.loadRecords(records)
	defer d.records.reset()
	err := d.write(&d.records, wait)
	return d.records.bytesWritten(), err
}

// write sends the records of t. Unless wait is set it stops with errFull where
// it would have to wait.
func (d *datagram) write(t *train, wait bool) error {
	d.current = t
	for !t.written() {
		var err error
		if wait {
			err = d.raw.Write(d.until)
		} else {
			err = d.raw.Control(d.once)
		}
		if err != nil {
			return err
		}
		t.skip(d.n)
		switch d.err {
		case nil:
		case unix.EAGAIN:
			return errFull
		case unix.ENOBUFS, unix.ENOMEM:
			if !wait {
				return errFull
			}
			d.rest()
		case unix.EMSGSIZE:
			d.refused.Add(1)
			t.skip(1)
		default:
			return d.err
		}
	}
	return nil
}

// rest waits for retryRoom, or for Close.
func (d *datagram) rest() {
	timer := time.NewTimer(retryRoom)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-d.out.quit:
	}
}

// Close implements Link.
func (d *datagram) Close() error {
	err := d.close(d.file)
	d.out.close()
	return err
}

// newSingleReader is a frameReader that makes one system call per datagram.
func newSingleReader(f *os.File, d *datagram, cfg Config) (*packetReader, error) {
	r, err := newPacketReader(f, 0, &d.drops)
	if err != nil {
		return nil, err
	}
	r.merge = &coalescer{off: cfg.KeepSegments}
	return r, nil
}

// oneByOne is a recordSender that makes one system call per datagram.
type oneByOne struct{}

func (oneByOne) send(fd int, t *train) (int, error) {
	for i := t.record; i < len(t.ends); i++ {
		pieces := t.pieces[t.start(i):t.ends[i]]
		length := pieces[0]
		pieces[0] = length[lengthLen:] // that is for streams
		_, err := unix.Writev(fd, pieces)
		pieces[0] = length
		if err == unix.EINTR {
			i--
		} else if err != nil {
			if i > t.record {
				err = nil // it comes again
			}
			return i - t.record, err
		}
	}
	return len(t.ends) - t.record, nil
}
