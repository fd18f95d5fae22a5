//go:build linux || darwin

package link

import (
	"io"
	"net"
	"os"
	"syscall"
)

// A vectorWriter writes many pieces by one system call that never waits. Each
// platform has:
//
//	// newVectorWriter returns a writer to conn; nil if conn has no descriptor.
//	func newVectorWriter(conn io.Writer) *vectorWriter
//
//	// write writes pieces, at most maxPieces, and returns how many bytes were
//	// taken: all on a packet file, maybe fewer on a stream. It returns errFull
//	// if there is no room. It allocates nothing, but see vector_darwin.go.
//	func (v *vectorWriter) write(pieces [][]byte) (int, error)
//
// A vectorWriter serves one goroutine at a time; a file may have many.

// rawConn returns the descriptor of conn; nil if it has none that we may use.
// Types from elsewhere are not asked: theirs may put something between.
func rawConn(conn io.Writer) syscall.RawConn {
	var raw syscall.RawConn
	var err error
	switch c := conn.(type) {
	case *os.File:
		raw, err = c.SyscallConn()
	case *net.UnixConn:
		raw, err = c.SyscallConn()
	case *net.TCPConn:
		raw, err = c.SyscallConn()
	}
	if err != nil {
		return nil
	}
	return raw
}
