package link

import (
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// vectorWriter; see vector.go.
type vectorWriter struct {
	raw    syscall.RawConn
	pieces [][]byte
	call   func(fd uintptr) // made once, since it would be allocated at each use
	n      int
	err    error
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
	v.pieces = pieces
	err := v.raw.Control(v.call)
	v.pieces = nil // not ours
	switch {
	case err != nil:
		return 0, err
	case v.err == unix.EAGAIN:
		return 0, errFull
	case v.err != nil:
		return 0, v.err
	}
	return v.n, nil
}

// writev is one system call. It allocates for more than eight pieces: macOS has
// no system calls but those of its C library, and that list is made there.
func (v *vectorWriter) writev(fd uintptr) {
	for {
		v.n, v.err = unix.Writev(int(fd), v.pieces)
		if v.err != unix.EINTR {
			return
		}
	}
}
