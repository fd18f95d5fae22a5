package sdk

import (
	"os"

	"golang.org/x/term"
)

// isTerminal reports whether f is a terminal. It may be nil.
func isTerminal(f *os.File) bool {
	is := false
	withFD(f, func(fd int) { is = term.IsTerminal(fd) })
	return is
}

// terminalSize returns the size of a terminal, 24 by 80 if it doesn't know.
func terminalSize(f *os.File) (rows, cols uint16) {
	rows, cols = 24, 80
	withFD(f, func(fd int) {
		if w, h, err := term.GetSize(fd); err == nil && w > 0 && h > 0 {
			rows, cols = uint16(min(h, 1<<16-1)), uint16(min(w, 1<<16-1))
		}
	})
	return rows, cols
}

// makeRaw makes a terminal pass on every key. The function that it returns undoes
// that.
func makeRaw(f *os.File) (restore func(), err error) {
	var old *term.State
	withFD(f, func(fd int) { old, err = term.MakeRaw(fd) })
	if err != nil {
		return nil, err
	}
	return func() {
		withFD(f, func(fd int) { _ = term.Restore(fd, old) }) // a terminal that is gone has no state
	}, nil
}

// withFD calls do with f's descriptor, without making f blocking, as Fd would.
// It doesn't if f is nil or closed.
func withFD(f *os.File, do func(fd int)) {
	if f == nil {
		return
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { do(int(fd)) })
}

// Per platform:
//
//	// followSize tells resize the size of the terminal f whenever that has
//	// changed, until the function that it returns is called.
//	func followSize(ctx context.Context, f *os.File, resize func(ctx context.Context, rows, cols uint16) error) (stop func())
//
//	// newStoppableReader returns a reader of f whose Read can be ended.
//	func newStoppableReader(f *os.File) (*stoppableReader, error)
//
//	// awaitEither waits until one of two descriptors can be read, and reports
//	// whether stop can. Only where there is poll(2), or select(2).
//	func awaitEither(input, stop int) (stopped bool, err error)
//
// A stoppableReader's Read returns errStopped from stop on. Where a platform
// can't end a read, as on Windows, one that waits stays behind, and takes what
// comes next. close follows the last Read and frees what the reader holds, but
// not f.
