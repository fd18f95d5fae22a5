package qemu

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestLastLines(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		text string
		n    int
		want string
	}{
		{"", 2, ""},
		{"one\n", 2, "one"},
		{"one\ntwo\r\nthree", 2, "two; three"},
		{"one\n\n  \n\n", 2, "one"},
		{"\x1b[31mred\x1b[0m\a", 1, "[31mred[0m"},
		{"\xff\xfebytes", 1, "bytes"},
		{strings.Repeat("x", 1000), 1, strings.Repeat("x", 300)},
		{"[1.0] Kernel panic - not syncing: no init\n[1.1] CPU: 0\n[1.2] trace\n", 2, "[1.0] Kernel panic - not syncing: no init"},
	} {
		var o output
		o.drain(iotest.OneByteReader(strings.NewReader(row.text)))
		if got := o.lastLines(row.n); got != row.want {
			t.Errorf("lastLines of %q = %q; want %q", row.text, got, row.want)
		}
	}
}

// However much comes, so much is kept, and all is passed on until somebody fails.
func TestOutputIsBounded(t *testing.T) {
	t.Parallel()
	also := new(failing)
	o := output{also: also}
	o.drain(io.LimitReader(strings.NewReader(strings.Repeat("0123456789abcdef", 1<<16)), 1<<20))
	if len(o.tail) > 2*tailSize || len(o.tail) < tailSize {
		t.Errorf("%d bytes are kept", len(o.tail))
	}
	if also.calls != 2 {
		t.Errorf("a writer that failed was called %d times", also.calls)
	}
}

// A failing writer fails the second time.
type failing struct{ calls int }

func (f *failing) Write(b []byte) (int, error) {
	if f.calls++; f.calls > 1 {
		return 0, errors.New("full")
	}
	return len(b), nil
}
