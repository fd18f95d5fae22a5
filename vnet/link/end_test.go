package link

import (
	"errors"
	"io"
	"net"
	"testing"
)

// A countedCloser counts how often it is closed.
type countedCloser struct {
	n   int
	err error
}

func (c *countedCloser) Close() error {
	c.n++
	return c.err
}

// TestEnd checks which reason stays: the first, until the owner closes.
func TestEnd(t *testing.T) {
	t.Parallel()
	var e end
	file := &countedCloser{err: errors.New("disk full")}
	if err := e.err(); err != nil {
		t.Errorf("alive: %v", err)
	}
	first := e.fail(file, "read frames", ErrMalformed)
	if !errors.Is(first, ErrMalformed) || e.fail(file, "write frames", io.EOF) != first || e.err() != first {
		t.Errorf("reasons %v, then %v; want the first", first, e.err())
	}
	for range 2 {
		if err := e.close(file); err != file.err {
			t.Errorf("close = %v, want what the file's gave", err)
		}
		if err := e.err(); !errors.Is(err, net.ErrClosed) || errors.Is(err, ErrMalformed) {
			t.Errorf("closed: %v", err)
		}
	}
	if err := e.fail(file, "read frames", io.EOF); !errors.Is(err, net.ErrClosed) {
		t.Errorf("fail after close = %v", err)
	}
	if file.n != 1 {
		t.Errorf("the file was closed %d times", file.n)
	}
}

func TestEndText(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		cause error
		want  string
		eof   bool
	}{
		{io.EOF, "read frames: EOF", true},
		{io.ErrUnexpectedEOF, "read frames: EOF (unexpected EOF)", true},
		{io.ErrClosedPipe, "read frames: EOF (io: read/write on closed pipe)", true},
		{errors.New("input/output error"), "read frames: input/output error", false},
	} {
		err := new(end).fail(new(countedCloser), "read frames", tt.cause)
		if err.Error() != tt.want || errors.Is(err, io.EOF) != tt.eof {
			t.Errorf("%v became %v, EOF %v; want %s, %v", tt.cause, err, errors.Is(err, io.EOF), tt.want, tt.eof)
		}
	}
}
