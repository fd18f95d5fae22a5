package sdk

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"

	"github.com/pkg/sftp"

	"github.com/sluicenet/sluice/internal/control"
)

// An FsReadStream reads a file of the guest piece by piece. It is for one
// goroutine. The caller must Close it.
type FsReadStream struct {
	fs      *SandboxFSOps
	path    string
	session *session
	file    *sftp.File
	closed  atomic.Bool
}

// ReadStream opens a file. ctx governs the opening only.
func (f *SandboxFSOps) ReadStream(ctx context.Context, p string) (*FsReadStream, error) {
	session, file, err := f.openFile(ctx, "read", p, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return &FsReadStream{fs: f, path: p, session: session, file: file}, nil
}

// openFile opens a file in a session of its own, which no context ends.
func (f *SandboxFSOps) openFile(ctx context.Context, verb, p string, flags int) (*session, *sftp.File, error) {
	session, err := f.open(ctx, verb, p)
	if err != nil {
		return nil, nil, err
	}
	file, err := session.OpenFile(p, flags)
	if err == nil && !session.release() { // ctx has just ended it
		err = control.Cause(ctx)
	}
	if err != nil {
		session.close()
		return nil, nil, f.failure(ctx, verb, p, err)
	}
	return session, file, nil
}

// chunk is how much Recv asks for, in bytes: one request of SFTP.
const chunk = 32 << 10

// Recv returns the next piece, nil behind the last. When ctx ends first, the
// stream is of no more use.
func (r *FsReadStream) Recv(ctx context.Context) ([]byte, error) {
	var p []byte
	err := r.within(ctx, func() error {
		buf := make([]byte, chunk)
		n, err := io.ReadFull(r.file, buf)
		p = buf[:n]
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		return err
	})
	if err != nil || len(p) == 0 {
		return nil, err
	}
	return p, nil
}

// WriteTo copies what is left to w. It implements [io.WriterTo].
func (r *FsReadStream) WriteTo(w io.Writer) (int64, error) {
	return r.CopyTo(context.Background(), w) // w, or the sandbox's end, ends it
}

// CopyTo copies what is left to w. When ctx ends first, the stream is of no more
// use.
func (r *FsReadStream) CopyTo(ctx context.Context, w io.Writer) (n int64, err error) {
	err = r.within(ctx, func() error {
		n, err = r.file.WriteTo(w)
		return err
	})
	return n, err
}

// within calls read, and ends the session if ctx ends meanwhile.
func (r *FsReadStream) within(ctx context.Context, read func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = r.session.Close() })
	defer stop()
	err := read()
	if err != nil && r.closed.Load() {
		err = errStreamClosed()
	}
	return r.fs.failure(ctx, "read", r.path, err)
}

// errStreamClosed is the error of what comes after a stream's Close.
func errStreamClosed() error {
	return &Error{Kind: ErrInvalidHandle, Message: "the stream was closed", Cause: net.ErrClosed}
}

// Close closes the file. It is idempotent.
func (r *FsReadStream) Close() error {
	r.closed.Store(true)
	r.session.close() // with the file
	return nil
}

// An FsWriteStream writes a file of the guest piece by piece. It is for one
// goroutine. The caller must Close it.
type FsWriteStream struct {
	fs      *SandboxFSOps
	path    string
	session *session
	file    *sftp.File
	closed  bool
}

var _ io.Writer = (*FsWriteStream)(nil)

// WriteStream makes a file, or empties one that is there. ctx governs the opening
// only.
func (f *SandboxFSOps) WriteStream(ctx context.Context, p string) (*FsWriteStream, error) {
	session, file, err := f.openFile(ctx, "write", p, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return nil, err
	}
	return &FsWriteStream{fs: f, path: p, session: session, file: file}, nil
}

// Write implements [io.Writer].
func (w *FsWriteStream) Write(p []byte) (int, error) {
	if w.closed {
		return 0, w.fs.failure(context.Background(), "write", w.path, errStreamClosed())
	}
	n, err := w.file.Write(p)
	return n, w.fs.failure(context.Background(), "write", w.path, err)
}

// WriteCtx writes all of p. When ctx ends first, the stream is of no more use.
func (w *FsWriteStream) WriteCtx(ctx context.Context, p []byte) error {
	if w.closed {
		return w.fs.failure(ctx, "write", w.path, errStreamClosed())
	}
	stop := context.AfterFunc(ctx, func() { _ = w.session.Close() })
	defer stop()
	_, err := w.file.Write(p)
	return w.fs.failure(ctx, "write", w.path, err)
}

// Close closes the file and returns when the guest has confirmed that. It is
// idempotent.
func (w *FsWriteStream) Close(ctx context.Context) error {
	if w.closed {
		return nil
	}
	w.closed = true
	stop := context.AfterFunc(ctx, func() { _ = w.session.Close() })
	defer stop()
	err := w.file.Close()
	w.session.close()
	return w.fs.failure(ctx, "close", w.path, err)
}
