package link

import (
	"io"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// vectorWriter; see vector.go.
type vectorWriter struct {
	raw  syscall.RawConn
	iov  []unix.Iovec
	call func(fd uintptr) // made once, since it would be allocated at each use
	n    int
	err  syscall.Errno
}

func newVectorWriter(conn io.Writer) *vectorWriter {
	raw := rawConn(conn)
	if raw == nil {
		return nil
	}
	v := &vectorWriter{raw: raw}
	v.call = v.writev
	return v
}

func (v *vectorWriter) write(pieces [][]byte) (int, error) {
	v.iov = v.iov[:0]
	for _, b := range pieces {
		if len(b) > 0 {
			v.iov = append(v.iov, unix.Iovec{Base: unsafe.SliceData(b)})
			v.iov[len(v.iov)-1].SetLen(len(b))
		}
	}
	if len(v.iov) == 0 {
		return 0, nil
	}
	err := v.raw.Control(v.call)
	clear(v.iov) // the pieces are not ours
	switch {
	case err != nil:
		return 0, err
	case v.err == unix.EAGAIN:
		return 0, errFull
	case v.err != 0:
		return 0, v.err
	}
	return v.n, nil
}

// writev is one system call.
func (v *vectorWriter) writev(fd uintptr) {
	for {
		n, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&v.iov[0])), uintptr(len(v.iov)))
		if errno != unix.EINTR {
			v.n, v.err = int(n), errno
			return
		}
	}
}
